//! Pipes, by which the kernel moves bytes from one TCP connection to another without copying them: splice(2).
//!
//! There are few, shared by all connections: one is lent for as long as bytes are on their way through it.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};

use rustix::net::{RecvFlags, recv};
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::limits::{PIPE_BYTES, PIPES};

/// The pipes that nobody uses at the moment, and how many there are.
#[derive(Debug, Default)]
pub(super) struct Pipes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    free: Vec<Pipe>,
    count: usize,
}

#[derive(Debug)]
struct Pipe {
    read_end: OwnedFd,
    write_end: OwnedFd,
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
            None if state.count < PIPES => {
                let pipe = Pipe::new().ok()?;
                state.count += 1;
                pipe
            }
            None => return None,
        };
        Some(Lent { pipes: self, pipe: Some(pipe), held: 0 })
    }
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (read_end, write_end) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused to users who have many (pipe(7): pipe-user-pages-soft): then it takes less at a time.
        let _ = fcntl_setpipe_size(&read_end, PIPE_BYTES);
        Ok(Self { read_end, write_end })
    }
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        let mut state = self.pipes.state.lock().unwrap_or_else(PoisonError::into_inner);
        match self.pipe.take() {
            Some(pipe) if self.held == 0 => state.free.push(pipe),
            // What is left in it was on its way to somebody who is gone: the next one must not get it.
            _ => state.count -= 1,
        }
    }
}

impl Lent<'_> {
    /// Takes in what `from` has, as far as it fits into the empty pipe; 0 at its end, `None` where what comes
    /// next can only be read. `WouldBlock` if there is nothing.
    pub(super) fn fill(&mut self, from: &TcpStream) -> io::Result<Option<usize>> {
        let Some(pipe) = &self.pipe else { return Ok(None) };
        let taken = from.try_io(Interest::READABLE, || match splice_once(from, &pipe.write_end, PIPE_BYTES) {
            Ok(taken @ 1..) => Ok(Some(taken)),
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
            // It stops before a byte of urgent data (tcp_splice_read), as if nothing came behind it.
            _ => match recv(from, &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT)? {
                (_, 0) => Ok(Some(0)),
                _ => Ok(None),
            },
        })?;
        self.held = taken.unwrap_or_default();
        Ok(taken)
    }

    /// Gives `to` what it takes; how much that was. `WouldBlock` if it takes nothing.
    pub(super) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let Some(pipe) = &self.pipe else { return Ok(0) };
        let taken = to.try_io(Interest::WRITABLE, || splice_once(&pipe.read_end, to, self.held))?;
        self.held -= taken;
        Ok(taken)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.held == 0
    }
}

/// One splice(2), which never waits.
fn splice_once(from: impl AsFd, to: impl AsFd, count: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, count, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}
