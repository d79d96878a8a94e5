//! Through an HTTP proxy's CONNECT.

use fast_socks5::ReplyError;
use tokio::io::{AsyncWriteExt, BufReader};

use crate::destination::Destination;
use crate::forward::limits::{HEAD_BYTES, HEADERS};
use crate::forward::request::{HeadError, HeadRoom, read_head};
use crate::via::Endpoint;

use super::{Connected, Failure, Stream};

/// Asks the HTTP upstream `at`, connected by `hop`, for `destination`.
pub(super) async fn connect(
    mut hop: Stream,
    at: &Endpoint,
    authorization: Option<&str>,
    destination: &Destination,
) -> Result<Connected, Failure> {
    let broken = || {
        let message = format!("the HTTP upstream {at} closed the connection, asked to connect to {destination}");
        Failure::general(message).of_upstream()
    };
    let authorization = authorization.map_or_else(String::new, |value| format!("Proxy-Authorization: {value}\r\n"));
    let request = format!("CONNECT {destination} HTTP/1.1\r\nHost: {destination}\r\n{authorization}\r\n");
    hop.write_all(request.as_bytes()).await.map_err(|_| broken())?;
    hop.flush().await.map_err(|_| broken())?;

    let mut reader = BufReader::new(hop);
    loop {
        // Room of its own: the app has no say in how much a proxy says to this.
        let head = read_head(&mut reader, HEAD_BYTES, &HeadRoom::default()).await;
        let (head, _) = head.map_err(|error| match error {
            HeadError::Closed => broken(),
            HeadError::TooLarge | HeadError::NoRoom => {
                Failure::general(format!("the HTTP upstream {at} sent too large a head")).of_upstream()
            }
        })?;
        match status(&head) {
            // Interim answers come before the one that counts.
            Some(102..=199 | 100) => {}
            Some(200..=299) => {
                let early = reader.buffer().to_vec();
                return Ok(Connected { stream: reader.into_inner(), early });
            }
            Some(code) => return Err(declined(code, at, destination)),
            None => return Err(Failure::general(format!("the upstream {at} does not speak HTTP")).of_upstream()),
        }
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    match response.parse(head) {
        // None of them is of interest, however many there are.
        Ok(httparse::Status::Complete(_)) | Err(httparse::Error::TooManyHeaders) => response.code,
        _ => None,
    }
}

fn declined(code: u16, at: &Endpoint, destination: &Destination) -> Failure {
    if code == 407 {
        return Failure::wants_login(at);
    }
    let (reply, status) = match code {
        403 => (ReplyError::ConnectionNotAllowed, 502),
        502 | 503 => (ReplyError::HostUnreachable, 502),
        504 => (ReplyError::TtlExpired, 504),
        _ => (ReplyError::GeneralFailure, 502),
    };
    let message = format!("the HTTP upstream {at} did not connect to {destination}: it answered {code}");
    Failure { reply, status, ..Failure::general(message) }
}
