//! By the host's own network. Here names are resolved, and only here the app's names are.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;

use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::destination::{Destination, Host, is_onion};
use crate::forward::limits::{ADDRESSES, ATTEMPTS, FURTHER_ATTEMPTS, STAGGER};
use crate::forward::lookup::{self, Family, unresolved};

use super::{Admission, Failure, Stream};

/// What the names of this host's loopback lead to.
const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
/// Of the process, as its descriptors are.
static FURTHER: Semaphore = Semaphore::const_new(FURTHER_ATTEMPTS);

/// Connects to `destination`. The addresses that are judged are those that are dialled.
pub(super) async fn connect(destination: &Destination, admission: &Admission) -> Result<Stream, Failure> {
    let resolved = resolve(&destination.host, destination.port).await?;
    let addresses = admission.dialable(destination, resolved)?;
    let connected = connect_any(addresses).await;
    connected.map(Stream::Tcp).map_err(|error| Failure::system(format_args!("cannot connect to {destination}"), &error))
}

/// The addresses of `host`, as the app asks for it, by this host's resolver.
pub(super) async fn resolve(host: &Host, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let found = match host {
        Host::Ip(address) => Some(vec![*address]),
        Host::Name(name) if is_onion(name) => return Err(only_tor_finds(name)),
        // RFC 6761, 6.3: always these. No resolver is asked, which may not be within reach.
        Host::Name(_) if host.is_loopback() => Some(LOOPBACK.to_vec()),
        Host::Name(name) => lookup::addresses(name, Family::Both).await?,
    };
    at(port, host, found)
}

/// The addresses of an upstream, which the user names as this host knows it.
pub(super) async fn resolve_upstream(host: &Host, port: u16) -> Result<Vec<SocketAddr>, Failure> {
    let found = match host {
        Host::Ip(address) => Some(vec![*address]),
        Host::Name(name) if is_onion(name) => return Err(only_tor_finds(name)),
        Host::Name(name) => lookup::addresses_by_search(name).await?,
    };
    at(port, host, found)
}

fn only_tor_finds(name: &str) -> Failure {
    unresolved(format!("{name} is an onion service, which only Tor finds: use --via tor"))
}

fn at(port: u16, host: &Host, found: Option<Vec<IpAddr>>) -> Result<Vec<SocketAddr>, Failure> {
    match found {
        None => Err(unresolved(format!("{host} cannot be resolved: there is no such name"))),
        Some(found) if found.is_empty() => Err(unresolved(format!("{host} cannot be resolved: it has no address"))),
        Some(found) => Ok(found.into_iter().map(|address| SocketAddr::new(address, port)).collect()),
    }
}

/// The name of `address`, by this host's resolver.
pub(super) async fn resolve_ptr(address: IpAddr) -> Result<String, Failure> {
    if address.to_canonical().is_loopback() {
        return Ok("localhost".to_owned());
    }
    lookup::name_of(address).await
}

/// Connects to the first of `addresses` that answers, each being given a head start before the next
/// (RFC 8305): neither a dead address nor a dead family is waited for. The last error stands for all.
pub(super) async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = interleave(addresses).into_iter().take(ADDRESSES);
    // Those that are late are given up as soon as one has answered.
    let mut attempts = Attempts::default();
    let mut last = io::ErrorKind::AddrNotAvailable.into();
    loop {
        if let Some(address) = waiting.next() {
            attempts.begin(address);
        }
        let ended = if waiting.len() == 0 {
            attempts.next().await
        } else {
            match timeout(STAGGER, attempts.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(stream)) => return Ok(stream),
            Some(Err(error)) => last = error,
            None => return Err(last),
        }
    }
}

type Attempt = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// Connections that are being made for one that is wanted, the oldest first.
#[derive(Default)]
struct Attempts(VecDeque<Attempt>);

impl Attempts {
    /// One more. Where there would be too many the oldest makes room: a connection has a descriptor for the
    /// first of its attempts, and shares those for the others with all connections.
    fn begin(&mut self, address: SocketAddr) {
        let mut place = None;
        while !self.0.is_empty() && place.is_none() {
            place = (self.0.len() < ATTEMPTS).then(|| FURTHER.try_acquire().ok()).flatten();
            if place.is_none() {
                self.0.pop_front();
            }
        }
        self.0.push_back(Box::pin(async move {
            let _place = place;
            TcpStream::connect(address).await
        }));
    }

    /// What becomes of the next one to end; `None` where there is none.
    async fn next(&mut self) -> Option<io::Result<TcpStream>> {
        poll_fn(|context| {
            for index in 0..self.0.len() {
                if let Poll::Ready(ended) = self.0[index].as_mut().poll(context) {
                    self.0.remove(index);
                    return Poll::Ready(Some(ended));
                }
            }
            if self.0.is_empty() { Poll::Ready(None) } else { Poll::Pending }
        })
        .await
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

    /// Sockets that are connecting to `address` (proc_net_tcp(5): SYN_SENT).
    fn connecting_to(address: SocketAddr) -> usize {
        let SocketAddr::V4(address) = address else { return 0 };
        let remote = format!("{:08X}:{:04X} 02", u32::from(*address.ip()).swap_bytes(), address.port());
        std::fs::read_to_string("/proc/self/net/tcp").unwrap().matches(&remote).count()
    }

    #[tokio::test]
    async fn attempts_at_once_are_few_however_many_addresses_there_are() {
        let (mute, _listener, _waiting) = mute().await;
        let waited_for = connecting_to(mute);
        let one = tokio::spawn(connect_any(vec![mute; ADDRESSES]));
        let mut most = 0;
        // As many as there may be, which takes a loaded machine a while, and no more after that.
        let mut rounds = 0..80;
        while let Some(round) = rounds.next() {
            tokio::time::sleep(STAGGER).await;
            let before = most;
            most = most.max(connecting_to(mute) - waited_for);
            if before < ATTEMPTS && most >= ATTEMPTS {
                rounds = round..round + 4;
            }
        }
        assert_eq!(most, ATTEMPTS);
        one.abort();

        let many: Vec<_> =
            (0..2 * FURTHER_ATTEMPTS).map(|_| tokio::spawn(connect_any(vec![mute; ADDRESSES]))).collect();
        tokio::time::sleep(STAGGER * 4).await;
        let open = connecting_to(mute) - waited_for;
        assert!((many.len()..=many.len() + FURTHER_ATTEMPTS).contains(&open), "{open}");
        // With one attempt each, whoever comes now gets where somebody listens.
        let alive = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = alive.local_addr().unwrap();
        assert_eq!(connect_any(vec![mute, mute, there]).await.unwrap().peer_addr().unwrap(), there);
        many.iter().for_each(tokio::task::JoinHandle::abort);
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
