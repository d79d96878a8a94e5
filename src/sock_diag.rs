//! What the kernel tells of TCP sockets, to whoever shares their network namespace (sock_diag(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::Nla as _;
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use nix::sys::socket::SockProtocol;

use crate::netlink;

/// include/uapi/linux/inet_diag.h; the crate stops before it.
const INET_DIAG_CGROUP_ID: u16 = 21;
/// INET_DIAG_NOCOOKIE: any socket with these addresses.
const NO_COOKIE: [u8; 8] = [0xff; 8];

/// The id of the cgroup that made the socket bound to `client` and connected to `local`; `None` if
/// there is no such socket.
///
/// # Errors
/// The kernel cannot be asked.
pub fn cgroup_of(client: SocketAddr, local: SocketAddr) -> io::Result<Option<u64>> {
    // Where the exact socket is gone the kernel may answer with a listener on its port.
    let Some(response) = ask(client, local)?.filter(|response| is_of(response, client, local)) else { return Ok(None) };
    let id = response.nlas.iter().find(|nla| nla.kind() == INET_DIAG_CGROUP_ID);
    Ok(id.and_then(|nla| {
        let mut value = [0; 8];
        (nla.value_len() == value.len()).then(|| nla.emit_value(&mut value))?;
        Some(u64::from_ne_bytes(value))
    }))
}

/// Whether a socket listens at exactly this address.
///
/// # Errors
/// The kernel cannot be asked.
pub fn listens(address: SocketAddr) -> io::Result<bool> {
    let nobody: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (local, anybody) = (address, SocketAddr::new(nobody, 0));
    let response = ask(local, anybody)?.filter(|response| is_of(response, local, anybody));
    Ok(response.is_some_and(|response| response.header.state == TCP_LISTEN))
}

fn is_of(response: &InetResponse, local: SocketAddr, remote: SocketAddr) -> bool {
    let found = &response.header.socket_id;
    (found.source_address, found.source_port) == (local.ip(), local.port())
        && (found.destination_address, found.destination_port) == (remote.ip(), remote.port())
}

/// One question about the socket with these addresses; `None` if there is none.
fn ask(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<InetResponse>> {
    let request = InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: local.port(),
            destination_port: remote.port(),
            source_address: local.ip(),
            destination_address: remote.ip(),
            interface_id: 0,
            cookie: NO_COOKIE,
        },
    };
    match netlink::ask(SockProtocol::NetlinkSockDiag, SockDiagMessage::InetRequest(request))? {
        Ok(SockDiagMessage::InetResponse(response)) => Ok(Some(*response)),
        Ok(_) => Err(io::Error::other("the kernel's answer about a socket is of an unknown kind")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn a_listener_is_known_by_its_exact_address() {
        let address = |ip: Ipv4Addr, port| SocketAddr::from((ip, port));
        let (own, other) = (Ipv4Addr::new(127, 100, 3, 1), Ipv4Addr::new(127, 100, 3, 2));
        let listener = TcpListener::bind((own, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let connection = TcpStream::connect((own, port)).unwrap();
        assert!(listens(address(own, port)).unwrap());
        assert!(!listens(address(other, port)).unwrap());
        // Everything on 0.0.0.0 answers there as well, and is not ours.
        let everywhere = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        assert!(!listens(address(own, everywhere.local_addr().unwrap().port())).unwrap());
        drop(listener);
        assert!(!listens(address(own, port)).unwrap());
        drop(connection);
    }
}
