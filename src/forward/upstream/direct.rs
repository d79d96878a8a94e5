//! By the host's own network. Here names are resolved, and only here the app's names are.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use fast_socks5::ReplyError;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::destination::{Destination, Host};

use super::{Admission, Failure, Stream};

/// One address's turn, while others wait: a dead first one must not use up the time of all.
const ATTEMPT_TIME: Duration = Duration::from_secs(8);

/// Connects to `destination`. The addresses that are judged are those that are dialled.
pub(super) async fn connect(destination: &Destination, admission: &Admission) -> Result<Stream, Failure> {
    let resolved = resolve(&destination.host, destination.port).await?;
    let addresses = admission.dialable(destination, resolved)?;
    let connected = connect_any(addresses).await;
    connected.map(Stream::Tcp).map_err(|error| Failure::system(format_args!("cannot connect to {destination}"), &error))
}

/// The addresses of `host`, by this host's resolver.
pub(super) async fn resolve(host: &Host, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let unresolved = |why: String| Failure {
        reply: ReplyError::HostUnreachable,
        ..Failure::general(format!("{host} cannot be resolved: {why}"))
    };
    let name = match host {
        Host::Ip(address) => return Ok(vec![SocketAddr::new(*address, port)]),
        Host::Name(name) => name,
    };
    let addresses: Vec<_> = match lookup_host((name.as_str(), port)).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Err(unresolved(error.to_string())),
    };
    if addresses.is_empty() { Err(unresolved("it has no address".into())) } else { Ok(addresses) }
}

/// The addresses of `name` that may be dialled; the app is to know no others.
pub(super) async fn addresses(name: &str, admission: &Admission) -> Result<Vec<IpAddr>, Failure> {
    let host: Host = name.parse().map_err(|error: anyhow::Error| Failure::malformed(format!("{error:#}")))?;
    let resolved = resolve(&host, 0).await?;
    let dialable = admission.dialable(&Destination { host, port: 0 }, resolved)?;
    Ok(dialable.into_iter().map(|address| address.ip()).collect())
}

/// The name of `address`, by this host's resolver.
pub(super) async fn name(address: IpAddr, admission: &Admission) -> Result<String, Failure> {
    let unnamed = |why: String| Failure {
        reply: ReplyError::HostUnreachable,
        ..Failure::general(format!("{address} has no name: {why}"))
    };
    let found = spawn_blocking(move || dns_lookup::lookup_addr(&address)).await;
    let name = found.map_err(|error| unnamed(error.to_string()))?.map_err(|error| unnamed(error.to_string()))?;
    match name.parse() {
        Ok(Host::Name(name)) => {
            admission.check(&Destination { host: Host::Name(name.clone()), port: 0 })?;
            Ok(name)
        }
        // getnameinfo(3) gives the address itself where there is no name.
        Ok(Host::Ip(_)) => Err(unnamed("the resolver knows none".into())),
        Err(error) => Err(unnamed(format!("{error:#}"))),
    }
}

/// Connects to the first of `addresses` that answers; the last one's error stands for all.
pub(super) async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut result = Err(io::ErrorKind::AddrNotAvailable.into());
    let count = addresses.len();
    for (index, address) in addresses.into_iter().enumerate() {
        let attempt = TcpStream::connect(address);
        result = if index + 1 == count {
            attempt.await
        } else {
            timeout(ATTEMPT_TIME, attempt).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        };
        if result.is_ok() {
            break;
        }
    }
    result
}
