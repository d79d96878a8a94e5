//! The sockets that the forwarder serves: handed over by who made them, or made here when it is run by hand.

use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use nix::libc::{AF_INET, SOCK_RAW};
use nix::sys::socket::{getsockopt, sockopt::IpTransparent};
use rustix::net::{SocketType, sockopt};
use tokio::net::{TcpListener, UdpSocket};

use crate::cli::ForwardArgs;
use crate::destination::{Destination, Pattern};
use crate::dns::{self, Dns};

use super::Raw;

/// They, by what is spoken there.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) proxy: Vec<TcpListener>,
    /// Of connections to anywhere.
    pub(super) captured: Vec<TcpListener>,
    /// Of datagrams to anywhere, each with where their answers go.
    pub(super) captured_datagrams: Vec<(UdpSocket, Raw)>,
    /// Of UDP associations.
    pub(super) relay: Option<UdpSocket>,
    pub(super) dns_datagrams: Vec<UdpSocket>,
    pub(super) dns_streams: Vec<TcpListener>,
    /// Those where a service of the host's loopback is found in the app's namespace.
    pub(super) services: Vec<(Destination, TcpListener)>,
}

/// What is known before any of them is looked at.
struct Terms<'a> {
    args: &'a ForwardArgs,
    dns: Dns,
    carries_datagrams: bool,
}

impl Listeners {
    /// All of them; a relay where the way out `carries_datagrams`; `handed` are those that came from the
    /// launcher. Needs the runtime.
    pub(super) fn open(args: &ForwardArgs, dns: Dns, carries_datagrams: bool, handed: Vec<OwnedFd>) -> Result<Self> {
        let mut listeners = Self::default();
        let terms = Terms { args, dns, carries_datagrams };
        let (mut raws, mut transparent) = (Vec::new(), Vec::new());
        for socket in from_systemd()?.into_iter().chain(handed) {
            match sockopt::socket_type(&socket).context("something was handed over that is no socket")? {
                SocketType::DGRAM => transparent.extend(listeners.take_datagrams(&terms, socket.into())?),
                SocketType::RAW => raws.push(Raw::new(socket)?),
                _ => listeners.take_streams(&terms, socket.into())?,
            }
        }
        listeners.captured_datagrams = paired(transparent, raws)?;
        listeners.bind(&terms)?;
        if listeners.proxy.is_empty() && listeners.captured.is_empty() {
            bail!("nothing to listen on: use --listen ADDRESS:PORT, or start it by its socket unit");
        }
        if dns != Dns::Off && listeners.dns_datagrams.is_empty() {
            bail!("nothing to answer --dns {dns} on: use --dns-listen ADDRESS:PORT");
        }
        Ok(listeners)
    }

    /// Puts a UDP socket that was handed over to its use. Returns it if it is for captured datagrams.
    fn take_datagrams(&mut self, terms: &Terms<'_>, socket: StdSocket) -> Result<Option<UdpSocket>> {
        let address = socket.local_addr().context("cannot tell a socket's address")?;
        let is_transparent = is_transparent(&socket)?;
        let socket = datagrams(socket)?;
        if terms.is_dns(address) {
            self.dns_datagrams.push(socket);
        } else if terms.carries_datagrams && takes_captured(address, is_transparent) {
            return Ok(Some(socket));
        } else if terms.carries_datagrams && self.relay.is_none() {
            self.relay = Some(socket);
        } else {
            bail!("a UDP socket at {address} was handed over, which nothing here is for");
        }
        Ok(None)
    }

    /// Puts a TCP listener that was handed over to its use.
    fn take_streams(&mut self, terms: &Terms<'_>, listener: StdListener) -> Result<()> {
        let address = listener.local_addr().context("cannot tell a socket's address")?;
        let is_transparent =
            getsockopt(&listener, IpTransparent).context("cannot tell whether a socket is transparent")?;
        let listener = streams(listener)?;
        if is_service(terms.args, address) {
            self.services.push((Destination::from_ip(address.ip(), address.port())?, listener));
        } else if terms.is_dns(address) {
            self.dns_streams.push(listener);
        } else if takes_captured(address, is_transparent) {
            self.captured.push(listener);
        } else {
            self.proxy.push(listener);
        }
        Ok(())
    }

    /// Makes those that the command line asks for.
    fn bind(&mut self, terms: &Terms<'_>) -> Result<()> {
        let Terms { args, carries_datagrams, .. } = terms;
        if let Some(address) = args.listen {
            let listener = bound(address, StdListener::bind)?;
            // On the host's loopback anybody can send: whose a datagram is, nobody tells.
            if *carries_datagrams && args.peer_cgroup.is_none() {
                // Where the kernel chose the port, both have the same.
                let address = listener.local_addr().context("cannot tell a socket's address")?;
                let socket = bound(address, StdSocket::bind).context("cannot take UDP beside TCP")?;
                self.relay = Some(datagrams(socket)?);
            }
            self.proxy.push(streams(listener)?);
        }
        if let Some(address) = args.dns_listen {
            let (socket, listener) = bound_at_one_port(address)?;
            self.dns_datagrams.push(datagrams(socket)?);
            self.dns_streams.push(streams(listener)?);
        }
        Ok(())
    }
}

/// Those of LISTEN_FDS (sd_listen_fds(3)).
fn from_systemd() -> Result<Vec<OwnedFd>> {
    let mut handed = ListenFd::from_env();
    let indexes = 0..handed.len();
    let take = |index| {
        // One that is of another type stays in its place.
        if let Ok(socket) = handed.take_udp_socket(index) {
            return Ok(socket.map(OwnedFd::from));
        }
        if let Ok(socket) = handed.take_custom::<OwnedFd>(index, AF_INET, SOCK_RAW, "raw socket") {
            return Ok(socket);
        }
        let taken = handed.take_tcp_listener(index);
        let taken = taken.context("a socket was handed over that is neither a TCP listener nor UDP nor raw")?;
        Ok(taken.map(OwnedFd::from))
    };
    indexes.map(take).filter_map(Result::transpose).collect()
}

impl Terms<'_> {
    fn is_dns(&self, address: SocketAddr) -> bool {
        self.dns != Dns::Off && address.port() == dns::PORT
    }
}

/// Each socket for captured datagrams with the raw one of its family.
fn paired(sockets: Vec<UdpSocket>, mut raws: Vec<Raw>) -> Result<Vec<(UdpSocket, Raw)>> {
    let pair = |socket: UdpSocket| {
        let address = socket.local_addr().context("cannot tell a socket's address")?;
        let families: Result<Vec<bool>> = raws.iter().map(Raw::is_v6).collect();
        let index = families?.iter().position(|is_v6| *is_v6 == address.is_ipv6());
        let index = index.with_context(|| format!("no raw socket was handed over for answers to UDP at {address}"))?;
        Ok((socket, raws.swap_remove(index)))
    };
    sockets.into_iter().map(pair).collect()
}

/// The option of IPv4 tells of IPv6, too: it is one flag of the socket.
fn is_transparent(socket: &impl AsFd) -> Result<bool> {
    getsockopt(socket, IpTransparent).context("cannot tell whether a socket is transparent")
}

/// Whether a socket at `address` is where captured traffic is led to. A socket unit's Transparent= is for all its sockets,
/// the proxy's included; only these are at every address.
fn takes_captured(address: SocketAddr, is_transparent: bool) -> bool {
    is_transparent && address.ip().is_unspecified()
}

/// Whether a socket at `address` is for the service that is at the same address on the host. Where
/// clients are told by their cgroup, the app is on the host's loopback as well, and needs none.
fn is_service(args: &ForwardArgs, address: SocketAddr) -> bool {
    let is_here = |allowed: &Pattern| allowed.loopback_socket() == Some(address);
    args.peer_cgroup.is_none() && args.allow_destination.iter().any(is_here)
}

fn bound<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> std::io::Result<T>) -> Result<T> {
    bind(address).with_context(|| format!("cannot listen on {address}"))
}

/// Where the kernel chooses a port that is free for datagrams, somebody else's stream may have it.
fn bound_at_one_port(address: SocketAddr) -> Result<(StdSocket, StdListener)> {
    let mut tries = if address.port() == 0 { 16 } else { 1 };
    loop {
        tries -= 1;
        let socket = bound(address, StdSocket::bind)?;
        let chosen = socket.local_addr().context("cannot tell a socket's address")?;
        match bound(chosen, StdListener::bind) {
            Ok(listener) => return Ok((socket, listener)),
            Err(_) if tries > 0 => {}
            Err(error) => return Err(error),
        }
    }
}

fn streams(listener: StdListener) -> Result<TcpListener> {
    listener.set_nonblocking(true).context("cannot make the listening socket non-blocking")?;
    TcpListener::from_std(listener).context("cannot use the listening socket")
}

fn datagrams(socket: StdSocket) -> Result<UdpSocket> {
    socket.set_nonblocking(true).context("cannot make the UDP socket non-blocking")?;
    // systemd always sets it (socket_address_listen), and by it another process could bind the same port later.
    sockopt::set_socket_reuseaddr(&socket, false).context("cannot keep a UDP socket's port")?;
    UdpSocket::from_std(socket).context("cannot use the UDP socket")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Appfw, Subcommand};

    fn args(line: &str) -> ForwardArgs {
        let words = ["appfw", "forward"].into_iter().chain(line.split_whitespace());
        let Subcommand::Forward(args) = Appfw::try_parse_from(words).unwrap().subcommand else { unreachable!() };
        *args
    }

    #[test]
    fn a_service_is_known_by_its_address() {
        let opened =
            "--via tor --allow-destination 127.0.0.1:5432 --allow-destination [::1]:80 --allow-destination any";
        for (address, is_one) in [
            ("127.0.0.1:5432", true),
            ("[::1]:80", true),
            ("127.0.0.1:5433", false),
            ("127.0.0.2:5432", false),
            ("[::1]:5432", false),
            ("127.100.90.50:1080", false),
            ("127.100.90.50:53", false),
        ] {
            let address = address.parse().unwrap();
            assert_eq!(is_service(&args(opened), address), is_one, "{address}");
            assert!(!is_service(&args(&format!("{opened} --peer-cgroup /x")), address), "{address}");
        }
    }
}
