//! An HTTP client's connection, on which one request may follow another.

use std::io;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::part;

/// A connection, and what has come by it but was not used yet.
pub(crate) struct Client {
    pub(super) reader: BufReader<OwnedReadHalf>,
    pub(super) writer: OwnedWriteHalf,
}

impl Client {
    pub(super) fn new(stream: TcpStream) -> Self {
        let (reader, writer) = stream.into_split();
        Self { reader: BufReader::new(reader), writer }
    }

    pub(super) fn stream(&self) -> &TcpStream {
        self.reader.get_ref().as_ref()
    }

    /// The connection itself, and what was read too far.
    pub(super) fn into_parts(self) -> io::Result<(TcpStream, Vec<u8>)> {
        let early = self.reader.buffer().to_vec();
        let stream = self.reader.into_inner().reunite(self.writer).map_err(io::Error::other)?;
        Ok((stream, early))
    }

    /// Waits for the first byte of another request; `None` if there is none. A buffer is held only if
    /// there is something in it: idle connections are many.
    pub(crate) async fn next(self) -> io::Result<Option<Self>> {
        let mut client = self;
        if client.reader.buffer().is_empty() {
            let (stream, _) = client.into_parts()?;
            if stream.peek(&mut [0]).await? == 0 {
                return Ok(None);
            }
            client = Self::new(stream);
        }
        Ok(Some(client))
    }

    /// Skips the empty line that some clients send behind a body (RFC 9112 2.2).
    pub(super) async fn skip_empty_line(&mut self) -> io::Result<()> {
        for expected in [b'\r', b'\n'] {
            if self.reader.fill_buf().await?.first() == Some(&expected) {
                self.reader.consume(1);
            }
        }
        Ok(())
    }

    /// Says the last there is to say, in a way that it arrives.
    pub(super) async fn close_with(mut self, last: &[u8]) -> io::Result<()> {
        self.writer.write_all(last).await?;
        self.close().await
    }

    /// Closes so that what was said last arrives.
    pub(super) async fn close(self) -> io::Result<()> {
        part(self.into_parts()?.0).await;
        Ok(())
    }

    /// Closes so that what was said does not look like all there was.
    pub(super) fn break_off(self) {
        let _ = self.reader.get_ref().as_ref().set_zero_linger();
        // By itself it would say goodbye first.
        self.writer.forget();
    }
}

/// Returns once the client is gone for good. One that has only ended its half may well wait for an
/// answer; and what comes meanwhile is its next request. Keepalive finds out about the others.
pub(super) async fn vanished(reader: &mut BufReader<OwnedReadHalf>) {
    if reader.fill_buf().await.is_ok() {
        let _ = reader.get_ref().ready(Interest::ERROR).await;
    }
}
