//! Carrying bytes both ways until both ways are done.

use std::cell::RefCell;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::stream::Stream;

/// One read's worth: large enough that system calls don't count, small enough for a core's cache.
const PIECE: usize = 64 * 1024;

thread_local! {
    /// Shared by every connection of the thread: bytes rest in it only between one read and the
    /// write right after, so a connection that is idle, or merely waiting, holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into_boxed_slice());
}

/// Bytes carried so far, seen from the app.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// Carries bytes between two streams. The end of one direction is passed on and leaves the other
/// alone; a failure ends both.
pub(super) async fn relay(client: &Stream, upstream: &Stream, traffic: &Traffic) -> io::Result<()> {
    let there = carry(client, upstream, &traffic.sent);
    let back = carry(upstream, client, &traffic.received);
    tokio::try_join!(there, back).map(|_| ())
}

async fn carry(from: &Stream, to: &Stream, count: &AtomicU64) -> io::Result<()> {
    loop {
        from.readable().await?;
        match pass(from, to) {
            Ok(None) => return to.shutdown_write().await,
            Ok(Some((written, rest))) => {
                count.fetch_add((written + rest.len()) as u64, Relaxed);
                write_all(to, &rest).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        // A pair that always has bytes ready must not keep the others from their turn.
        tokio::task::consume_budget().await;
    }
}

/// Reads once and writes what the other side takes at once. Returns how much it took, and a copy of
/// what it did not; `None` at the end of the stream.
fn pass(from: &Stream, to: &Stream) -> io::Result<Option<(usize, Vec<u8>)>> {
    SCRATCH.with_borrow_mut(|scratch| {
        let count = from.try_read(scratch)?;
        if count == 0 {
            return Ok(None);
        }
        let written = match to.try_write(&scratch[..count]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        Ok(Some((written, scratch[written..count].to_vec())))
    })
}

/// Writes `bytes` by readiness, as [`carry`] reads.
pub(super) async fn write_all(to: &Stream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        to.writable().await?;
        match to.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    to.flush().await
}
