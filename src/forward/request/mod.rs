//! What the app asks for, in whichever protocol it speaks.

mod answer;
mod body;
mod client;
mod forwarded;
#[doc(hidden)]
pub mod fuzzing;
mod head;
mod http;
mod plain;
mod socks4;
mod socks5;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::destination::Destination;
use crate::via::Credentials;

use super::failure::Failure;
use super::stream::broken;
pub(super) use client::Client;
pub(super) use forwarded::Forwarded;
pub(super) use head::{HeadError, HeadRoom, read_head};
pub(super) use http::Tunnel;
pub(super) use plain::{After, Form, Plain};
pub(super) use socks4::Socks4;
pub(super) use socks5::{Associate, Lookup, Question, Socks5};

/// What a connection begins with.
pub(super) enum First {
    /// A request for one destination.
    Request(Request),
    /// One for datagrams to and from many, asked for by SOCKS5.
    Associate(Associate),
}

/// A complete request, not answered yet.
pub(super) enum Request {
    /// A tunnel, asked for by SOCKS5.
    Socks5(Socks5),
    /// A tunnel, asked for by SOCKS4.
    Socks4(Socks4),
    /// A tunnel, asked for by HTTP.
    Tunnel(Tunnel),
    /// One HTTP request.
    Plain(Box<Plain>),
    /// A name's address or an address's name, asked for by SOCKS5.
    Lookup(Lookup),
    /// A tunnel, asked for by nothing but where the client connected to.
    Forwarded(Forwarded),
}

/// Why there is no request. Where the protocol has an answer, it was given.
#[derive(Debug)]
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

impl First {
    /// Reads the request that `client` makes, in HTTP with a head of `head` bytes at most. Its first byte tells
    /// the protocol.
    pub(super) async fn read(client: TcpStream, head: usize, heads: &HeadRoom) -> Result<Self, NoRequest> {
        let mut first = [0];
        if client.peek(&mut first).await? == 0 {
            return Err(NoRequest::Nothing);
        }
        match first[0] {
            5 => socks5::read(client).await,
            4 => Ok(First::Request(Request::Socks4(Socks4::read(client).await?))),
            b'A'..=b'Z' | b'a'..=b'z' => http::read(Client::new(client), head, heads).await.map(First::Request),
            0x16 => Err(wrong("a client speaks TLS to the proxy: give it http:// as the proxy's scheme, not https://")),
            other => Err(wrong(format!("a client speaks neither SOCKS nor HTTP (its first byte is {other:#04x})"))),
        }
    }
}

impl Request {
    /// Reads the request that follows another one on the same connection.
    pub(super) async fn read_next(mut client: Client, head: usize, heads: &HeadRoom) -> Result<Self, NoRequest> {
        client.skip_empty_line().await?;
        http::read(client, head, heads).await
    }

    /// Where it wants to go; at port 0 if it wants to know only.
    pub(super) fn destination(&self) -> &Destination {
        match self {
            Request::Socks5(socks) => &socks.destination,
            Request::Socks4(socks) => &socks.destination,
            Request::Tunnel(tunnel) => &tunnel.destination,
            Request::Plain(plain) => &plain.destination,
            Request::Lookup(lookup) => &lookup.destination,
            Request::Forwarded(forwarded) => &forwarded.destination,
        }
    }

    /// Makes it go elsewhere: to the name that an address stands for.
    pub(super) fn redirect(&mut self, destination: Destination) {
        match self {
            Request::Socks5(socks) => socks.destination = destination,
            Request::Socks4(socks) => socks.destination = destination,
            Request::Tunnel(tunnel) => tunnel.destination = destination,
            Request::Plain(plain) => plain.redirect(destination),
            Request::Lookup(lookup) => lookup.destination = destination,
            Request::Forwarded(forwarded) => forwarded.destination = destination,
        }
    }

    /// The user and password that the client gave, whatever they are: they divide circuits, and open nothing.
    pub(super) fn caller(&self) -> Option<&Credentials> {
        match self {
            Request::Socks5(socks) => socks.caller.as_ref(),
            Request::Socks4(socks) => socks.caller.as_ref(),
            Request::Tunnel(tunnel) => tunnel.caller.as_ref(),
            Request::Plain(plain) => plain.caller(),
            Request::Lookup(lookup) => lookup.caller(),
            Request::Forwarded(_) => None,
        }
    }

    /// Returns when the client has broken off. One that has only ended its half may well wait for an answer.
    pub(super) async fn broken(&self) -> io::Error {
        let client = match self {
            Request::Socks5(socks) => socks.client.get_ref(),
            Request::Socks4(socks) => socks.client.get_ref(),
            Request::Tunnel(tunnel) => tunnel.client.stream(),
            Request::Plain(plain) => return plain.broken().await,
            Request::Lookup(lookup) => return lookup.broken().await,
            Request::Forwarded(forwarded) => &forwarded.client,
        };
        broken(client).await
    }

    /// Answers that the tunnel stands. Returns the client, and what it sent already.
    pub(super) async fn grant(self) -> io::Result<(TcpStream, Vec<u8>)> {
        match self {
            Request::Socks5(socks) => socks.grant().await,
            Request::Socks4(socks) => socks.grant().await,
            Request::Tunnel(tunnel) => tunnel.grant().await,
            Request::Forwarded(forwarded) => Ok((forwarded.client, Vec::new())),
            Request::Plain(_) | Request::Lookup(_) => Err(io::Error::other("it did not ask for a tunnel")),
        }
    }

    /// Answers that it is not served. Returns the client if it may ask for something else.
    pub(super) async fn refuse(self, failure: &Failure) -> Option<Client> {
        // The client may be gone already; then nothing more is owed to it.
        let _ = match self {
            Request::Socks5(socks) => socks.refuse(failure).await,
            Request::Socks4(socks) => socks.refuse().await,
            Request::Tunnel(tunnel) => tunnel.refuse(failure).await,
            Request::Lookup(lookup) => lookup.refuse(failure).await,
            Request::Forwarded(forwarded) => forwarded.refuse(),
            Request::Plain(plain) => return plain.refuse(failure).await,
        };
        None
    }
}

/// The credentials that a client gave; none if both are empty, as with clients that must say something.
/// Each byte becomes a character: whoever differs in a byte that is not UTF-8 differs here too.
fn caller(user: &[u8], password: &[u8]) -> Option<Credentials> {
    let text = |bytes: &[u8]| bytes.iter().copied().map(char::from).collect::<String>();
    let is_given = !user.is_empty() || !password.is_empty();
    is_given.then(|| Credentials { user: text(user), password: text(password) })
}

fn wrong(message: impl Into<String>) -> NoRequest {
    NoRequest::Wrong(Failure::malformed(message))
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
