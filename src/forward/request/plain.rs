//! An absolute-form request: sent on, and its answer brought back. Others may follow it by the same
//! connection, each to a host of its own; upstream each has its own connection, which nothing of
//! another request can be in.

use std::io::{self, Cursor};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, Chain, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::SetOnce;
use tokio::time::timeout;

use crate::destination::Destination;
use crate::forward::Forwarder;
use crate::forward::failure::Failure;
use crate::forward::relay::{Traffic, silence};
use crate::forward::stream::{Stream, broken};
use crate::forward::upstream::Connected;
use crate::via::Credentials;

use super::answer::{Asked, Unanswered};
use super::body::copy_body;
use super::client::{Client, vanished};
use super::head::{Fate, Framing, Head, Room};
use super::http::{RequestLine, refusal};

/// How the next hop wants to be asked.
pub(crate) enum Form {
    /// As a web server: a path, and the host in a header.
    Origin,
    /// As a proxy, with its credentials if it has any. Many proxies refuse CONNECT to port 80.
    Absolute {
        /// Where it is, for messages.
        proxy: String,
        /// The value of Proxy-Authorization.
        authorization: Option<String>,
    },
}

/// An absolute-form request, its body still to be read.
pub(crate) struct Plain {
    pub(crate) destination: Destination,
    caller: Option<Credentials>,
    line: RequestLine,
    head: Head,
    client: Client,
    /// What the head takes of the room for heads, until it has been sent.
    room: Room,
}

impl Plain {
    pub(super) fn new(line: RequestLine, head: Head, caller: Option<Credentials>, client: Client, room: Room) -> Self {
        Self { destination: line.destination.clone(), caller, line, head, client, room }
    }

    /// Who asks.
    pub(crate) fn caller(&self) -> Option<&Credentials> {
        self.caller.as_ref()
    }

    /// Returns when the client has broken off.
    pub(crate) async fn broken(&self) -> io::Error {
        broken(self.client.stream()).await
    }

    pub(super) fn redirect(&mut self, destination: Destination) {
        self.line.destination = destination.clone();
        self.destination = destination;
    }

    /// Whether it may become a tunnel, and so must not go by a proxy that would have to agree.
    pub(crate) fn is_upgrade(&self) -> bool {
        self.head.upgrade.is_some()
    }

    /// Answers that it is not served. Returns the client if the next request may follow.
    pub(crate) async fn refuse(self, failure: &Failure) -> Option<Client> {
        let Self { line, head, mut client, .. } = self;
        // A body that nobody reads stands in the way; and where there is no room, none must be kept.
        let stays = !head.closes && !head.framing.has_body() && failure.status != 503;
        let fate = if stays { Fate::Stays } else { Fate::Closes };
        let answer = refusal(failure, fate, line.method != "HEAD");
        if stays {
            client.writer.write_all(&answer).await.ok()?;
            return Some(client);
        }
        // The client may be gone already; then nothing more is owed to it.
        let _ = client.close_with(&answer).await;
        None
    }
}

/// A request's head as the next hop wants it. No Via and no X-Forwarded-For: nobody needs to know of us.
pub(super) fn head_for(line: &RequestLine, head: &Head, form: &Form) -> Vec<u8> {
    let RequestLine { method, destination, path, version } = line;
    let host = match destination {
        Destination { host, port: 80 } => host.to_string(),
        other => other.to_string(),
    };
    let target = match form {
        Form::Origin => path.clone(),
        Form::Absolute { .. } => format!("http://{host}{path}"),
    };
    let mut text = format!("{method} {target} HTTP/1.{version}\r\nHost: {host}\r\n").into_bytes();
    if let Form::Absolute { authorization: Some(authorization), .. } = form {
        text.extend_from_slice(format!("Proxy-Authorization: {authorization}\r\n").as_bytes());
    }
    head.write(&mut text, if head.upgrade.is_some() { Fate::Upgrades } else { Fate::Closes });
    text
}

/// What a client's connection is good for after an exchange.
pub(crate) enum After {
    /// Another request.
    Next(Client),
    /// Nothing: it is closed.
    Nothing,
    /// Another protocol, on which both ends agreed.
    Tunnel {
        /// The client.
        client: TcpStream,
        /// What it sent already.
        early: Vec<u8>,
        /// The other end.
        upstream: Connected,
    },
}

impl Plain {
    /// Sends the request on and brings the answer back. If there is none, the client is told why once it
    /// is reported; an answer that breaks off is seen to.
    pub(crate) async fn exchange(
        self,
        forwarder: &Forwarder,
        upstream: Connected,
        form: &Form,
        traffic: &Traffic,
    ) -> Result<After, Failure> {
        let limits = &forwarder.limits;
        let text = head_for(&self.line, &self.head, form);
        let Self { destination, caller, line, head, mut client, room } = self;
        let (framing, closes, may_switch) = (head.framing, head.closes, head.upgrade.is_some());
        let (is_head, version) = (line.method == "HEAD", line.version);
        // What came in the head may be as large as that, and an exchange lasts.
        drop((caller, line, head));
        let (reader, mut to_upstream) = tokio::io::split(upstream.stream);
        let mut from_upstream = BufReader::new(Cursor::new(upstream.early).chain(reader));
        let sent = SetOnce::new();
        let outcome = {
            let Client { reader: from_client, writer: to_client } = &mut client;
            let question = Outgoing { text, framing, room };
            let (heads, time) = (&forwarder.heads, limits.answer);
            let (destination, sent) = (&destination, &sent);
            let asked = Asked { destination, is_head, version, form, closes, may_switch, sent, time, heads };
            tokio::select! {
                outcome = asked.carry(&mut from_upstream, to_client, traffic) => outcome,
                error = question.send(from_client, &mut to_upstream, &traffic.sent, sent) => Err(error.into()),
                error = silence(traffic, limits.idle) => Err(error.into()),
            }
        };
        let broken_off =
            |error: &io::Error| Failure::system(format_args!("the exchange with {destination} broke off"), error);
        match outcome {
            Ok(Fate::Stays) => Ok(After::Next(client)),
            Ok(Fate::Closes) => {
                // The client may have closed already.
                let _ = client.close().await;
                Ok(After::Nothing)
            }
            Ok(Fate::Upgrades) => upgraded(client, from_upstream, to_upstream).map_err(|error| broken_off(&error)),
            Err(Unanswered::None(failure)) => {
                // Before the app hears of it: it may be over at once, and the launcher with it.
                forwarder.reporter.failure(&failure);
                let answer = refusal(&failure, Fate::Closes, !is_head);
                let _ = timeout(limits.handshake, client.close_with(&answer)).await;
                Err(failure)
            }
            Err(Unanswered::Broken(error)) => {
                client.break_off();
                Err(broken_off(&error))
            }
        }
    }
}

/// The upstream's side of an exchange: what came with the upstream's own answer, then the connection.
type FromUpstream = BufReader<Chain<Cursor<Vec<u8>>, ReadHalf<Stream>>>;

/// Both connections, and what has come by them beyond the agreement on another protocol.
fn upgraded(client: Client, from: FromUpstream, to: WriteHalf<Stream>) -> io::Result<After> {
    let (client, early) = client.into_parts()?;
    let unread = from.buffer().to_vec();
    let (first, reader) = from.into_inner().into_inner();
    let rest = first.get_ref().get(usize::try_from(first.position()).unwrap_or(usize::MAX)..);
    let early_answer = [&unread, rest.unwrap_or_default()].concat();
    let upstream = Connected { stream: reader.unsplit(to), early: early_answer };
    Ok(After::Tunnel { client, early, upstream })
}

/// A request on its way.
struct Outgoing {
    text: Vec<u8>,
    framing: Framing,
    room: Room,
}

impl Outgoing {
    /// Sends it, says so by `sent`, and waits for the client to go away. Returns what broke it off.
    async fn send(
        self,
        from: &mut BufReader<OwnedReadHalf>,
        to: &mut (impl AsyncWrite + Unpin),
        count: &AtomicU64,
        sent: &SetOnce<bool>,
    ) -> io::Error {
        let is_whole = match self.send_all(from, to, count).await {
            Ok(()) => true,
            // The client broke its own request: an upstream must not take it for complete.
            Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
                return error;
            }
            // An upstream that stops reading may have answered already, as with 413.
            Err(_) => false,
        };
        let _ = sent.set(is_whole);
        vanished(from).await;
        io::Error::new(io::ErrorKind::ConnectionAborted, "the client went away")
    }

    async fn send_all(
        self,
        from: &mut (impl AsyncBufRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        count: &AtomicU64,
    ) -> io::Result<()> {
        let Self { text, framing, room } = self;
        to.write_all(&text).await?;
        // A client that said `Expect: 100-continue` sends its body only if this much is answered.
        to.flush().await?;
        count.fetch_add(text.len() as u64, Relaxed);
        drop((text, room));
        if framing.has_body() {
            copy_body(framing, from, to, count).await?;
        }
        Ok(())
    }
}
