//! Carrying bytes both ways until both ways are done.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::swap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::limits::PIECE;
use super::pipes::{Lent, Pipes};
use super::stream::Stream;

thread_local! {
    /// Shared by every connection of the thread: bytes rest in it only between one read and the
    /// write right after, so a connection that is idle, or merely waiting, holds no buffer.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PIECE].into_boxed_slice());
}

/// A stream that has so much at once has more, mostly: a pipe is worth its trouble.
const MUCH: usize = PIECE / 2;
/// Less than that is copied as fast.
const LITTLE: usize = 8 * 1024;

/// Bytes carried so far, seen from the app.
#[derive(Debug, Default)]
pub(super) struct Traffic {
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
pub(super) async fn relay(
    client: &Stream,
    upstream: &Stream,
    traffic: &Traffic,
    pipes: &Pipes,
    idle: Duration,
) -> io::Result<()> {
    let mut there = Direction::new(client, upstream, &traffic.sent, pipes);
    let mut back = Direction::new(upstream, client, &traffic.received, pipes);
    // Polled by hand: who waits here does so by the thousand, and an async function for each step takes
    // four times the memory.
    let (mut first, mut second) = (&mut there, &mut back);
    let both = poll_fn(|context| {
        // One that always has bytes ready uses up the turn of both: the other one comes first the next time.
        swap(&mut first, &mut second);
        let (one, other) = (first.poll(context)?, second.poll(context)?);
        if one.is_ready() && other.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
    });
    tokio::select! {
        both = both => both,
        () = silence(traffic, idle) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was said for too long")),
    }
}

/// Returns once nothing has been carried from one look to the next one: no clock is read for a piece.
async fn silence(traffic: &Traffic, idle: Duration) {
    loop {
        let before = traffic.sum();
        tokio::time::sleep(idle).await;
        if traffic.sum() == before {
            return;
        }
    }
}

/// One way of the two.
struct Direction<'a> {
    from: &'a Stream,
    to: &'a Stream,
    count: &'a AtomicU64,
    pipes: &'a Pipes,
    /// Whether there was much to read the last time.
    flows: bool,
    step: Step<'a>,
}

/// What a direction does next.
enum Step<'a> {
    Read,
    /// The bytes that the other side has not taken yet; of these it has taken so many.
    Write(Vec<u8>, usize),
    /// The same, in a pipe.
    Drain(Lent<'a>),
    Flush,
    End,
    Ended,
}

impl<'a> Direction<'a> {
    fn new(from: &'a Stream, to: &'a Stream, count: &'a AtomicU64, pipes: &'a Pipes) -> Self {
        Self { from, to, count, pipes, flows: false, step: Step::Read }
    }

    /// Goes on as far as it gets; ready once the end has been passed on.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // Each of these takes of the task's budget (tokio::task::coop): a pair that always has bytes ready
            // does not keep the others from their turn.
            match &self.step {
                Step::Read => ready!(self.from.poll_read_ready(context))?,
                Step::Write(..) | Step::Drain(_) => ready!(self.to.poll_write_ready(context))?,
                Step::Flush => ready!(self.to.poll_flushed(context))?,
                Step::End => ready!(self.to.poll_shutdown_write(context))?,
                Step::Ended => return Poll::Ready(Ok(())),
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
            Step::Write(bytes, taken) => {
                *taken += self.to.try_write(&bytes[*taken..])?;
                (*taken == bytes.len()).then_some(Step::Flush)
            }
            Step::Drain(pipe) => pipe.drain(self.to)?.then_some(Step::Read),
            Step::Flush => Some(Step::Read),
            Step::End | Step::Ended => Some(Step::Ended),
        })
    }

    /// Reads once, and writes what the other side takes at once.
    fn read(&mut self) -> io::Result<Option<Step<'a>>> {
        let pipe = if self.flows && self.is_plain() { self.pipes.lend() } else { None };
        let (count, step) = match pipe {
            Some(pipe) => splice(pipe, self.from, self.to)?,
            None => copy(self.from, self.to)?,
        };
        self.count.fetch_add(count as u64, Relaxed);
        self.flows = count >= if self.flows { LITTLE } else { MUCH };
        Ok(if count == 0 { Some(Step::End) } else { step })
    }

    /// Whether splice(2) will do: it knows nothing of TLS.
    fn is_plain(&self) -> bool {
        matches!((self.from, self.to), (Stream::Tcp(_), Stream::Tcp(_)))
    }
}

/// Moves bytes by way of the pipe. Returns how many, and what is to be done then.
fn splice<'a>(mut pipe: Lent<'a>, from: &Stream, to: &Stream) -> io::Result<(usize, Option<Step<'a>>)> {
    let count = pipe.fill(from)?;
    let step = match pipe.drain(to) {
        Ok(true) => None,
        Ok(false) => Some(Step::Drain(pipe)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(Step::Drain(pipe)),
        Err(error) => return Err(error),
    };
    Ok((count, step))
}

/// The same by copying.
fn copy<'a>(from: &Stream, to: &Stream) -> io::Result<(usize, Option<Step<'a>>)> {
    SCRATCH.with_borrow_mut(|scratch| {
        let count = from.try_read(scratch)?;
        let written = match to.try_write(&scratch[..count]) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        let rest = &scratch[written..count];
        Ok((count, Some(if rest.is_empty() { Step::Flush } else { Step::Write(rest.to_vec(), 0) })))
    })
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
