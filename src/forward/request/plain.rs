//! An absolute-form request: sent on, and its answer brought back. Others may follow it by the same
//! connection, each to a host of its own; upstream each has its own connection, which nothing of
//! another request can be in.

use std::io::{self, Cursor};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::destination::Destination;
use crate::forward::failure::Failure;
use crate::forward::limits::{HEAD_BYTES, HEADERS};
use crate::forward::relay::Traffic;
use crate::forward::upstream::Connected;
use crate::via::Credentials;

use super::body::{copy_body, copy_unframed};
use super::client::{Client, vanished};
use super::head::{Fate, Framing, Head, HeadError, read_head};
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
    pub(super) client: Client,
}

impl Plain {
    pub(super) fn new(line: RequestLine, head: Head, caller: Option<Credentials>, client: Client) -> Self {
        Self { destination: line.destination.clone(), caller, line, head, client }
    }

    /// Who asks.
    pub(crate) fn caller(&self) -> Option<&Credentials> {
        self.caller.as_ref()
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

/// What became of an answer.
enum Answer {
    /// It was carried to its end.
    Whole(Fate),
    /// None came; the client can still be told.
    None(Failure),
}

impl Plain {
    /// Sends the request on and brings the answer back. If there is none, the client is told why once it
    /// is reported; an answer that breaks off is seen to.
    pub(crate) async fn exchange(
        self,
        upstream: Connected,
        form: &Form,
        traffic: &Traffic,
        report: impl FnOnce(&Failure),
    ) -> Result<After, Failure> {
        let head = head_for(&self.line, &self.head, form);
        let Self { destination, line, head: Head { framing, closes, upgrade, .. }, mut client, .. } = self;
        let (reader, mut to_upstream) = tokio::io::split(upstream.stream);
        let mut from_upstream = BufReader::new(Cursor::new(upstream.early).chain(reader));
        let is_sent = AtomicBool::new(false);
        let outcome = {
            let Client { reader: from_client, writer: to_client, .. } = &mut client;
            let request = async {
                match send(&head, framing, from_client, &mut to_upstream, &traffic.sent).await {
                    Ok(()) => is_sent.store(true, Relaxed),
                    // The client broke its own request: an upstream must not take it for complete.
                    Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
                        return error;
                    }
                    // An upstream that stops reading may have answered already, as with 413.
                    Err(_) => {}
                }
                vanished(from_client).await;
                io::Error::new(io::ErrorKind::ConnectionAborted, "the client went away")
            };
            let asked = Asked { line: &line, form, closes, may_switch: upgrade.is_some(), is_sent: &is_sent };
            let answer = carry_answer(&asked, &mut from_upstream, to_client, traffic);
            tokio::select! {
                outcome = answer => outcome,
                error = request => Err(error),
            }
        };
        let broken_off =
            |error: &io::Error| Failure::system(format_args!("the exchange with {destination} broke off"), error);
        match outcome {
            Ok(Answer::Whole(Fate::Stays)) => Ok(After::Next(client)),
            Ok(Answer::Whole(Fate::Closes)) => {
                // The client may have closed already.
                let _ = client.close().await;
                Ok(After::Nothing)
            }
            Ok(Answer::Whole(Fate::Upgrades)) => {
                let (client, early) = client.into_parts().map_err(|error| broken_off(&error))?;
                let unread = from_upstream.buffer().to_vec();
                let (first, reader) = from_upstream.into_inner().into_inner();
                let rest = first.get_ref().get(usize::try_from(first.position()).unwrap_or(usize::MAX)..);
                let early_answer = [&unread, rest.unwrap_or_default()].concat();
                let upstream = Connected { stream: reader.unsplit(to_upstream), early: early_answer };
                Ok(After::Tunnel { client, early, upstream })
            }
            Ok(Answer::None(failure)) => {
                // Before the app hears of it: it may be over at once, and the launcher with it.
                report(&failure);
                let _ = client.close_with(&refusal(&failure, Fate::Closes, line.method != "HEAD")).await;
                Err(failure)
            }
            Err(error) => {
                client.break_off();
                Err(broken_off(&error))
            }
        }
    }
}

/// Sends a request, head and body.
async fn send(
    head: &[u8],
    framing: Framing,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> io::Result<()> {
    to.write_all(head).await?;
    // A client that said `Expect: 100-continue` sends its body only if this much is answered.
    to.flush().await?;
    count.fetch_add(head.len() as u64, Relaxed);
    if framing.has_body() {
        copy_body(framing, from, to, count).await?;
    }
    Ok(())
}

/// What an answer is measured by.
struct Asked<'a> {
    line: &'a RequestLine,
    form: &'a Form,
    closes: bool,
    may_switch: bool,
    /// The request's body has been read to its end: what follows is another request.
    is_sent: &'a AtomicBool,
}

impl Asked<'_> {
    /// Whoever was asked did `what` instead. A proxy has an answer also where the web server has none.
    fn no_answer(&self, what: &str) -> Answer {
        let destination = &self.line.destination;
        Answer::None(match self.form {
            Form::Origin => Failure::general(format!("{destination} {what}")),
            Form::Absolute { proxy, .. } => {
                Failure::general(format!("the HTTP upstream {proxy}, asked for {destination}, {what}")).of_upstream()
            }
        })
    }
}

/// Carries the answer, and interim ones before it. An error means that it broke off in its middle.
async fn carry_answer(
    asked: &Asked<'_>,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    traffic: &Traffic,
) -> io::Result<Answer> {
    let Asked { line, .. } = asked;
    let knows_chunks = line.version > 0;
    loop {
        let text = match read_head(from, HEAD_BYTES).await {
            Ok(text) => text,
            Err(HeadError::Closed) => return Ok(asked.no_answer("closed the connection without an answer")),
            Err(HeadError::TooLarge) => return Ok(asked.no_answer("sent too large a head")),
        };
        let Status { code, reason, mut head } = match Status::parse(&text) {
            Ok(status) => status,
            Err(what) => return Ok(asked.no_answer(&what)),
        };
        if code == 407 && matches!(asked.form, Form::Absolute { .. }) {
            return Ok(asked.no_answer("wants another user and password"));
        }
        // Our own version (RFC 9110 6.2): what comes is framed as we frame it.
        let mut text = format!("HTTP/1.1 {code} {reason}\r\n").into_bytes();
        match code {
            101 if asked.may_switch && head.upgrade.is_some() => {
                head.framing = Framing::Unsaid;
                head.write(&mut text, Fate::Upgrades);
                to.write_all(&text).await?;
                return Ok(Answer::Whole(Fate::Upgrades));
            }
            101 => return Ok(asked.no_answer("switched protocols unasked")),
            100..=199 => {
                // HTTP/1.0 knows no interim answers.
                if line.version > 0 {
                    head.write_fields(&mut text);
                    text.extend_from_slice(b"\r\n");
                    to.write_all(&text).await?;
                    to.flush().await?;
                }
                continue;
            }
            _ => {}
        }
        let has_body = line.method != "HEAD" && !matches!(code, 204 | 304);
        let framing = head.framing;
        // A length is a header of what HEAD and 304 speak of; with 204 it would be wrong.
        if code == 204 || framing == Framing::Chunked && !knows_chunks {
            head.framing = Framing::Unsaid;
        }
        let ends_by_itself = !has_body || head.framing != Framing::Unsaid;
        let stays = ends_by_itself && !asked.closes && asked.is_sent.load(Relaxed);
        let fate = if stays { Fate::Stays } else { Fate::Closes };
        head.write(&mut text, fate);
        to.write_all(&text).await?;
        traffic.received.fetch_add(text.len() as u64, Relaxed);
        if has_body {
            let count = &traffic.received;
            if knows_chunks {
                copy_body(framing, from, to, count).await?;
            } else {
                copy_unframed(framing, from, to, count).await?;
            }
        }
        return Ok(Answer::Whole(fate));
    }
}

/// The head of an answer.
struct Status {
    code: u16,
    reason: String,
    head: Head,
}

impl Status {
    /// An error says what the other end did instead.
    fn parse(text: &[u8]) -> Result<Self, String> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(text);
        if parsed == Err(httparse::Error::TooManyHeaders) {
            return Err(format!("answered with more than {HEADERS} headers"));
        }
        let (Ok(httparse::Status::Complete(_)), Some(code @ 100..), Some(version)) =
            (parsed, response.code, response.version)
        else {
            return Err("answered something that is not HTTP".into());
        };
        let head = Head::of_answer(response.headers, version).map_err(|what| format!("answered with {what}"))?;
        Ok(Self { code, reason: response.reason.unwrap_or_default().to_owned(), head })
    }
}
