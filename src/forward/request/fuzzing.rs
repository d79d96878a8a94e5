//! What tests/fuzz feeds: bytes as a client could send them, up to the complete request. No part of the
//! library's interface.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::forward::limits::{HEAD_BYTES, HEADERS};
use crate::forward::udp::packet;

use super::http::{Parsed, parse};
use super::plain::{Form, head_for};
use super::{HeadRoom, read_head, socks4, socks5};

/// What comes out of memory is there at once.
fn at_once<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

/// A conversation by SOCKS of either version.
pub fn socks(mut bytes: &[u8]) {
    let mut answers = Vec::new();
    if bytes.first() == Some(&4) {
        let _ = at_once(socks4::handshake(&mut bytes));
    } else {
        let _ = at_once(socks5::handshake(&mut tokio::io::join(&mut bytes, &mut answers)));
    }
}

/// A datagram of an association. `false` if it reads otherwise once it has been written again.
#[must_use]
pub fn datagram(bytes: &[u8]) -> bool {
    let Some(read) = packet::parse(bytes) else { return true };
    let mut again = Vec::new();
    packet::write(&mut again, &read.address, read.payload).is_some() && packet::parse(&again) == Some(read)
}

/// A head by HTTP. `false` if what is passed on of it reads otherwise than it did.
#[must_use]
pub fn http_head(mut bytes: &[u8]) -> bool {
    let reading = at_once(read_head(&mut bytes, HEAD_BYTES, &HeadRoom::default()));
    let Some(Ok((text, _))) = reading else { return true };
    let Ok((Parsed::Plain(line, head), _)) = parse(&text) else { return true };
    let form = Form::Absolute { proxy: String::new(), authorization: None };
    let passed = head_for(&line, &head, &form);
    let (read, again) = match parse(&passed) {
        Ok((Parsed::Plain(read, again), None)) => (read, again),
        // With Host and Connection it may have more headers than are taken from clients.
        Err(failure) => return failure.status == 431 && passed.split(|byte| *byte == b'\n').count() > HEADERS,
        Ok(_) => return false,
    };
    let is_same = (&line.method, &line.destination, &line.path, line.version, head.framing, &head.upgrade)
        == (&read.method, &read.destination, &read.path, read.version, again.framing, &again.upgrade);
    is_same && head_for(&read, &again, &form) == passed
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Lines that heads are made of, good and bad.
    fn lines() -> impl Strategy<Value = Vec<&'static str>> {
        let line = prop::sample::select(vec![
            "Host: b.test",
            "Content-Length: 5",
            "Content-Length: 5, 5",
            "Content-Length: 6",
            "content-length:5",
            "Transfer-Encoding: chunked",
            "Transfer-Encoding: gzip",
            "Transfer-Encoding:\tchunked ",
            "Connection: Upgrade, Content-Length",
            "Connection: close, Host",
            "Upgrade: websocket,",
            "Upgrade: h2c",
            "Proxy-Authorization: Basic bWU6cHc=",
            "X: a\tb",
            "Close: x",
            "X:",
            "X : y",
            " folded",
            "",
        ]);
        prop::collection::vec(line, 0..8)
    }

    proptest! {
        #[test]
        fn heads_read_the_same_further_on(lines in lines(), ending in "\r?\n", method in "[A-Z!]{1,5}", version in 0..3) {
            let first = format!("{method} http://A.test:81?q#f HTTP/1.{version}");
            let head = [&[first.as_str()], lines.as_slice(), &["", ""]];
            prop_assert!(http_head(head.concat().join(&ending).as_bytes()));
        }

        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            socks(&bytes);
            prop_assert!(datagram(&bytes));
            prop_assert!(http_head(&bytes));
            prop_assert!(http_head(&[b"GET http://a.test/ HTTP/1.1\r\n", &bytes[..], b"\r\n\r\n"].concat()));
        }
    }
}
