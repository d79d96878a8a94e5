//! By the host's own network. Here names are resolved, and only here the app's names are.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use fast_socks5::ReplyError;
use tokio::net::{TcpStream, lookup_host};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;

use crate::destination::{Destination, Host, is_onion};
use crate::forward::limits::{ADDRESSES, STAGGER};

use super::{Admission, Failure, Stream};

/// What the names of this host's loopback lead to.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// Connects to `destination`. The addresses that are judged are those that are dialled.
pub(super) async fn connect(destination: &Destination, admission: &Admission) -> Result<Stream, Failure> {
    let resolved = resolve(&destination.host, destination.port).await?;
    let addresses = admission.dialable(destination, resolved)?;
    let connected = connect_any(addresses).await;
    connected.map(Stream::Tcp).map_err(|error| Failure::system(format_args!("cannot connect to {destination}"), &error))
}

/// The addresses of `host`, by this host's resolver.
pub(super) async fn resolve(host: &Host, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let name = match host {
        Host::Ip(address) => return Ok(vec![SocketAddr::new(*address, port)]),
        Host::Name(name) if is_onion(name) => {
            return Err(unresolved(format!("{name} is an onion service, which only Tor finds: use --via tor")));
        }
        // RFC 6761, 6.3: always these. No resolver is asked, which may not be within reach.
        Host::Name(_) if host.is_loopback() => {
            return Ok(LOOPBACK.map(|address| SocketAddr::new(address, port)).into());
        }
        Host::Name(name) => name,
    };
    let addresses: Vec<_> = match lookup_host((name.as_str(), port)).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Err(unresolved(format!("{host} cannot be resolved: {error}"))),
    };
    if addresses.is_empty() {
        return Err(unresolved(format!("{host} cannot be resolved: it has no address")));
    }
    Ok(addresses)
}

/// The name of `address`, by this host's resolver.
pub(super) async fn resolve_ptr(address: IpAddr) -> Result<String, Failure> {
    if address.to_canonical().is_loopback() {
        return Ok("localhost".to_owned());
    }
    let unnamed = |why: String| unresolved(format!("{address} has no name: {why}"));
    let looked_up = spawn_blocking(move || dns_lookup::lookup_addr(&address)).await;
    looked_up.map_err(|error| unnamed(error.to_string()))?.map_err(|error| unnamed(io::Error::from(error).to_string()))
}

fn unresolved(message: String) -> Failure {
    Failure { reply: ReplyError::HostUnreachable, ..Failure::general(message) }
}

/// Connects to the first of `addresses` that answers, each being given a head start before the next
/// (RFC 8305): neither a dead address nor a dead family is waited for. The last error stands for all.
pub(super) async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    if let [address] = addresses[..] {
        return TcpStream::connect(address).await;
    }
    let mut waiting = interleave(addresses).into_iter().take(ADDRESSES);
    // Those that are late are given up as soon as one has answered: dropped, they are aborted.
    let mut attempts = JoinSet::new();
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    loop {
        if let Some(address) = waiting.next() {
            attempts.spawn(TcpStream::connect(address));
        }
        let ended = if waiting.len() == 0 {
            attempts.join_next().await
        } else {
            match timeout(STAGGER, attempts.join_next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(Ok(stream))) => return Ok(stream),
            Some(Ok(Err(error))) => last = error,
            Some(Err(error)) => last = io::Error::other(error),
            None => return Err(last),
        }
    }
}

/// The two families in turn, beginning with the one that the resolver puts first (RFC 6724).
fn interleave(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut preferred, mut other): (Vec<_>, Vec<_>) =
        addresses.into_iter().partition(|address| address.is_ipv6() == first);
    let common = preferred.len().min(other.len());
    let rest = preferred.split_off(common).into_iter().chain(other.split_off(common));
    preferred.into_iter().zip(other).flat_map(|(preferred, other)| [preferred, other]).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::*;

    fn addresses(list: &[&str]) -> Vec<SocketAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn families_take_turns() {
        for (resolved, dialled) in [
            (&["[2001:db8::1]:1", "[2001:db8::2]:1", "[2001:db8::3]:1", "192.0.2.1:1"][..], [0, 3, 1, 2]),
            (&["192.0.2.1:1", "192.0.2.2:1", "[2001:db8::1]:1", "[2001:db8::2]:1"], [0, 2, 1, 3]),
            (&["192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1", "192.0.2.4:1"], [0, 1, 2, 3]),
        ] {
            let resolved = addresses(resolved);
            let expected: Vec<_> = dialled.iter().map(|index| resolved[*index]).collect();
            assert_eq!(interleave(resolved), expected);
        }
    }

    /// An address whose SYNs are dropped: a listener whose queue is full.
    async fn mute() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(0).unwrap();
        let address = listener.local_addr().unwrap();
        let mut waiting = Vec::new();
        while let Ok(stream) = timeout(STAGGER, TcpStream::connect(address)).await {
            waiting.push(stream.unwrap());
        }
        (address, listener, waiting)
    }

    #[tokio::test]
    async fn neither_a_mute_nor_a_dead_address_is_waited_for() {
        let (mute, _listener, _waiting) = mute().await;
        let dead = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = alive.local_addr().unwrap();

        let started = Instant::now();
        let stream = connect_any(vec![mute, dead, there]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), there);
        // One head start for the mute one, none for the dead one; a SYN is only repeated after 1 s.
        assert!((STAGGER..STAGGER * 4).contains(&started.elapsed()), "{:?}", started.elapsed());

        // The first to answer wins, though it was not the first to be tried.
        drop(stream);
        let error = connect_any(vec![dead, dead]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(connect_any(Vec::new()).await.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }
}
