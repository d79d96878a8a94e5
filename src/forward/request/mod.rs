//! What the app asks for, in whichever protocol it speaks.

mod body;
mod head;
mod http;
mod plain;
mod socks5;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::destination::Destination;
use crate::via::Credentials;

use super::failure::Failure;
pub(super) use head::{HeadError, read_head};
pub(super) use http::{Tunnel, refuse};
pub(super) use plain::{Form, Plain, Unfinished};
pub(super) use socks5::Socks5;

/// A complete request, not answered yet.
pub(super) enum Request {
    /// A tunnel, asked for by SOCKS5.
    Socks5(Socks5),
    /// A tunnel, asked for by HTTP.
    Tunnel(Tunnel),
    /// One HTTP request.
    Plain(Box<Plain>),
}

/// Why there is no request. Where the protocol has an answer, it was given.
pub(super) enum NoRequest {
    /// The client came and went; many do.
    Nothing,
    /// It said something that is no request.
    Wrong(Failure),
}

impl From<io::Error> for NoRequest {
    /// A client that breaks off says nothing.
    fn from(_: io::Error) -> Self {
        NoRequest::Nothing
    }
}

impl Request {
    /// Reads the request that `client` makes. Its first byte tells the protocol.
    pub(super) async fn read(client: TcpStream) -> Result<Self, NoRequest> {
        let mut first = [0];
        if client.peek(&mut first).await? == 0 {
            return Err(NoRequest::Nothing);
        }
        match first[0] {
            5 => Ok(Request::Socks5(Socks5::read(client).await?)),
            b'A'..=b'Z' | b'a'..=b'z' => http::read(client).await,
            4 => Err(refuse_socks4(client).await),
            0x16 => Err(wrong("a client speaks TLS to the proxy: give it http:// as the proxy's scheme, not https://")),
            other => Err(wrong(format!("a client speaks neither SOCKS5 nor HTTP (its first byte is {other:#04x})"))),
        }
    }

    /// Where it wants to go.
    pub(super) fn destination(&self) -> &Destination {
        match self {
            Request::Socks5(socks) => &socks.destination,
            Request::Tunnel(tunnel) => &tunnel.destination,
            Request::Plain(plain) => &plain.destination,
        }
    }

    /// Makes it go elsewhere: to the name that an address stands for.
    pub(super) fn redirect(&mut self, destination: Destination) {
        match self {
            Request::Socks5(socks) => socks.destination = destination,
            Request::Tunnel(tunnel) => tunnel.destination = destination,
            Request::Plain(plain) => plain.redirect(destination),
        }
    }

    /// The user and password that the client gave, whatever they are: they divide circuits, and open nothing.
    pub(super) fn caller(&self) -> Option<&Credentials> {
        None
    }

    /// Answers that the tunnel stands. Returns the client, and what it sent already.
    pub(super) async fn grant(self) -> io::Result<(TcpStream, Vec<u8>)> {
        match self {
            Request::Socks5(socks) => Ok((socks.grant().await?, Vec::new())),
            Request::Tunnel(tunnel) => tunnel.grant().await,
            Request::Plain(_) => Err(io::Error::other("a plain request is no tunnel")),
        }
    }

    /// Answers that it is not served.
    pub(super) async fn refuse(self, failure: &Failure) {
        // The client may be gone already; then nothing more is owed to it.
        let _ = match self {
            Request::Socks5(socks) => socks.refuse(failure).await,
            Request::Tunnel(tunnel) => tunnel.refuse(failure).await,
            Request::Plain(plain) => plain.refuse(failure).await,
        };
    }
}

fn wrong(message: impl Into<String>) -> NoRequest {
    NoRequest::Wrong(Failure::malformed(message))
}

async fn refuse_socks4(mut client: TcpStream) -> NoRequest {
    // Version 0, "rejected or failed", and a port and an address that nobody reads.
    if client.write_all(&[0, 0x5b, 0, 0, 0, 0, 0, 0]).await.is_ok() {
        part(client).await;
    }
    wrong("a client speaks SOCKS4, which comes with a later version: use socks5h:// or http://")
}

/// Closes a connection so that the last answer arrives: closing with bytes unread would reset it,
/// and the client might never see what it was told.
async fn part(mut client: TcpStream) {
    const TIME: Duration = Duration::from_secs(1);
    const BYTES: u64 = 256 * 1024;

    if client.shutdown().await.is_ok() {
        let mut rest = client.take(BYTES);
        let _ = tokio::time::timeout(TIME, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
    }
}
