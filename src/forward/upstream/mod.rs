//! The way out, as the forwarder walks it. There is none beside it: what fails, fails.

mod direct;
mod http;
mod socks5;

use std::net::IpAddr;

use anyhow::{Result, bail};
use base64::prelude::{BASE64_STANDARD, Engine};
use fast_socks5::ReplyError;
use tokio::net::UnixStream;
use tokio::time::{error::Elapsed, timeout};

use crate::destination::Destination;
use crate::via::{Credentials, Endpoint, Hop, HopKind, Via};

use super::admission::Admission;
use super::failure::Failure;
use super::limits::Limits;
use super::request::Form;
use super::stream::Stream;

/// Where connections come from.
pub(super) struct Upstream {
    way: Way,
    limits: Limits,
}

enum Way {
    Direct,
    Socks5 { at: Endpoint, credentials: Option<Credentials> },
    Http { at: Endpoint, authorization: Option<String> },
}

/// A connection to a destination.
pub(super) struct Connected {
    pub(super) stream: Stream,
    /// What came from there with the upstream's answer already.
    pub(super) early: Vec<u8>,
}

impl Upstream {
    /// The way out that `via` describes. Tor must have been found.
    pub(super) fn new(via: &Via, limits: Limits) -> Result<Self> {
        let way = match via {
            Via::Direct => Way::Direct,
            Via::None => bail!("--via none has no forwarder: appfw forward needs a way out"),
            Via::Chain(hops) => match hops.as_slice() {
                [hop] => Way::through(hop.clone())?,
                _ => bail!("chains of several hops come with a later version: give --via once"),
            },
        };
        Ok(Self { way, limits })
    }

    /// A connection to `destination`, for the app's `caller`.
    pub(super) async fn tunnel(
        &self,
        destination: &Destination,
        caller: Option<&Credentials>,
        admission: &Admission,
    ) -> Result<Connected, Failure> {
        let _ = caller;
        let Limits { connect, answer, .. } = self.limits;
        match &self.way {
            Way::Direct => {
                let connecting = timeout(connect, direct::connect(destination, admission)).await;
                let stream = connecting
                    .unwrap_or_else(|_| Err(Failure::timed_out(format_args!("connecting to {destination}"))))?;
                Ok(Connected { stream, early: Vec::new() })
            }
            Way::Socks5 { at, credentials } => {
                let greeting = async { socks5::greet(dial(at).await?, at, credentials.as_ref()).await };
                let hop = reached(at, timeout(connect, greeting).await)?;
                let asked = timeout(answer, socks5::ask(hop, at, destination)).await;
                let stream = asked.unwrap_or_else(|_| Err(unanswered(at, destination)))?;
                Ok(Connected { stream, early: Vec::new() })
            }
            Way::Http { at, authorization } => {
                let hop = reached(at, timeout(connect, dial(at)).await)?;
                let asked = timeout(answer, http::connect(hop, at, authorization.as_deref(), destination)).await;
                asked.unwrap_or_else(|_| Err(unanswered(at, destination)))
            }
        }
    }

    /// A connection for one absolute-form request, and how to put it there.
    pub(super) async fn plain(
        &self,
        destination: &Destination,
        caller: Option<&Credentials>,
        admission: &Admission,
    ) -> Result<(Connected, Form), Failure> {
        match &self.way {
            Way::Http { at, authorization } => {
                let stream = reached(at, timeout(self.limits.connect, dial(at)).await)?;
                let connected = Connected { stream, early: Vec::new() };
                Ok((connected, Form::Absolute { authorization: authorization.clone() }))
            }
            _ => Ok((self.tunnel(destination, caller, admission).await?, Form::Origin)),
        }
    }

    /// The addresses of `name`, by whoever resolves names on this way out.
    pub(super) async fn resolve(
        &self,
        name: &str,
        caller: Option<&Credentials>,
        admission: &Admission,
    ) -> Result<Vec<IpAddr>, Failure> {
        let _ = caller;
        let Way::Direct = &self.way else { return Err(unresolving()) };
        let looking = timeout(self.limits.connect, direct::addresses(name, admission)).await;
        looking.unwrap_or_else(|_| Err(Failure::timed_out(format_args!("looking up {name}"))))
    }

    /// The name of `address`, by the same.
    pub(super) async fn resolve_ptr(
        &self,
        address: IpAddr,
        caller: Option<&Credentials>,
        admission: &Admission,
    ) -> Result<String, Failure> {
        let _ = caller;
        let Way::Direct = &self.way else { return Err(unresolving()) };
        let looking = timeout(self.limits.connect, direct::name(address, admission)).await;
        looking.unwrap_or_else(|_| Err(Failure::timed_out(format_args!("looking up {address}"))))
    }
}

fn unresolving() -> Failure {
    let message = "the upstream does not resolve names: connect by name, and the name is resolved there";
    Failure { reply: ReplyError::CommandNotSupported, ..Failure::general(message) }
}

/// Connects to the upstream itself, which may well be on this host.
async fn dial(at: &Endpoint) -> Result<Stream, Failure> {
    let unreachable = |why: String| Failure::general(format!("the upstream {at} cannot be reached: {why}"));
    let connected = match at {
        Endpoint::Tcp { host, port } => {
            let addresses = direct::resolve(host, *port).await.map_err(|failure| unreachable(failure.message))?;
            direct::connect_any(addresses).await.map(Stream::Tcp)
        }
        Endpoint::Unix(path) => UnixStream::connect(path).await.map(Stream::Unix),
        Endpoint::FindTor => return Err(unreachable("it has not been looked for".into())),
    };
    connected.map_err(|error| unreachable(error.to_string()))
}

/// Whatever went wrong before the upstream was asked for anything is the upstream's fault.
fn reached<T>(at: &Endpoint, result: Result<Result<T, Failure>, Elapsed>) -> Result<T, Failure> {
    let result = result.unwrap_or_else(|_| Err(Failure::timed_out(format_args!("connecting to the upstream {at}"))));
    result.map_err(Failure::of_upstream)
}

fn unanswered(at: &Endpoint, destination: &Destination) -> Failure {
    Failure::timed_out(format_args!("the upstream {at}, asked for {destination},"))
}

impl Way {
    fn through(hop: Hop) -> Result<Self> {
        let Hop { kind, endpoint: at, credentials } = hop;
        Ok(match kind {
            HopKind::Socks5 => Way::Socks5 { at, credentials },
            HopKind::Tor => Way::Socks5 { at, credentials: Some(isolation()?) },
            HopKind::Http => {
                let basic = |known: Credentials| BASE64_STANDARD.encode(format!("{}:{}", known.user, known.password));
                Way::Http { at, authorization: credentials.map(|known| format!("Basic {}", basic(known))) }
            }
        })
    }
}

/// Tor builds separate circuits for separate SOCKS credentials (IsolateSOCKSAuth, on by default):
/// new ones in each process keep launches apart.
fn isolation() -> Result<Credentials> {
    let word = || -> Result<String> {
        let mut random = [0; 16];
        rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
        Ok(format!("{:032x}", u128::from_ne_bytes(random)))
    };
    Ok(Credentials { user: format!("appfw-{}", word()?), password: word()? })
}
