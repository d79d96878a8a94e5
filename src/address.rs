//! The forwarder's address on the host's loopback. bind(2) is the arbiter between launches.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt};
use std::os::fd::{AsRawFd, OwnedFd};

/// How many addresses of 127.100.0.0/16 are tried.
const TRIES: u32 = 64;

/// An address that no other launch takes while this is held.
///
/// Between launches the datagram socket decides, which only one can bind. The stream socket tells of
/// listeners: it has SO_REUSEADDR, as PID 1 sets it on its own, so that PID 1 can bind beside it and
/// the last connections of an earlier launch (TIME_WAIT) are not in the way. Neither is ever used.
#[derive(Debug)]
pub struct Reservation {
    /// The address.
    pub address: SocketAddrV4,
    _sockets: [OwnedFd; 2],
}

/// Reserves `wanted`, or a free address of 127.100.0.0/16 (from `seed` on) if its address is 0.0.0.0: none of which `is_taken`
/// says that somebody has it who does not listen yet.
///
/// # Errors
/// The address asked for is taken, or all that were tried.
pub fn reserve(wanted: SocketAddrV4, seed: u32, is_taken: impl Fn(SocketAddrV4) -> bool) -> Result<Reservation> {
    if !wanted.ip().is_unspecified() {
        return match try_reserve(wanted)? {
            Some(reservation) if !is_taken(wanted) => Ok(reservation),
            _ => bail!("--address {wanted}: something listens there already; choose another address or port"),
        };
    }
    for step in 0..TRIES {
        // An odd stride visits every address of the /16 once.
        let host = seed.wrapping_add(step.wrapping_mul(40503)) & 0xffff;
        if host & 0xff == 0 || host & 0xff == 0xff || host == 0x5a32 {
            // Network and broadcast look-alikes, and the fixed address of permanent units.
            continue;
        }
        let ip = Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 100, 0, 0)) | host);
        let address = SocketAddrV4::new(ip, wanted.port());
        if is_taken(address) {
            continue;
        }
        if let Some(reservation) = try_reserve(address)? {
            return Ok(reservation);
        }
    }
    bail!(
        "port {0} is taken on every loopback address tried: something listens on 0.0.0.0:{0}; choose another port, such as --address 127.100.90.50:{1}",
        wanted.port(),
        wanted.port().wrapping_add(1)
    )
}

fn try_reserve(address: SocketAddrV4) -> Result<Option<Reservation>> {
    let make = |kind| {
        socket(AddressFamily::Inet, kind, SockFlag::SOCK_CLOEXEC, None)
            .context("cannot make a socket to reserve an address")
    };
    let (claim, stream) = (make(SockType::Datagram)?, make(SockType::Stream)?);
    setsockopt(&stream, sockopt::ReuseAddr, &true).context("cannot share a reserved address with systemd")?;
    for socket in [&claim, &stream] {
        match bind(socket.as_raw_fd(), &SockaddrIn::from(address)) {
            Ok(()) => {}
            Err(Errno::EADDRINUSE) => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot bind {}", SocketAddr::V4(address))),
        }
    }
    Ok(Some(Reservation { address, _sockets: [claim, stream] }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reserve(wanted: SocketAddrV4, seed: u32) -> Result<Reservation> {
        super::reserve(wanted, seed, |_| false)
    }

    const ANY: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 10_801);

    #[test]
    fn two_launches_never_get_one_address() {
        let held: Vec<Reservation> =
            (0..100).map(|_| reserve(ANY, 7).unwrap_or_else(|_| reserve(ANY, 9999).unwrap())).collect();
        let distinct: std::collections::HashSet<_> = held.iter().map(|reservation| reservation.address).collect();
        assert_eq!(distinct.len(), held.len());
    }

    #[test]
    fn what_somebody_has_who_does_not_listen_yet_is_left_to_them() {
        let first = reserve(ANY, 77).unwrap().address;
        assert_ne!(super::reserve(ANY, 77, |address| address == first).unwrap().address, first);
        assert!(super::reserve(first, 0, |address| address == first).is_err());
    }

    #[test]
    fn systemd_can_listen_where_a_launch_has_reserved_and_nobody_else_can_reserve() {
        let held = reserve(ANY, 1234).unwrap();
        assert!(reserve(held.address, 0).is_err());
        // std sets SO_REUSEADDR before bind, as PID 1 does.
        let listener = std::net::TcpListener::bind(held.address).unwrap();
        drop(held);
        assert!(reserve(SocketAddrV4::new(*listener_ip(&listener), ANY.port()), 0).is_err());
    }

    #[test]
    fn the_last_connection_of_an_earlier_launch_is_not_in_the_way() {
        let address = reserve(ANY, 4321).unwrap().address;
        let listener = std::net::TcpListener::bind(address).unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        // Who closes first keeps the address for a minute.
        drop(listener.accept().unwrap());
        drop((client, listener));
        assert!(reserve(address, 0).is_ok());
    }

    fn listener_ip(listener: &std::net::TcpListener) -> &'static Ipv4Addr {
        match listener.local_addr().unwrap() {
            SocketAddr::V4(address) => Box::leak(Box::new(*address.ip())),
            SocketAddr::V6(_) => unreachable!(),
        }
    }

    #[test]
    fn a_listener_on_the_wildcard_is_told() {
        let _wildcard = std::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, 10_802)).unwrap();
        let message = reserve(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 10_802), 5).unwrap_err().to_string();
        assert!(message.contains("0.0.0.0:10802") && message.contains("--address"), "{message}");
    }
}
