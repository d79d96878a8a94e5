//! Carrying bytes both ways until both ways are done.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::swap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::net::TcpStream;

use super::limits::{KEPT, PIECE, SMALL_PIECE};
use super::pipes::{Lent, Pipes};
use super::stream::Stream;

thread_local! {
    /// Shared by every connection of the thread: bytes rest in it only between one read and the
    /// write right after, so a connection that is idle, or merely waiting, holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into_boxed_slice());
}

/// A stream that has so much at once has more, mostly: a pipe is worth its trouble.
const SPLICE_FROM: usize = PIECE / 2;
/// Less than that is copied as fast.
const SPLICE_WHILE: usize = 8 * 1024;

/// What all connections share: pipes, and how many bytes wait for receivers that do not take them.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    pipes: Pipes,
    kept: AtomicUsize,
}

/// Bytes that the other side has not taken yet.
struct Kept<'a> {
    bytes: Vec<u8>,
    taken: usize,
    buffers: &'a Buffers,
}

impl Buffers {
    /// How much may be read at once: little, where much waits already.
    fn piece(&self) -> usize {
        if self.kept.load(Relaxed) < KEPT { PIECE } else { SMALL_PIECE }
    }

    fn keep(&self, bytes: &[u8]) -> Kept<'_> {
        self.kept.fetch_add(bytes.len(), Relaxed);
        Kept { bytes: bytes.to_vec(), taken: 0, buffers: self }
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.buffers.kept.fetch_sub(self.bytes.len(), Relaxed);
    }
}

/// Bytes carried so far, seen from the app.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

impl Traffic {
    fn sum(&self) -> u64 {
        self.sent.load(Relaxed).wrapping_add(self.received.load(Relaxed))
    }
}

/// Carries bytes between two streams. The end of one direction is passed on and leaves the other
/// alone; a failure ends both, and so does silence: `idle` without a byte, or up to twice as long.
pub(crate) async fn relay(
    client: &Stream,
    upstream: &Stream,
    traffic: &Traffic,
    buffers: &Buffers,
    idle: Duration,
) -> io::Result<()> {
    let mut there = Direction::new(client, upstream, &traffic.sent, buffers);
    let mut back = Direction::new(upstream, client, &traffic.received, buffers);
    // Polled by hand: who waits here does so by the thousand, and an async function for each step took
    // 1.4 KB more a connection.
    let (mut first, mut second) = (&mut there, &mut back);
    let both = poll_fn(|context| {
        // One that always has bytes ready uses up the turn of both: the other one comes first the next time.
        swap(&mut first, &mut second);
        let (one, other) = (first.poll(context)?, second.poll(context)?);
        if one.is_ready() && other.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    tokio::select! {
        both = both => both,
        error = silence(traffic, idle) => Err(error),
    }
}

/// Returns once nothing has been carried from one look to the next one: no clock is read for a piece.
pub(super) async fn silence(traffic: &Traffic, idle: Duration) -> io::Error {
    loop {
        let before = traffic.sum();
        tokio::time::sleep(idle).await;
        if traffic.sum() == before {
            return io::Error::new(io::ErrorKind::TimedOut, "nothing was said for too long");
        }
    }
}

/// One way of the two.
struct Direction<'a> {
    from: &'a Stream,
    to: &'a Stream,
    count: &'a AtomicU64,
    buffers: &'a Buffers,
    /// Whether there was much to read the last time.
    flows: bool,
    step: Step<'a>,
}

/// What a direction does next.
enum Step<'a> {
    Read,
    Write(Kept<'a>),
    /// The same with what is in a pipe.
    Drain(Lent<'a>, &'a TcpStream),
    Flush,
    End,
    /// Done; but if the side that has ended breaks off, nobody waits for an answer.
    Ended(Pin<Box<dyn Future<Output = io::Error> + Send + 'a>>),
}

impl<'a> Direction<'a> {
    fn new(from: &'a Stream, to: &'a Stream, count: &'a AtomicU64, buffers: &'a Buffers) -> Self {
        Self { from, to, count, buffers, flows: false, step: Step::Read }
    }

    /// Goes on as far as it gets; ready once the end has been passed on.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Each of these takes of the task's budget (tokio::task::coop): a pair that always has bytes ready
            // does not keep the others from their turn.
            match &mut self.step {
                Step::Read => ready!(self.from.poll_read_ready(context))?,
                Step::Write(_) | Step::Drain(..) => ready!(self.to.poll_write_ready(context))?,
                Step::Flush => ready!(self.to.poll_flushed(context))?,
                Step::End => ready!(self.to.poll_shutdown_write(context))?,
                Step::Ended(breaking) => {
                    return Poll::Ready(match breaking.as_mut().poll(context) {
                        Poll::Ready(error) => Err(error),
                        Poll::Pending => Ok(()),
                    });
                }
            }
            match self.advance() {
                Ok(Some(step)) => self.step = step,
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Does what the streams are ready for; returns the next step, if it is another one.
    fn advance(&mut self) -> io::Result<Option<Step<'a>>> {
        Ok(match &mut self.step {
            Step::Read => self.read()?,
            Step::Write(kept) => {
                kept.taken += counted(self.count, self.to.try_write(&kept.bytes[kept.taken..])?);
                (kept.taken == kept.bytes.len()).then_some(Step::Flush)
            }
            Step::Drain(pipe, to) => {
                counted(self.count, pipe.drain(to)?);
                pipe.is_empty().then_some(Step::Read)
            }
            Step::Flush => Some(Step::Read),
            Step::End => Some(Step::Ended(Box::pin(self.from.broken()))),
            Step::Ended(_) => None,
        })
    }

    /// Reads once, and writes what the other side takes at once.
    fn read(&mut self) -> io::Result<Option<Step<'a>>> {
        let (taken, step) = match (self.from, self.to) {
            // splice(2) knows nothing of TLS.
            (Stream::Tcp(from), Stream::Tcp(to)) if self.flows => self.splice(from, to)?,
            _ => self.copy()?,
        };
        let enough = if self.flows { SPLICE_WHILE } else { SPLICE_FROM };
        self.flows = taken >= enough;
        Ok(if taken == 0 { Some(Step::End) } else { step })
    }

    /// Moves bytes by way of a pipe, if that can be. Returns how many were taken, and what is to be done then.
    fn splice(&self, from: &TcpStream, to: &'a TcpStream) -> io::Result<(usize, Option<Step<'a>>)> {
        let Some(mut pipe) = self.buffers.pipes.lend() else { return self.copy() };
        let Some(taken) = pipe.fill(from)? else { return self.copy() };
        if taken > 0 {
            counted(self.count, at_once(pipe.drain(to))?);
        }
        Ok((taken, (!pipe.is_empty()).then_some(Step::Drain(pipe, to))))
    }

    /// The same by copying.
    fn copy(&self) -> io::Result<(usize, Option<Step<'a>>)> {
        SCRATCH.with_borrow_mut(|scratch| {
            let taken = self.from.try_read(&mut scratch[..self.buffers.piece()])?;
            if taken == 0 {
                return Ok((0, None));
            }
            let written = counted(self.count, at_once(self.to.try_write(&scratch[..taken]))?);
            let rest = &scratch[written..taken];
            Ok((taken, Some(if rest.is_empty() { Step::Flush } else { Step::Write(self.buffers.keep(rest)) })))
        })
    }
}

/// What was written, if any could be.
fn at_once(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

fn counted(count: &AtomicU64, carried: usize) -> usize {
    count.fetch_add(carried as u64, Relaxed);
    carried
}

/// Writes `bytes` by readiness, as [`relay`] does.
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
