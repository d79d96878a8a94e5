//! The head of an HTTP/1 message: read with a bound, parsed, and cleaned of what concerns one hop only.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::forward::limits::{HEAD_FREE, HEAD_STEP, HEADS_BYTES};

/// Why there is no head.
#[derive(Debug)]
pub(crate) enum HeadError {
    /// The stream ended, or broke.
    Closed,
    /// It is larger than any honest one.
    TooLarge,
    /// It is a large one, and others take all the memory that there is for these.
    NoRoom,
}

impl From<io::Error> for HeadError {
    fn from(_: io::Error) -> Self {
        HeadError::Closed
    }
}

/// The memory for large heads, all connections' together: a client may begin as many as it has connections.
#[derive(Clone)]
pub(crate) struct HeadRoom(Arc<Semaphore>);

impl Default for HeadRoom {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(HEADS_BYTES)))
    }
}

/// A head's share of it, given back when dropped.
#[derive(Default)]
pub(crate) struct Room(Option<OwnedSemaphorePermit>);

impl Room {
    /// Takes `bytes` more of `heads`, if they are there.
    fn grow(&mut self, bytes: usize, heads: &HeadRoom) -> Result<(), HeadError> {
        let permits = u32::try_from(bytes).map_err(|_| HeadError::NoRoom)?;
        let more = Arc::clone(&heads.0).try_acquire_many_owned(permits).map_err(|_| HeadError::NoRoom)?;
        match &mut self.0 {
            Some(held) => held.merge(more),
            None => self.0 = Some(more),
        }
        Ok(())
    }
}

/// Reads up to the empty line, `limit` bytes at most, and no byte further. Lines may end in a bare LF, as irssi's
/// do. Whoever keeps the head, or what it is parsed into, keeps its room too.
pub(crate) async fn read_head(
    reader: &mut (impl AsyncBufRead + Unpin),
    limit: usize,
    heads: &HeadRoom,
) -> Result<(Vec<u8>, Room), HeadError> {
    let (mut head, mut room) = (Vec::new(), Room::default());
    let mut start = 0;
    loop {
        let ready = reader.fill_buf().await?;
        if ready.is_empty() {
            return Err(HeadError::Closed);
        }
        let line = ready.iter().position(|byte| *byte == b'\n').map_or(ready.len(), |end| end + 1);
        let piece = &ready[..line.min(limit - head.len())];
        extend(&mut head, piece, &mut room, heads)?;
        let taken = piece.len();
        reader.consume(taken);
        if matches!(&head[start..], b"\n" | b"\r\n") {
            return Ok((head, room));
        }
        if head.len() == limit {
            return Err(HeadError::TooLarge);
        }
        if head.ends_with(b"\n") {
            start = head.len();
        }
    }
}

/// Appends `piece`. By itself a `Vec` would double, and half of it be there for nothing.
fn extend(head: &mut Vec<u8>, piece: &[u8], room: &mut Room, heads: &HeadRoom) -> Result<(), HeadError> {
    let spare = head.capacity() - head.len();
    if piece.len() > spare {
        let more = (piece.len() - spare).max(HEAD_STEP);
        if head.capacity() + more > HEAD_FREE {
            room.grow(more, heads)?;
        }
        head.reserve_exact(spare + more);
    }
    head.extend_from_slice(piece);
    Ok(())
}

/// How a message says where its body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// It says nothing: no body in a request, the end of the stream in a response.
    Unsaid,
    /// Content-Length.
    Length(u64),
    /// Transfer-Encoding: chunked.
    Chunked,
}

impl Framing {
    /// Whether a request that says this has a body.
    pub(crate) fn has_body(self) -> bool {
        !matches!(self, Framing::Unsaid | Framing::Length(0))
    }
}

/// What becomes of a connection after a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Nothing more comes.
    Closes,
    /// The next message comes.
    Stays,
    /// It speaks the protocol that the message's Upgrade names.
    Upgrades,
}

/// Headers on their way through, without those that concern one hop.
#[derive(Debug)]
pub(crate) struct Head {
    pub(crate) framing: Framing,
    /// The connection is to end with this message.
    pub(crate) closes: bool,
    /// The protocols that it could go on with instead.
    pub(crate) upgrade: Option<String>,
    fields: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Takes what may pass of a request's `headers`. An error says what makes the end of the body uncertain:
    /// where two readers could disagree on it, one of them can be made to take a body for a request.
    pub(crate) fn of_request(headers: &[httparse::Header<'_>], version: u8) -> Result<Self, &'static str> {
        Ok(Self::new(headers, version, request_framing(headers, version)?))
    }

    /// Takes what may pass of an answer's `headers`. Nothing comes behind it, so what has one reading by the
    /// RFC is taken that way.
    pub(crate) fn of_answer(headers: &[httparse::Header<'_>], version: u8) -> Result<Self, &'static str> {
        Ok(Self::new(headers, version, answer_framing(headers)?))
    }

    fn new(headers: &[httparse::Header<'_>], version: u8, framing: Framing) -> Self {
        let connection: Vec<String> = values(headers, "connection").map(str::to_ascii_lowercase).collect();
        // Old clients say it to proxies in a header of their own.
        let mut proxy = values(headers, "proxy-connection");
        let is_close = |word: &str| word.eq_ignore_ascii_case("close");
        let closes = version == 0 || connection.contains(&"close".into()) || proxy.any(is_close);
        let may_upgrade = version > 0 && connection.contains(&"upgrade".into()) && !framing.has_body();
        let passes = |header: &&httparse::Header<'_>| {
            let name = header.name.to_ascii_lowercase();
            !is_hop_by_hop(&name) && !connection.contains(&name)
        };
        let owned = |header: &httparse::Header<'_>| (header.name.to_owned(), header.value.to_vec());
        Self {
            framing,
            closes,
            upgrade: may_upgrade.then(|| upgrade(headers)).flatten(),
            fields: headers.iter().filter(passes).map(owned).collect(),
        }
    }

    /// Writes the end of a head: the headers, the framing, and what becomes of the connection.
    pub(crate) fn write(&self, to: &mut Vec<u8>, fate: Fate) {
        self.write_fields(to);
        match self.framing {
            Framing::Unsaid => {}
            Framing::Length(length) => to.extend_from_slice(format!("Content-Length: {length}\r\n").as_bytes()),
            Framing::Chunked => to.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        match (fate, &self.upgrade) {
            (Fate::Closes, _) => to.extend_from_slice(b"Connection: close\r\n"),
            (Fate::Upgrades, Some(protocols)) => {
                to.extend_from_slice(format!("Connection: Upgrade\r\nUpgrade: {protocols}\r\n").as_bytes());
            }
            (Fate::Stays | Fate::Upgrades, _) => {}
        }
        to.extend_from_slice(b"\r\n");
    }

    /// Writes the headers alone.
    pub(crate) fn write_fields(&self, to: &mut Vec<u8>) {
        for (name, value) in &self.fields {
            to.extend_from_slice(name.as_bytes());
            to.extend_from_slice(b": ");
            to.extend_from_slice(value);
            to.extend_from_slice(b"\r\n");
        }
    }
}

/// RFC 9110 7.6.1, what proxies add to it, and what is written anew: the host and the framing. A header
/// `Close` (reserved, 18.4) would be one that `Connection: close` names.
fn is_hop_by_hop(name: &str) -> bool {
    const NAMES: [&str; 9] = [
        "connection",
        "close",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "host",
        "content-length",
    ];
    NAMES.contains(&name) || name.starts_with("proxy-")
}

/// The protocols that the connection may go on with. Not h2c: it needs a header of its own that stays
/// here, and RFC 9113 has given it up; Java offers it with every request and does without.
fn upgrade(headers: &[httparse::Header<'_>]) -> Option<String> {
    let protocols: Vec<_> = values(headers, "upgrade").filter(|name| !name.is_empty()).collect();
    let is_wanted = !protocols.is_empty() && !protocols.iter().any(|name| name.eq_ignore_ascii_case("h2c"));
    is_wanted.then(|| protocols.join(", "))
}

/// The members of a comma-separated header, in all its lines. What is not UTF-8 is an empty member.
fn values<'a>(headers: &'a [httparse::Header<'a>], name: &'static str) -> impl Iterator<Item = &'a str> {
    let lines = headers.iter().filter(move |header| header.name.eq_ignore_ascii_case(name));
    lines.flat_map(|header| std::str::from_utf8(header.value).unwrap_or_default().split(',').map(str::trim))
}

/// The strictest reading: a request that another reader could see end elsewhere is none.
fn request_framing(headers: &[httparse::Header<'_>], version: u8) -> Result<Framing, &'static str> {
    let is_coded = values(headers, "transfer-encoding").next().is_some();
    if !is_coded {
        return length(headers);
    }
    if values(headers, "content-length").next().is_some() {
        return Err("both Content-Length and Transfer-Encoding");
    }
    if version == 0 {
        return Err("a Transfer-Encoding in HTTP/1.0");
    }
    chunked(values(headers, "transfer-encoding"))
}

/// Where there is a coding, a length does not count (RFC 9112, 6.3). `identity` was none (RFC 2616, 3.6), and old
/// servers still say it; some say chunked in HTTP/1.0, and mean it.
fn answer_framing(headers: &[httparse::Header<'_>]) -> Result<Framing, &'static str> {
    let mut codings =
        values(headers, "transfer-encoding").filter(|coding| !coding.eq_ignore_ascii_case("identity")).peekable();
    if codings.peek().is_some() { chunked(codings) } else { length(headers) }
}

fn chunked<'a>(mut codings: impl Iterator<Item = &'a str>) -> Result<Framing, &'static str> {
    let is_chunked = codings.next().is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    if is_chunked && codings.next().is_none() {
        Ok(Framing::Chunked)
    } else {
        Err("a Transfer-Encoding other than chunked")
    }
}

fn length(headers: &[httparse::Header<'_>]) -> Result<Framing, &'static str> {
    let mut lengths = values(headers, "content-length");
    let Some(length) = lengths.next() else { return Ok(Framing::Unsaid) };
    // `parse` alone would take a sign.
    let digits = length.bytes().all(|byte| byte.is_ascii_digit());
    match length.parse() {
        Ok(value) if digits && lengths.all(|other| other == length) => Ok(Framing::Length(value)),
        _ => Err("no single Content-Length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_answer_ends() {
        for (fields, end) in [
            (&[][..], Ok(Framing::Unsaid)),
            (&[("Content-Length", "5")], Ok(Framing::Length(5))),
            (&[("Content-Length", "5"), ("Content-Length", "6")], Err("no single Content-Length")),
            (&[("Transfer-Encoding", "chunked"), ("Content-Length", "5")], Ok(Framing::Chunked)),
            (&[("Content-Length", "5, 6"), ("Transfer-Encoding", "Chunked")], Ok(Framing::Chunked)),
            (&[("Transfer-Encoding", "identity")], Ok(Framing::Unsaid)),
            (&[("Transfer-Encoding", "Identity"), ("Content-Length", "5")], Ok(Framing::Length(5))),
            (&[("Transfer-Encoding", "identity, chunked")], Ok(Framing::Chunked)),
            (&[("Transfer-Encoding", "gzip, chunked")], Err("a Transfer-Encoding other than chunked")),
            (&[("Transfer-Encoding", "chunked, chunked")], Err("a Transfer-Encoding other than chunked")),
            (&[("Transfer-Encoding", "")], Err("a Transfer-Encoding other than chunked")),
        ] {
            let headers: Vec<_> =
                fields.iter().map(|(name, value)| httparse::Header { name, value: value.as_bytes() }).collect();
            for version in [0, 1] {
                let head = Head::of_answer(&headers, version);
                assert_eq!(head.map(|head| head.framing), end, "{fields:?}");
            }
        }
    }
}
