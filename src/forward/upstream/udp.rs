//! Where datagrams leave: a socket of our own by the host's network, or an association with a SOCKS5
//! upstream. Each is one association's alone.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};

use fast_socks5::util::target_addr::TargetAddr;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with, sockopt};
use tokio::net::UdpSocket;

use crate::destination::{Destination, Host};
use crate::forward::udp::packet::{self, Packet};
use crate::via::{Credentials, Endpoint};

use super::{Admission, Budget, Failure, Stream, Upstream, Way, direct};

/// The way out of one association.
pub(in crate::forward) enum Outlet {
    /// By the host's network, to addresses.
    Direct { socket: UdpSocket, is_v6: bool },
    /// By a SOCKS5 upstream, to addresses and names. Its socket is connected: the kernel takes no datagram
    /// from anybody else.
    Socks5 { socket: UdpSocket, control: Stream },
}

/// How a destination is sent to.
pub(in crate::forward) enum Route {
    /// To the first of these that can be.
    To(Vec<TargetAddr>),
    /// Its name is to be looked up here.
    LookUp,
}

impl Upstream {
    /// Refuses associations where the way out has none.
    pub(in crate::forward) fn expect_datagrams(&self) -> Result<(), Failure> {
        if self.carries_datagrams {
            return Ok(());
        }
        Err(Failure::not_offered(
            "a client asked SOCKS5 for UDP, which direct and a single SOCKS5 upstream carry, and no other way out: \
             its program must do with TCP",
        ))
    }

    /// A way out for one association of the app's `caller`.
    pub(in crate::forward) async fn associate(&self, caller: Option<&Credentials>) -> Result<Outlet, Failure> {
        self.expect_datagrams()?;
        let no_socket = |error| Failure::system("cannot make a UDP socket", &error);
        let outlet = match &self.way {
            Way::Direct => {
                let socket = any_family().map_err(no_socket)?;
                let is_v6 = socket.local_addr().map_err(no_socket)?.is_ipv6();
                Outlet::Direct { socket, is_v6 }
            }
            Way::Chain(chain) => {
                // What has no destination is no circuit's, and Tor carries no datagrams.
                let nowhere = Destination { host: Host::Ip(Ipv4Addr::UNSPECIFIED.into()), port: 0 };
                let budget = Budget::new(&self.limits);
                let (link, stream) = chain.reach(&self.errand(caller, &nowhere), &budget).await?;
                let (control, bound) = link.associate(stream, &budget).await?;
                let (ours, theirs) = ends(&control).map_err(no_socket)?;
                let relay = relay_of(link.at(), theirs.ip(), bound)?;
                let socket = UdpSocket::bind(SocketAddr::new(ours.ip(), 0)).await.map_err(no_socket)?;
                socket.connect(relay).await.map_err(no_socket)?;
                Outlet::Socks5 { socket, control }
            }
        };
        // Until the kernel has said so once, tokio takes a new socket for one that cannot send.
        outlet.socket().writable().await.map_err(no_socket)?;
        Ok(outlet)
    }
}

fn ends(control: &Stream) -> io::Result<(SocketAddr, SocketAddr)> {
    let stream = control.tcp().ok_or(io::ErrorKind::Unsupported)?;
    Ok((stream.local_addr()?, stream.peer_addr()?))
}

/// Where an upstream that is `at` takes datagrams. Nowhere but at its own address: another may be one of
/// ours, or inside, and our own IP filter lets nothing through but the upstream.
fn relay_of(at: &Endpoint, upstream: IpAddr, bound: TargetAddr) -> Result<SocketAddr, Failure> {
    let elsewhere = |what: &dyn std::fmt::Display| {
        let message = format!("the SOCKS5 upstream {at} wants UDP sent to {what}, which is not where it is itself");
        Failure::general(message).of_upstream()
    };
    match bound {
        TargetAddr::Ip(bound) if bound.port() == 0 => Err(elsewhere(&"port 0")),
        TargetAddr::Ip(bound) if bound.ip().is_unspecified() => Ok(SocketAddr::new(upstream, bound.port())),
        TargetAddr::Ip(bound) if bound.ip().to_canonical() == upstream.to_canonical() => {
            Ok(SocketAddr::new(upstream, bound.port()))
        }
        TargetAddr::Ip(bound) => Err(elsewhere(&bound.ip())),
        TargetAddr::Domain(..) => Err(elsewhere(&"a name")),
    }
}

/// One socket for both families, on a port of its own; for IPv4 alone where there is no IPv6.
fn any_family() -> io::Result<UdpSocket> {
    let both = || -> io::Result<StdSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        // Whatever net.ipv6.bindv6only says.
        sockopt::set_ipv6_v6only(&socket, false)?;
        bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)))?;
        Ok(socket.into())
    };
    let v4 = |_: io::Error| -> io::Result<StdSocket> {
        let socket = StdSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    UdpSocket::from_std(both().or_else(v4)?)
}

impl Outlet {
    /// How `destination`, which has been judged by its name, is sent to.
    pub(in crate::forward) fn route(&self, destination: &Destination, admission: &Admission) -> Result<Route, Failure> {
        let Destination { host, port } = destination;
        match (self, host) {
            (Outlet::Direct { .. }, Host::Ip(address)) => {
                dialable(destination, vec![SocketAddr::new(*address, *port)], admission).map(Route::To)
            }
            (Outlet::Direct { .. }, Host::Name(_)) => Ok(Route::LookUp),
            // Neither the upstream's business nor within its reach.
            (Outlet::Socks5 { .. }, host) if host.is_loopback() => Err(Failure::not_offered(format!(
                "{destination} is on this host's loopback, to which datagrams go with --via direct alone: use TCP"
            ))),
            (Outlet::Socks5 { .. }, Host::Ip(address)) => {
                Ok(Route::To(vec![TargetAddr::Ip(SocketAddr::new(*address, *port))]))
            }
            (Outlet::Socks5 { .. }, Host::Name(name)) => Ok(Route::To(vec![TargetAddr::Domain(name.clone(), *port)])),
        }
    }

    /// Sends one datagram, if it can be sent now: what cannot is lost, as datagrams are. `scratch` is for
    /// what goes to an upstream.
    pub(in crate::forward) fn send(
        &self,
        target: &TargetAddr,
        payload: &[u8],
        scratch: &mut Vec<u8>,
    ) -> io::Result<()> {
        match (self, target) {
            (Outlet::Direct { socket, is_v6 }, TargetAddr::Ip(address)) => {
                socket.try_send_to(payload, in_family(*address, *is_v6)).map(drop)
            }
            (Outlet::Direct { .. }, TargetAddr::Domain(..)) => Err(io::ErrorKind::InvalidInput.into()),
            (Outlet::Socks5 { socket, .. }, target) => {
                packet::write(scratch, target, payload).ok_or(io::ErrorKind::InvalidInput)?;
                socket.try_send(scratch).map(drop)
            }
        }
    }

    /// Returns when there may be a datagram to [`Outlet::receive`].
    pub(in crate::forward) async fn readable(&self) -> io::Result<()> {
        self.socket().readable().await
    }

    /// One datagram, and who sent it; `None` for one that nobody understands.
    pub(in crate::forward) fn receive<'a>(&self, buffer: &'a mut [u8]) -> io::Result<Option<Packet<'a>>> {
        match self {
            Outlet::Direct { socket, .. } => {
                let (length, from) = socket.try_recv_from(buffer)?;
                Ok(Some(Packet { address: TargetAddr::Ip(from), payload: &buffer[..length] }))
            }
            Outlet::Socks5 { socket, .. } => {
                let length = socket.try_recv(buffer)?;
                Ok(packet::parse(&buffer[..length]))
            }
        }
    }

    /// Returns when the upstream ends the association, or says something: there is nothing to say any more, and
    /// to read on would be work for nothing.
    pub(in crate::forward) async fn ended(&self) {
        let Outlet::Socks5 { control, .. } = self else { return std::future::pending().await };
        while poll_fn(|context| control.poll_read_ready(context)).await.is_ok() {
            match control.try_read(&mut [0; 1]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return,
            }
        }
    }

    fn socket(&self) -> &UdpSocket {
        match self {
            Outlet::Direct { socket, .. } | Outlet::Socks5 { socket, .. } => socket,
        }
    }
}

/// The addresses of a name that is sent to by the host's network: looked up here, and each one judged.
pub(in crate::forward) async fn look_up(destination: &Destination) -> Result<Vec<SocketAddr>, Failure> {
    direct::resolve(&destination.host, destination.port).await
}

/// Those of `resolved` that may be sent to.
pub(in crate::forward) fn dialable(
    destination: &Destination,
    resolved: Vec<SocketAddr>,
    admission: &Admission,
) -> Result<Vec<TargetAddr>, Failure> {
    let dialable = admission.dialable(destination, resolved)?;
    Ok(dialable.into_iter().map(TargetAddr::Ip).collect())
}

/// An address as a socket takes it: one for both families wants IPv4 written as IPv6.
fn in_family(address: SocketAddr, is_v6: bool) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if is_v6 => IpAddr::V6(ip.to_ipv6_mapped()),
        ip if is_v6 => ip,
        ip => ip.to_canonical(),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upstream_takes_datagrams_at_its_own_address_alone() {
        let at = Endpoint::Tcp { host: "proxy.test".parse().unwrap(), port: 1080 };
        let ip = |text: &str| TargetAddr::Ip(text.parse().unwrap());
        let upstream: IpAddr = [192, 0, 2, 1].into();
        for bound in ["0.0.0.0:7", "[::]:7", "192.0.2.1:7", "[::ffff:192.0.2.1]:7"] {
            assert_eq!(relay_of(&at, upstream, ip(bound)).unwrap(), SocketAddr::new(upstream, 7), "{bound}");
        }
        for (bound, what) in [
            (ip("192.0.2.2:7"), "192.0.2.2"),
            (ip("127.0.0.1:7"), "127.0.0.1"),
            (ip("0.0.0.0:0"), "port 0"),
            (TargetAddr::Domain("a.test".into(), 7), "a name"),
        ] {
            let failure = relay_of(&at, upstream, bound).unwrap_err();
            let message = format!(
                "the SOCKS5 upstream proxy.test:1080 wants UDP sent to {what}, which is not where it is itself"
            );
            assert_eq!((failure.message, failure.blames_upstream), (message, true));
        }
    }

    #[test]
    fn addresses_are_written_as_the_socket_takes_them() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (address, both, v4) in [
            ("192.0.2.1:7", "[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("[::ffff:192.0.2.1]:7", "[::ffff:192.0.2.1]:7", "192.0.2.1:7"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7", "[2001:db8::1]:7"),
        ] {
            assert_eq!((in_family(at(address), true), in_family(at(address), false)), (at(both), at(v4)));
        }
    }
}
