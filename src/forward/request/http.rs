//! HTTP from the app: CONNECT, and the front door of absolute-form requests.

use std::io;

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::destination::{Destination, printable};
use crate::forward::limits::HEADERS;
use crate::via::Credentials;

use super::client::Client;
use super::head::{Fate, Head, HeadError, HeadRoom, Room, read_head};
use super::plain::Plain;
use super::{Failure, NoRequest, Request, caller};

/// A CONNECT by HTTP.
pub(crate) struct Tunnel {
    pub(crate) destination: Destination,
    pub(super) caller: Option<Credentials>,
    pub(super) client: Client,
    /// What the caller, whoever it is, takes of the room for heads.
    _room: Room,
}

impl Tunnel {
    /// Answers that the connection stands.
    pub(crate) async fn grant(mut self) -> io::Result<(TcpStream, Vec<u8>)> {
        self.client.writer.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
        self.client.into_parts()
    }

    pub(super) async fn refuse(self, failure: &Failure) -> io::Result<()> {
        self.client.close_with(&refusal(failure, Fate::Closes, true)).await
    }
}

/// Reads a request, with a head of `limit` bytes at most.
pub(super) async fn read(mut client: Client, limit: usize, heads: &HeadRoom) -> Result<Request, NoRequest> {
    let failure = match read_head(&mut client.reader, limit, heads).await {
        Ok((head, room)) => match parse(&head) {
            Ok((Parsed::Connect(destination), caller)) => {
                return Ok(Request::Tunnel(Tunnel { destination, caller, client, _room: room }));
            }
            Ok((Parsed::Plain(line, head), caller)) => {
                return Ok(Request::Plain(Box::new(Plain::new(line, head, caller, client, room))));
            }
            Err(failure) => failure,
        },
        Err(HeadError::Closed) => return Err(NoRequest::Nothing),
        Err(HeadError::TooLarge) => Failure { status: 431, ..Failure::malformed("a request's head is too large") },
        Err(HeadError::NoRoom) => Failure::no_room_for_a_head(),
    };
    let _ = client.close_with(&refusal(&failure, Fate::Closes, true)).await;
    Err(NoRequest::Wrong(failure))
}

/// Tells an HTTP client why not, in words if the answer to its request has a body.
pub(super) fn refusal(failure: &Failure, fate: Fate, has_body: bool) -> Vec<u8> {
    let reason = match failure.status {
        400 => "Bad Request",
        403 => "Forbidden",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Bad Gateway",
    };
    let text = format!("appfw: {failure}\n");
    let connection = if fate == Fate::Closes { "Connection: close\r\n" } else { "" };
    let head = format!(
        "HTTP/1.1 {} {reason}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\n{connection}\r\n",
        failure.status,
        text.len(),
    );
    (if has_body { head + &text } else { head }).into_bytes()
}

/// The first line of an absolute-form request.
#[derive(Debug)]
pub(crate) struct RequestLine {
    pub(crate) method: String,
    pub(crate) destination: Destination,
    /// Path and query, as they came.
    pub(crate) path: String,
    /// The minor version, 0 or 1.
    pub(crate) version: u8,
}

#[derive(Debug)]
pub(super) enum Parsed {
    Connect(Destination),
    Plain(RequestLine, Head),
}

pub(super) fn parse(head: &[u8]) -> Result<(Parsed, Option<Credentials>), Failure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Failure::malformed("a client sent an incomplete HTTP head")),
        Err(httparse::Error::TooManyHeaders) => {
            let message = format!("a client sent more than {HEADERS} headers");
            return Err(Failure { status: 431, ..Failure::malformed(message) });
        }
        Err(error) => return Err(Failure::malformed(format!("a client sent a wrong HTTP head: {error}"))),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Failure::malformed("a client sent an incomplete HTTP head"));
    };
    let caller = caller_of(request.headers);
    if method == "CONNECT" {
        let destination = Destination::parse(target, None);
        let destination = destination.map_err(|error| Failure::malformed(format!("{error:#}")))?;
        return Ok((Parsed::Connect(destination), caller));
    }
    let (destination, path) = split_target(target)?;
    let head = Head::of_request(request.headers, version)
        .map_err(|what| Failure::malformed(format!("a request to {destination} has {what}")))?;
    Ok((Parsed::Plain(RequestLine { method: method.to_owned(), destination, path, version }, head), caller))
}

/// Who Proxy-Authorization says is asking: a user and password by Basic (RFC 7617). Whatever else it says is
/// somebody too: nobody is asked who they are, but those who say different things must not share circuits.
fn caller_of(headers: &[httparse::Header<'_>]) -> Option<Credentials> {
    let said = |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("proxy-authorization");
    let values: Vec<_> = headers.iter().filter(said).map(|header| header.value).collect();
    if let [value] = values[..]
        && let Some(known) = basic(value)
        && let Some(colon) = known.iter().position(|byte| *byte == b':')
    {
        return caller(&known[..colon], &known[colon + 1..]);
    }
    let Credentials { user, password } = caller(&values.join(&b'\n'), b"")?;
    // A character that no byte becomes: whoever has a user and a password is not called so.
    Some(Credentials { user: format!("\u{100}{user}"), password })
}

/// What is encoded in the value of a header, if it is `Basic` and can be read.
fn basic(value: &[u8]) -> Option<Vec<u8>> {
    let (scheme, encoded) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("basic").then(|| BASE64_STANDARD.decode(encoded.trim()))?.ok()
}

/// Splits `http://HOST[:PORT]/PATH`.
fn split_target(target: &str) -> Result<(Destination, String), Failure> {
    let Some((scheme, rest)) = target.split_once("://") else {
        let message = "this is a proxy: it takes requests for http://HOST/… and CONNECT HOST:PORT";
        return Err(Failure::malformed(message));
    };
    if !scheme.eq_ignore_ascii_case("http") {
        let message = format!("`{}://` is not spoken by this proxy: use CONNECT, or http://", printable(scheme));
        return Err(Failure { status: 501, ..Failure::malformed(message) });
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_user, host)| host);
    let destination = Destination::parse(host, Some(80)).map_err(|error| Failure::malformed(format!("{error:#}")))?;
    let path = path.split('#').next().unwrap_or_default();
    Ok((destination, if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn plain(head: &str) -> (RequestLine, String) {
        match parse(head.as_bytes()) {
            Ok((Parsed::Plain(line, head), _)) => {
                let mut text = Vec::new();
                head.write(&mut text, Fate::Closes);
                (line, String::from_utf8(text).unwrap())
            }
            other => panic!("{head}: {other:?}"),
        }
    }

    fn status(head: &str) -> u16 {
        parse(head.as_bytes()).expect_err(head).status
    }

    #[test]
    fn connect() {
        for (head, to) in [
            ("CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n", "example.org:443"),
            ("CONNECT irc.example:6667 HTTP/1.0\n\n", "irc.example:6667"),
            ("CONNECT 2001:67c:4e8:f002::a:443 HTTP/1.1\r\n\r\n", "[2001:67c:4e8:f002::a]:443"),
            ("CONNECT 0x7f.1:80 HTTP/1.1\r\n\r\n", "127.0.0.1:80"),
        ] {
            assert!(matches!(parse(head.as_bytes()), Ok((Parsed::Connect(d), None)) if d.to_string() == to), "{head}");
        }
        assert_eq!(status("CONNECT example.org HTTP/1.1\r\n\r\n"), 400);
    }

    #[test]
    fn targets() {
        for (target, to, path) in [
            ("http://a.example/x?y", "a.example:80", "/x?y"),
            ("HTTP://A.example.:8080", "a.example:8080", "/"),
            ("http://a?q#f", "a:80", "/?q"),
            ("http://user:pw@a/", "a:80", "/"),
            ("http://[::1]/", "[::1]:80", "/"),
            ("http://2130706433/", "127.0.0.1:80", "/"),
        ] {
            let (line, _) = plain(&format!("GET {target} HTTP/1.1\r\n\r\n"));
            assert_eq!((line.destination.to_string().as_str(), line.path.as_str()), (to, path), "{target}");
        }
        assert_eq!(status("GET ftp://a/ HTTP/1.1\r\n\r\n"), 501);
        assert_eq!(status("GET https://a/ HTTP/1.1\r\n\r\n"), 501);
        for target in ["/", "*", "a", "http:///", "http://:80/", "http://a b/", "http://a:0/", "http://a\u{1}/"] {
            assert_eq!(status(&format!("GET {target} HTTP/1.1\r\n\r\n")), 400, "{target}");
        }
    }

    #[test]
    fn what_concerns_one_hop_stays_here() {
        let (_, headers) = plain(
            "GET http://a/ HTTP/1.1\r\nHost: evil\r\nAccept: */*\r\nProxy-Authorization: Basic eA==\r\n\
             Proxy-Connection: keep-alive\r\nConnection: X-Mine, close, Content-Length\r\nX-Mine: 1\r\nTE: trailers\r\n\
             Upgrade: h2c\r\nKeep-Alive: 5\r\nContent-Length: 2\r\nX-Odd: \u{e9}\r\n\r\n",
        );
        assert_eq!(headers, "Accept: */*\r\nX-Odd: \u{e9}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n");
    }

    #[test]
    fn doubtful_framing_is_refused() {
        for headers in [
            "Content-Length: 1\r\nTransfer-Encoding: chunked",
            "Content-Length: 1\r\nContent-Length: 2",
            "Content-Length: 1, 2",
            "Content-Length: +1",
            "Content-Length: -1",
            "Content-Length: ",
            "Content-Length: 1 1",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: xchunked",
            "Transfer-Encoding : chunked",
            "X: 1\r\n folded: 2",
        ] {
            assert_eq!(status(&format!("POST http://a/ HTTP/1.1\r\n{headers}\r\n\r\n")), 400, "{headers}");
        }
        assert_eq!(status("POST http://a/ HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
        assert!(
            plain("POST http://a/ HTTP/1.1\r\nContent-Length: 5, 5\r\n\r\n").1.starts_with("Content-Length: 5\r\n")
        );
        assert!(plain("POST http://a/ HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n").1.contains("chunked"));
    }

    #[test]
    fn callers() {
        let caller = |header: &str| parse(format!("CONNECT a:1 HTTP/1.1\r\n{header}\r\n\r\n").as_bytes()).unwrap().1;
        let is = |user: &str, password: &str| Some(Credentials { user: user.into(), password: password.into() });
        assert_eq!(caller("Proxy-Authorization: Basic bWU6cDp3"), is("me", "p:w"));
        assert_eq!(caller("proxy-authorization: BASIC  bWU6"), is("me", ""));
        for none in ["X: y", "Authorization: Basic bWU6cDp3", "Proxy-Authorization:", "Proxy-Authorization: Basic Og=="]
        {
            assert_eq!(caller(none), None, "{none}");
        }
        // Whoever cannot be read is nobody else.
        let lines = [
            "Basic bWU6cDp3",
            "Basic bWU6",
            "Basic bWU6cDp3\r\nProxy-Authorization: Basic bWU6",
            "Basic bWU6\r\nProxy-Authorization: Basic bWU6cDp3",
            "Bearer bWU6cDp3",
            "Bearer bWU6",
            "Basic dTE6cDE",
            "Basic dTI6cDI",
            "Basic bWU",
            "Basic \u{e9}",
            "Basic \u{e8}",
            "Basic !",
            "Basic",
            "Digest x=\"y\"",
            // "Basic" as a user, without a password.
            "Basic QmFzaWM6",
        ];
        let callers: Vec<_> = lines.iter().map(|line| caller(&format!("Proxy-Authorization: {line}"))).collect();
        for (number, one) in callers.iter().enumerate() {
            assert!(one.is_some(), "{}", lines[number]);
            assert_eq!(callers.iter().filter(|other| *other == one).count(), 1, "{}", lines[number]);
        }
    }

    #[test]
    fn ends_and_upgrades() {
        let head = |text: &str| match parse(format!("GET http://a/ HTTP/{text}\r\n\r\n").as_bytes()) {
            Ok((Parsed::Plain(_, head), _)) => (head.closes, head.upgrade),
            other => panic!("{other:?}"),
        };
        assert_eq!(head("1.1"), (false, None));
        assert_eq!(head("1.1\r\nConnection: Close"), (true, None));
        assert_eq!(head("1.1\r\nProxy-Connection: close"), (true, None));
        assert_eq!(head("1.1\r\nProxy-Connection: Keep-Alive, Close"), (true, None));
        assert_eq!(head("1.0\r\nConnection: keep-alive"), (true, None));
        let websocket = Some("websocket".to_owned());
        assert_eq!(head("1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket"), (false, websocket));
        for not in [
            "1.0\r\nConnection: Upgrade\r\nUpgrade: websocket",
            "1.1\r\nUpgrade: websocket",
            "1.1\r\nConnection: Upgrade",
            "1.1\r\nConnection: Upgrade\r\nUpgrade: ",
            "1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x",
            "1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 1",
            "1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked",
        ] {
            assert_eq!(head(not).1, None, "{not}");
        }
    }

    #[test]
    fn too_many_headers() {
        assert_eq!(status(&format!("GET http://a/ HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(HEADERS + 1))), 431);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(head in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&head);
        }

        #[test]
        fn targets_never_panic(target in "(http://)?[a-z0-9.:@/?#\\[\\]%-]{0,40}") {
            let _ = split_target(&target);
        }
    }
}
