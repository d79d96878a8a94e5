//! An absolute-form request, one on each connection: sent on, and its answer brought back.

use std::io::{self, Cursor};
use std::sync::atomic::Ordering::Relaxed;

use tokio::io::{AsyncBufRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::destination::Destination;
use crate::forward::failure::Failure;
use crate::forward::limits::HEADERS;
use crate::forward::relay::Traffic;
use crate::forward::upstream::Connected;

use super::body::copy_body;
use super::head::{Framing, Head, HeadError, read_head};
use super::http::{RequestLine, refuse};
use super::part;

/// How the next hop wants to be asked.
pub(crate) enum Form {
    /// As a web server: a path, and the host in a header.
    Origin,
    /// As a proxy, with its credentials if it has any. Many proxies refuse CONNECT to port 80.
    Absolute {
        /// The value of Proxy-Authorization.
        authorization: Option<String>,
    },
}

/// An absolute-form request, its body still to be read.
pub(crate) struct Plain {
    pub(crate) destination: Destination,
    line: RequestLine,
    head: Head,
    client: BufReader<TcpStream>,
}

impl Plain {
    pub(super) fn new(line: RequestLine, head: Head, client: BufReader<TcpStream>) -> Self {
        Self { destination: line.destination.clone(), line, head, client }
    }

    pub(super) fn redirect(&mut self, destination: Destination) {
        self.line.destination = destination.clone();
        self.destination = destination;
    }

    /// Answers that it is not served.
    pub(crate) async fn refuse(self, failure: &Failure) -> io::Result<()> {
        refuse(self.client.into_inner(), failure).await
    }

    /// The head as the next hop wants it. No Via and no X-Forwarded-For: nobody needs to know of us.
    fn head_for(&self, form: &Form) -> Vec<u8> {
        let RequestLine { method, destination, path, version } = &self.line;
        let host = match destination {
            Destination { host, port: 80 } => host.to_string(),
            other => other.to_string(),
        };
        let target = match form {
            Form::Origin => path.clone(),
            Form::Absolute { .. } => format!("http://{host}{path}"),
        };
        let mut text = format!("{method} {target} HTTP/1.{version}\r\nHost: {host}\r\n").into_bytes();
        if let Form::Absolute { authorization: Some(authorization) } = form {
            text.extend_from_slice(format!("Proxy-Authorization: {authorization}\r\n").as_bytes());
        }
        self.head.write(&mut text);
        text
    }
}

/// An exchange that came to no good end.
pub(crate) enum Unfinished {
    /// The client has heard nothing yet.
    Unanswered(TcpStream, Failure),
    /// It has, and it sees that this is not all.
    BrokenOff(Failure),
}

/// What became of an answer.
enum Answer {
    /// It was carried to its end.
    Whole,
    /// None came; the client can still be told.
    None(Failure),
}

impl Plain {
    /// Sends the request on and brings the answer back.
    pub(crate) async fn exchange(self, upstream: Connected, form: &Form, traffic: &Traffic) -> Result<(), Unfinished> {
        let head = self.head_for(form);
        let Self { destination, line, head: Head { framing, .. }, client } = self;
        let early = client.buffer().to_vec();
        let mut client = client.into_inner();
        let outcome = {
            let (reader, mut to_client) = client.split();
            let mut from_client = BufReader::new(Cursor::new(early).chain(reader));
            let (reader, mut to_upstream) = tokio::io::split(upstream.stream);
            let mut from_upstream = BufReader::new(Cursor::new(upstream.early).chain(reader));

            let request = async {
                to_upstream.write_all(&head).await?;
                traffic.sent.fetch_add(head.len() as u64, Relaxed);
                if framing != Framing::Unsaid {
                    let count = copy_body(framing, &mut from_client, &mut to_upstream).await?;
                    traffic.sent.fetch_add(count, Relaxed);
                }
                to_upstream.flush().await
            };
            let answer = carry_answer(&line, form, &mut from_upstream, &mut to_client, traffic);
            tokio::pin!(request, answer);

            let mut sending = true;
            loop {
                tokio::select! {
                    outcome = &mut answer => break outcome,
                    sent = &mut request, if sending => match sent {
                        // The client broke its own request: an upstream must not take it for complete.
                        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) => {
                            break Err(error);
                        }
                        // An upstream that stops reading may have answered already, as with 413.
                        _ => sending = false,
                    }
                }
            }
        };
        match outcome {
            Ok(Answer::Whole) => {
                part(client).await;
                Ok(())
            }
            Ok(Answer::None(failure)) => Err(Unfinished::Unanswered(client, failure)),
            Err(error) => {
                // What broke off must not look like an end to the client.
                let _ = client.set_zero_linger();
                let what = format_args!("the exchange with {destination} broke off");
                Err(Unfinished::BrokenOff(Failure::system(what, &error)))
            }
        }
    }
}

/// Carries the answer, and interim ones before it. An error means that it broke off in its middle.
async fn carry_answer(
    line: &RequestLine,
    form: &Form,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    traffic: &Traffic,
) -> io::Result<Answer> {
    loop {
        let text = match read_head(from).await {
            Ok(text) => text,
            Err(HeadError::Closed) => return Ok(no_answer(line, "closed the connection without an answer")),
            Err(HeadError::TooLarge) => return Ok(no_answer(line, "sent an answer with too large a head")),
        };
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let parsed = response.parse(&text);
        let (Ok(httparse::Status::Complete(_)), Some(code), Some(version)) = (parsed, response.code, response.version)
        else {
            return Ok(no_answer(line, "answered something that is not HTTP"));
        };
        if code == 407 && matches!(form, Form::Absolute { .. }) {
            return Ok(Answer::None(Failure::general("the HTTP proxy wants another user and password").of_upstream()));
        }
        // Nobody asked to switch, the request's Upgrade stayed here.
        if code == 101 {
            return Ok(no_answer(line, "switched protocols unasked"));
        }
        let head = match Head::new(response.headers, version) {
            Ok(head) => head,
            Err(what) => return Ok(no_answer(line, &format!("answered with {what}"))),
        };
        let mut text = format!("HTTP/1.{version} {code} {}\r\n", response.reason.unwrap_or_default()).into_bytes();
        if code < 200 {
            // HTTP/1.0 knows no interim answers.
            if line.version > 0 {
                head.write_fields(&mut text);
                text.extend_from_slice(b"\r\n");
                to.write_all(&text).await?;
                to.flush().await?;
            }
            continue;
        }
        head.write(&mut text);
        to.write_all(&text).await?;
        traffic.received.fetch_add(text.len() as u64, Relaxed);
        if line.method != "HEAD" && !matches!(code, 204 | 304) {
            traffic.received.fetch_add(copy_body(head.framing, from, to).await?, Relaxed);
        }
        return Ok(Answer::Whole);
    }
}

fn no_answer(line: &RequestLine, what: &str) -> Answer {
    Answer::None(Failure::general(format!("{} {what}", line.destination)))
}
