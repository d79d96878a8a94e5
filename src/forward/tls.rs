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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::pki_types::PrivateKeyDer;
    use rustls::{RootCertStore, ServerConfig};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::time::timeout;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::forward::relay::{Buffers, Traffic, relay};

    fn configs() -> (Arc<ClientConfig>, TlsAcceptor) {
        let issued = rcgen::generate_simple_self_signed(["a.test".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(issued.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions();
        let client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let server = server.unwrap().with_no_client_auth().with_single_cert(vec![issued.cert.der().clone()], key);
        (Arc::new(client), TlsAcceptor::from(Arc::new(server.unwrap())))
    }

    /// The peer has ended its half, so nothing is read here that would send the rest on; and it begins
    /// to read only when all was taken. For some of these lengths the socket is full just then.
    #[tokio::test]
    async fn what_was_taken_arrives_though_nothing_follows() {
        const RECORD: usize = 16 * 1024;
        let (config, acceptor) = configs();
        for count in (RECORD..RECORD * 40).step_by(RECORD) {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let name = ServerName::try_from("a.test").unwrap();
            let (client, server) =
                tokio::join!(Tls::connect(Arc::clone(&config), name, Stream::Unix(ours)), acceptor.accept(theirs));
            let (upstream, mut server) = (Stream::Tls(Box::new(client.unwrap())), server.unwrap());
            let (app, inner) = UnixStream::pair().unwrap();
            let traffic = Traffic::default();
            let client = Stream::Unix(inner);
            let buffers = Buffers::default();
            let relaying = relay(&client, &upstream, &traffic, &buffers, Duration::from_secs(60));
            let test = async {
                let mut app = app;
                server.shutdown().await.unwrap();
                assert_eq!(app.read(&mut [0]).await.unwrap(), 0);
                let sent = timeout(Duration::from_millis(20), app.write_all(&vec![7; count])).await;
                tokio::time::sleep(Duration::from_millis(2)).await;
                if sent.is_err() {
                    return; // more than fits without the peer
                }
                let mut all = vec![0; count];
                let arrived = timeout(Duration::from_secs(5), server.read_exact(&mut all)).await;
                arrived.unwrap_or_else(|_| panic!("some of {count} bytes got stuck")).unwrap();
            };
            tokio::select! {
                result = relaying => panic!("the relay ended: {result:?}"),
                () = test => {}
            }
        }
    }
}
