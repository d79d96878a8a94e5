//! Pipes, by which the kernel moves bytes from one TCP connection to another without copying them: splice(2).
//!
//! There are few, shared by all connections: one is lent for as long as bytes are on their way through it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;

use super::limits::{PIPE_BYTES, PIPES};
use super::stream::Stream;

/// The pipes that nobody uses at the moment, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Pipe>,
    made: usize,
}

/// One of [`PIPE_BYTES`].
#[derive(Debug)]
struct Pipe {
    end: OwnedFd,
    start: OwnedFd,
}

/// A pipe, empty at first. It comes back when it is dropped.
pub(super) struct Lent<'a> {
    pipes: &'a Pipes,
    pipe: Option<Pipe>,
    held: usize,
}

impl Pipes {
    /// Lends an empty pipe. `None` if there are as many as there can be, or the kernel gives no more:
    /// then bytes are copied.
    pub(super) fn lend(&self) -> Option<Lent<'_>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = match state.free.pop() {
            Some(pipe) => pipe,
            None if state.made < PIPES => {
                let pipe = Pipe::new().ok()?;
                state.made += 1;
                pipe
            }
            None => return None,
        };
        Some(Lent { pipes: self, pipe: Some(pipe), held: 0 })
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (end, start) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused to users who have many (pipe(7): pipe-user-pages-soft), whose pipes are tiny then.
        fcntl_setpipe_size(&end, PIPE_BYTES)?;
        Ok(Self { end, start })
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.pipes.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.pipe.take() {
            Some(pipe) if self.held == 0 => state.free.push(pipe),
            // What is left in it was on its way to somebody who is gone: the next one must not get it.
            _ => state.made -= 1,
        }
    }
}

impl Lent<'_> {
    /// Takes in what `from` has, as far as it fits into the empty pipe; 0 at its end. `WouldBlock` if it has
    /// nothing.
    pub(super) fn fill(&mut self, from: &Stream) -> io::Result<usize> {
        let (Some(pipe), Stream::Tcp(from)) = (&self.pipe, from) else { return Err(io::ErrorKind::Unsupported.into()) };
        self.held = from.try_io(Interest::READABLE, || through(from, &pipe.start, PIPE_BYTES))?;
        Ok(self.held)
    }

    /// Gives `to` what it takes; whether that was all. `WouldBlock` if it takes nothing.
    pub(super) fn drain(&mut self, to: &Stream) -> io::Result<bool> {
        let (Some(pipe), Stream::Tcp(to)) = (&self.pipe, to) else { return Err(io::ErrorKind::Unsupported.into()) };
        if self.held > 0 {
            self.held -= to.try_io(Interest::WRITABLE, || through(&pipe.end, to, self.held))?;
        }
        Ok(self.held == 0)
    }
}

/// One splice(2), which never waits.
fn through(from: impl AsFd, to: impl AsFd, count: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, count, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}
