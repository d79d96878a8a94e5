//! The body of an HTTP/1 message, carried exactly to its end and not a byte further.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use httparse::Status;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::head::Framing;
use crate::forward::limits::HEAD_BYTES;

/// A chunk's size line: 16 digits and an extension, which nobody uses.
const SIZE_LINE: usize = 4096;

/// Carries a body, and adds each piece of it to `count`. With [`Framing::Unsaid`] that is everything until the
/// stream ends.
pub(crate) async fn copy_body(
    framing: Framing,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> io::Result<()> {
    match framing {
        Framing::Unsaid => copy_up_to(u64::MAX, from, to, count).await.map(|_| ())?,
        Framing::Length(length) => copy_exactly(length, from, to, count).await?,
        Framing::Chunked => copy_chunks(from, to, count, true).await?,
    }
    to.flush().await
}

/// Carries a body to a reader that knows no chunks, as HTTP/1.0 doesn't: it ends with the stream.
pub(crate) async fn copy_unframed(
    framing: Framing,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> io::Result<()> {
    match framing {
        Framing::Chunked => copy_chunks(from, to, count, false).await,
        other => copy_body(other, from, to, count).await,
    }
}

async fn copy_exactly(
    length: u64,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> io::Result<()> {
    let copied = copy_up_to(length, from, to, count).await?;
    if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

/// Carries `limit` bytes, or what there is before the end; returns how many. Not tokio's `copy_buf`: who watches
/// for silence must see the pieces, and TLS holds a piece back until it is flushed.
async fn copy_up_to(
    limit: u64,
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> io::Result<u64> {
    let mut copied = 0;
    while copied < limit {
        let ready = from.fill_buf().await?;
        let wanted = usize::try_from(limit - copied).unwrap_or(usize::MAX);
        let piece = &ready[..ready.len().min(wanted)];
        if piece.is_empty() {
            break;
        }
        let written = to.write(piece).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        to.flush().await?;
        from.consume(written);
        copied += written as u64;
        count.fetch_add(written as u64, Relaxed);
    }
    Ok(copied)
}

/// Chunks are written anew, without extensions and trailers: what is passed on has one reading only.
/// Trailers could hold what a head may not have twice (RFC 9110 6.5.1).
async fn copy_chunks(
    from: &mut (impl AsyncBufRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
    framed: bool,
) -> io::Result<()> {
    loop {
        let size = chunk_size(&read_line(from, SIZE_LINE).await?)?;
        if size == 0 {
            break;
        }
        if framed {
            to.write_all(format!("{size:x}\r\n").as_bytes()).await?;
        }
        copy_exactly(size, from, to, count).await?;
        if read_line(from, 2).await? != b"\r\n" {
            return Err(malformed("a chunk longer than its size"));
        }
        if framed {
            to.write_all(b"\r\n").await?;
        }
    }
    let mut trailers = HEAD_BYTES;
    loop {
        let line = read_line(from, trailers).await?;
        if matches!(line.as_slice(), b"\r\n" | b"\n") {
            break;
        }
        trailers -= line.len();
    }
    if framed {
        to.write_all(b"0\r\n\r\n").await?;
    }
    Ok(())
}

/// The size that a chunk begins with. httparse takes a line without one for the size 0, which would be the end
/// of a body that may have lost its rest.
fn chunk_size(line: &[u8]) -> io::Result<u64> {
    match httparse::parse_chunk_size(line) {
        Ok(Status::Complete((_, size))) if line.first().is_some_and(u8::is_ascii_hexdigit) => Ok(size),
        _ => Err(malformed("a chunk without a size")),
    }
}

async fn read_line(from: &mut (impl AsyncBufRead + Unpin), limit: usize) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    from.take(limit as u64).read_until(b'\n', &mut line).await?;
    match line.last() {
        Some(b'\n') => Ok(line),
        Some(_) if line.len() == limit => Err(malformed("a line longer than it may be")),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn malformed(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is carried of `input`, what is left of it, and whether it went well.
    fn carried(framing: Framing, input: &[u8]) -> (Vec<u8>, usize, bool) {
        let (mut rest, mut output) = (input, Vec::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let result = runtime.block_on(copy_body(framing, &mut rest, &mut output, &AtomicU64::new(0)));
        (output, rest.len(), result.is_ok())
    }

    #[test]
    fn what_was_carried_before_it_broke_is_counted() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (framing, input, whole) in [
            (Framing::Length(9), &b"abcd"[..], false),
            (Framing::Chunked, b"3\r\nabc\r\n5\r\nd", false),
            (Framing::Chunked, b"4\r\nabcd\r\n0\r\n\r\n", true),
            (Framing::Unsaid, b"abcd", true),
        ] {
            let count = AtomicU64::new(0);
            let (mut rest, mut output) = (input, Vec::new());
            let result = runtime.block_on(copy_body(framing, &mut rest, &mut output, &count));
            assert_eq!((result.is_ok(), count.into_inner()), (whole, 4), "{framing:?}");
        }
    }

    #[test]
    fn a_chunk_without_a_size_is_no_last_chunk() {
        for size in ["", ";a", " ", "\t;a", "-3", "0x3", "+0"] {
            let body = format!("5\r\nhello\r\n{size}\r\n\r\n");
            assert!(!carried(Framing::Chunked, body.as_bytes()).2, "{size:?}");
        }
    }

    #[test]
    fn exact_ends() {
        assert_eq!(carried(Framing::Length(3), b"abcdef"), (b"abc".to_vec(), 3, true));
        assert_eq!(carried(Framing::Length(3), b"ab"), (b"ab".to_vec(), 0, false));
        assert_eq!(carried(Framing::Unsaid, b"ab"), (b"ab".to_vec(), 0, true));
        let chunks = b"003;a=b\r\nabc\r\n0\r\nX: y\r\n\r\nnext";
        assert_eq!(carried(Framing::Chunked, chunks), (b"3\r\nabc\r\n0\r\n\r\n".to_vec(), 4, true));
    }

    #[test]
    fn endless_lines_and_trailers_are_bounded() {
        let line = [&b"1;"[..], &vec![b'x'; 10_000]].concat();
        assert!(!carried(Framing::Chunked, &line).2);
        let trailers = [&b"0\r\n"[..], &b"X: y\r\n".repeat(20_000), b"\r\n"].concat();
        assert!(!carried(Framing::Chunked, &trailers).2);
    }

    #[test]
    fn chunks_taken_off() {
        let (mut rest, mut output) = (&b"3\r\nabc\r\n1\r\nd\r\n0\r\nX: y\r\n\r\nnext"[..], Vec::new());
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let count = AtomicU64::new(0);
        runtime.block_on(copy_unframed(Framing::Chunked, &mut rest, &mut output, &count)).unwrap();
        assert_eq!((output.as_slice(), rest), (&b"abcd"[..], &b"next"[..]));
        let mut broken = &b"3\r\nab"[..];
        assert!(runtime.block_on(copy_unframed(Framing::Chunked, &mut broken, &mut output, &count)).is_err());
        assert_eq!(count.into_inner(), 6);
    }

    proptest! {
        #[test]
        fn any_cut_into_chunks_comes_out_whole(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..9)) {
            let mut input = Vec::new();
            for piece in &pieces {
                input.extend(format!("{:X}\r\n", piece.len()).into_bytes());
                input.extend_from_slice(piece);
                input.extend_from_slice(b"\r\n");
            }
            input.extend_from_slice(b"0\r\n\r\n");
            let (output, rest, good) = carried(Framing::Chunked, &input);
            prop_assert!(good && rest == 0);
            prop_assert!(output.eq_ignore_ascii_case(&input));
        }

        #[test]
        fn never_panics(input in prop::collection::vec(any::<u8>(), 0..100)) {
            carried(Framing::Chunked, &input);
        }
    }
}
