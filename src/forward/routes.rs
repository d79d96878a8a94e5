//! Which addresses lead to this host, as the kernel would route them (rtnetlink(7)).
//!
//! Its interfaces' addresses are not all: `ip route add local 192.0.2.0/24 dev lo` ("AnyIP") makes a whole network
//! its own, and a router answers to the first address of each of its IPv6 networks.

use std::io;
use std::net::IpAddr;

use netlink_packet_core::{DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkSerializable};
use nix::libc::{AF_INET, AF_INET6, RTA_DST, RTM_GETROUTE, RTN_ANYCAST, RTN_BROADCAST, RTN_LOCAL, RTN_MULTICAST};
use nix::sys::socket::SockProtocol;

use crate::netlink;

/// Whether what is sent to `address` comes to this host, or to all of its network.
///
/// # Errors
/// The kernel cannot be asked.
pub(super) fn leads_here(address: IpAddr) -> io::Result<bool> {
    // Where it gives an error there is no route: nothing can be sent there.
    let answer = netlink::ask(SockProtocol::NetlinkRoute, Route::To(address))?;
    Ok(matches!(answer, Ok(Route::Of(RTN_LOCAL | RTN_BROADCAST | RTN_ANYCAST | RTN_MULTICAST))))
}

/// What is asked and told of a route. The answer's attributes are not looked at, so that none can be unknown.
#[derive(Debug)]
enum Route {
    To(IpAddr),
    /// Of this type.
    Of(u8),
}

/// `struct rtmsg`: eight single bytes, the type the last of them, and flags.
const HEADER_BYTES: usize = 12;
const TYPE_AT: usize = 7;
/// `struct rtattr`, before its value.
const ATTRIBUTE_BYTES: usize = 4;

impl Route {
    /// As a message.
    fn bytes(&self) -> Vec<u8> {
        let mut header = [0; HEADER_BYTES];
        let (family, address) = match self {
            Self::To(IpAddr::V4(address)) => (AF_INET, address.octets().to_vec()),
            Self::To(IpAddr::V6(address)) => (AF_INET6, address.octets().to_vec()),
            // Nobody sends an answer.
            Self::Of(_) => return header.to_vec(),
        };
        // Both are small: a family has a byte in the message, and an address 128 bits.
        header[0] = family as u8;
        header[1] = 8 * address.len() as u8;
        let length = (ATTRIBUTE_BYTES + address.len()) as u16;
        [&header[..], &length.to_ne_bytes(), &RTA_DST.to_ne_bytes(), &address].concat()
    }
}

impl NetlinkSerializable for Route {
    fn message_type(&self) -> u16 {
        RTM_GETROUTE
    }

    fn buffer_len(&self) -> usize {
        self.bytes().len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let bytes = self.bytes();
        buffer[..bytes.len()].copy_from_slice(&bytes);
    }
}

impl NetlinkDeserializable for Route {
    type Error = DecodeError;

    fn deserialize(_: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        match payload.get(TYPE_AT) {
            Some(kind) => Ok(Self::Of(*kind)),
            None => Err(DecodeError::buffer_too_small(payload.len(), HEADER_BYTES)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_leads_here_and_the_world_does_not() {
        for (address, here) in
            [("127.0.0.1", true), ("127.9.9.9", true), ("::1", true), ("192.0.2.7", false), ("2001:db8::7", false)]
        {
            assert_eq!(leads_here(address.parse().unwrap()).unwrap(), here, "{address}");
        }
    }
}
