//! A connection to an upstream, or from a client: TCP, a Unix socket, or TLS over one of these.

use std::future::poll_fn;
use std::io;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::net::{Shutdown, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::tls::Tls;

/// A connection. An enum and not a trait object: where both ends are TCP, more can be done.
///
/// What waits, waits for one reader and one writer, both of the same task.
#[derive(Debug)]
pub enum Stream {
    /// TCP.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
    /// TLS, over what may itself be TLS.
    Tls(Box<Tls>),
}

/// Calls the same method on whichever stream it is.
macro_rules! whichever {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            Stream::Tcp($inner) => $call,
            Stream::Unix($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl Stream {
    pub(super) async fn writable(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_write_ready(context)).await
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        whichever!(self, inner => inner.try_read(buffer))
    }

    /// Under TLS, what it took may still wait here: [`Stream::flush`] sends it.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        whichever!(self, inner => inner.try_write(bytes))
    }

    /// Sends what was taken; the kernel does that by itself.
    pub(super) async fn flush(&self) -> io::Result<()> {
        poll_fn(|context| self.poll_flushed(context)).await
    }

    /// The TCP connection that it is, or goes over.
    pub(super) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(stream) => Some(stream),
            Stream::Unix(_) => None,
            Stream::Tls(tls) => tls.inner().tcp(),
        }
    }

    /// Makes the peer see a failure, not an end, once this is dropped.
    pub(crate) fn reset_on_close(&self) {
        if let Some(stream) = self.tcp() {
            let _ = stream.set_zero_linger();
        }
    }

    /// Returns when the connection has broken off, which is not always heard of by who does not read.
    pub(super) async fn broken(&self) -> io::Error {
        let seen = match self {
            Stream::Tcp(stream) => return broken(stream).await,
            Stream::Unix(stream) => stream.ready(Interest::ERROR).await,
            Stream::Tls(tls) => return Box::pin(tls.inner().broken()).await,
        };
        seen.err().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
    }

    pub(super) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        whichever!(self, inner => inner.poll_read_ready(context))
    }

    pub(super) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        whichever!(self, inner => inner.poll_write_ready(context))
    }

    pub(super) fn poll_flushed(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Stream::Tcp(_) | Stream::Unix(_) => Poll::Ready(Ok(())),
            Stream::Tls(tls) => tls.poll_write_ready(context),
        }
    }

    /// Ends our half; the other one lives on.
    pub(super) fn poll_shutdown_write(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let descriptor = match self {
            Stream::Tcp(stream) => stream.as_fd(),
            Stream::Unix(stream) => stream.as_fd(),
            Stream::Tls(tls) => return tls.poll_shutdown_write(context),
        };
        Poll::Ready(match shutdown(descriptor, Shutdown::Write) {
            // The peer was faster.
            Err(rustix::io::Errno::NOTCONN) => Ok(()),
            result => result.map_err(io::Error::from),
        })
    }
}

/// Returns when a connection has broken off.
pub(super) async fn broken(stream: &TcpStream) -> io::Error {
    let seen = stream.ready(Interest::ERROR).await;
    seen.err().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let tls = match self.get_mut() {
            Stream::Tcp(stream) => return Pin::new(stream).poll_read(context, buffer),
            Stream::Unix(stream) => return Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(tls) => tls,
        };
        loop {
            ready!(tls.poll_read_ready(context))?;
            match tls.try_read(buffer.initialize_unfilled()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(|count| buffer.advance(count))),
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let tls = match self.get_mut() {
            Stream::Tcp(stream) => return Pin::new(stream).poll_write(context, bytes),
            Stream::Unix(stream) => return Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(tls) => tls,
        };
        loop {
            ready!(tls.poll_write_ready(context))?;
            match tls.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flushed(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_shutdown_write(context)
    }
}
