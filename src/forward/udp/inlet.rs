//! How datagrams get back to who asked for them: by the relay's socket, which says in each whom it is from, or by a
//! raw socket, as if they were from there.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context, Result, bail};
use fast_socks5::util::target_addr::TargetAddr;
use rustix::net::{AddressFamily, SendFlags, ipproto, sendto, sockopt};
use tokio::net::UdpSocket;

use super::{ip, packet};

/// One of them.
#[derive(Clone, Copy)]
pub(super) enum Inlet<'a> {
    Relay(&'a UdpSocket),
    Raw(&'a Raw),
}

impl Inlet<'_> {
    /// Gives a datagram `from` there to a client at `to`. One that cannot be given now is lost. `scratch` is what
    /// it is written to.
    pub(super) fn give(
        self,
        from: &TargetAddr,
        to: SocketAddr,
        payload: &[u8],
        scratch: &mut Vec<u8>,
    ) -> io::Result<()> {
        match (self, from) {
            (Inlet::Relay(socket), from) => {
                packet::write(scratch, from, payload).ok_or(io::ErrorKind::InvalidInput)?;
                socket.try_send_to(scratch, to).map(drop)
            }
            (Inlet::Raw(socket), TargetAddr::Ip(from)) => socket.send(*from, to, payload, scratch),
            // Who was sent to by name alone is known to relays only.
            (Inlet::Raw(_), TargetAddr::Domain(..)) => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// A socket for datagrams of one family, whoever they are from. It was made in the app's namespace, by who was
/// privileged there; to write to it takes no privilege.
#[derive(Debug)]
pub struct Raw(OwnedFd);

impl Raw {
    /// Takes a socket for it.
    ///
    /// # Errors
    /// It is one that adds a header of its own.
    pub fn new(socket: OwnedFd) -> Result<Self> {
        let protocol = sockopt::socket_protocol(&socket).context("cannot tell a raw socket's protocol")?;
        // The one that has IP_HDRINCL from the beginning, in both families (raw(7)).
        if protocol != Some(ipproto::RAW) {
            bail!("a raw socket was handed over that is not of IPPROTO_RAW");
        }
        Ok(Self(socket))
    }

    /// Whether it is one of IPv6.
    ///
    /// # Errors
    /// It is of no family that there is.
    pub fn is_v6(&self) -> Result<bool> {
        let family = sockopt::socket_domain(&self.0).context("cannot tell a raw socket's family")?;
        Ok(family == AddressFamily::INET6)
    }

    /// Sends a datagram to `to` that is `from` there.
    pub(super) fn send(
        &self,
        from: SocketAddr,
        to: SocketAddr,
        payload: &[u8],
        scratch: &mut Vec<u8>,
    ) -> io::Result<()> {
        ip::write(scratch, from, to, payload).ok_or(io::ErrorKind::InvalidInput)?;
        // A port would be taken for a protocol (rawv6_sendmsg), which is said already.
        let host = SocketAddr::new(to.ip(), 0);
        sendto(&self.0, scratch, SendFlags::DONTWAIT, &host)?;
        Ok(())
    }
}
