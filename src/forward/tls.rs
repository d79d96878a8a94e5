//! TLS to an upstream, over any stream that leads there: by readiness as the others, so that relay
//! needs no buffer of its own for it. The protocol is rustls's; here its bytes are moved.

use std::future::poll_fn;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use super::stream::Stream;

/// A connection under TLS. Never locked while something is waited for.
#[derive(Debug)]
pub struct Tls {
    connection: Mutex<ClientConnection>,
    inner: Stream,
}

impl Tls {
    /// Shakes hands over `inner` with the server that must prove to be `name`.
    pub(super) async fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        inner: Stream,
    ) -> io::Result<Self> {
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let tls = Self { connection: Mutex::new(connection), inner };
        poll_fn(|context| tls.poll_handshake(context)).await?;
        Ok(tls)
    }

    fn poll_handshake(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            // What it has to say, our own last word included, comes first.
            ready!(self.poll_write_ready(context))?;
            let mut connection = self.lock();
            if !connection.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match self.receive(&mut connection) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(self.inner.poll_read_ready(context))?,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// The stream that this one goes over.
    pub(super) fn inner(&self) -> &Stream {
        &self.inner
    }

    /// Reads what is decrypted. An end that the peer did not announce is an error: anyone on the way
    /// could have cut the stream there.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut connection = self.lock();
        loop {
            match connection.reader().read(buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.receive(&mut connection)?,
                done => return done,
            };
        }
    }

    /// Takes bytes to be sent, but no more while earlier ones wait: that bounds what is held here.
    /// Some may be left when it returns; [`Tls::poll_write_ready`] and reading send them on.
    pub(super) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut connection = self.lock();
        self.send(&mut connection)?;
        let count = connection.writer().write(bytes)?;
        self.send_some(&mut connection)?;
        Ok(count)
    }

    /// Ready once [`Tls::try_read`] has something to say.
    pub(super) fn poll_read_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = self.lock();
        match connection.process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {}
            Ok(_) => return Poll::Ready(Ok(())),
            Err(error) => return Poll::Ready(Err(invalid(error))),
        }
        // The peer may wait for what could not be sent yet before it says anything.
        while connection.wants_write() && self.inner.poll_write_ready(context).is_ready() {
            if self.send_some(&mut connection).is_err() {
                break; // The next write tells; what came before it can still be read.
            }
        }
        self.inner.poll_read_ready(context)
    }

    /// Ready once all that was taken has been sent.
    pub(super) fn poll_write_ready(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut connection = self.lock();
        loop {
            match self.send(&mut connection) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => ready!(self.inner.poll_write_ready(context))?,
                done => return Poll::Ready(done),
            }
        }
    }

    /// Says that no more comes, and ends this half of the stream below.
    pub(super) fn poll_shutdown_write(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Once said, it is not said again.
        self.lock().send_close_notify();
        ready!(self.poll_write_ready(context))?;
        self.inner.poll_shutdown_write(context)
    }

    fn lock(&self) -> MutexGuard<'_, ClientConnection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the stream below has; returns how many bytes that was.
    fn receive(&self, connection: &mut ClientConnection) -> io::Result<usize> {
        let count = connection.read_tls(&mut Below(&self.inner))?;
        let processed = connection.process_new_packets();
        // An answer to the peer, such as new keys, or the alert that says what we found wrong.
        let sent = self.send_some(connection);
        processed.map_err(invalid)?;
        sent.map(|()| count)
    }

    /// Sends all that waits.
    fn send(&self, connection: &mut ClientConnection) -> io::Result<()> {
        while connection.wants_write() {
            if connection.write_tls(&mut Below(&self.inner))? == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Sends of what waits as much as the stream below takes.
    fn send_some(&self, connection: &mut ClientConnection) -> io::Result<()> {
        match self.send(connection) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            done => done,
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}

/// The stream below, as rustls wants it.
struct Below<'a>(&'a Stream);

impl Read for Below<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Below<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
