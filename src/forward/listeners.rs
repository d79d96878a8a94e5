//! The sockets that the forwarder serves: handed over by systemd, or made here when it is run by hand.

use std::net::{SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket};

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use tokio::net::{TcpListener, UdpSocket};

use crate::cli::ForwardArgs;
use crate::dns::{self, Dns};

/// They, by what is spoken there.
#[derive(Default)]
pub(super) struct Listeners {
    pub(super) proxy: Vec<TcpListener>,
    /// Of UDP associations.
    pub(super) relay: Option<UdpSocket>,
    pub(super) dns_datagrams: Vec<UdpSocket>,
    pub(super) dns_streams: Vec<TcpListener>,
}

impl Listeners {
    /// All of them; a relay where the way out `carries_datagrams`. Needs the runtime.
    pub(super) fn open(args: &ForwardArgs, dns: Dns, carries_datagrams: bool) -> Result<Self> {
        let mut listeners = Self::default();
        let mut handed = ListenFd::from_env();
        for index in 0..handed.len() {
            // One that is of another type stays in its place.
            if let Ok(Some(socket)) = handed.take_udp_socket(index) {
                let address = socket.local_addr().context("cannot tell a socket's address")?;
                let is_dns = dns != Dns::Off && address.port() == dns::PORT;
                if !is_dns && (!carries_datagrams || listeners.relay.is_some()) {
                    bail!("systemd handed over a UDP socket at {address}, which nothing here is for");
                }
                let socket = datagrams(socket)?;
                if is_dns {
                    listeners.dns_datagrams.push(socket);
                } else {
                    listeners.relay = Some(socket);
                }
                continue;
            }
            let taken = handed.take_tcp_listener(index);
            let taken = taken.context("systemd handed over a socket that is neither a TCP listener nor UDP")?;
            let Some(listener) = taken else { continue };
            let address = listener.local_addr().context("cannot tell a socket's address")?;
            let is_dns = dns != Dns::Off && address.port() == dns::PORT;
            let to = if is_dns { &mut listeners.dns_streams } else { &mut listeners.proxy };
            to.push(streams(listener)?);
        }
        if let Some(address) = args.listen {
            let listener = bound(address, StdListener::bind)?;
            // On the host's loopback anybody can send: whose a datagram is, nobody tells.
            if carries_datagrams && args.peer_cgroup.is_none() {
                // Where the kernel chose the port, both have the same.
                let address = listener.local_addr().context("cannot tell a socket's address")?;
                let socket = bound(address, StdSocket::bind).context("cannot take UDP beside TCP")?;
                listeners.relay = Some(datagrams(socket)?);
            }
            listeners.proxy.push(streams(listener)?);
        }
        if let Some(address) = args.dns_listen {
            let socket = bound(address, StdSocket::bind)?;
            // Where the kernel chose the port, both have the same.
            let address = socket.local_addr().context("cannot tell a socket's address")?;
            listeners.dns_datagrams.push(datagrams(socket)?);
            listeners.dns_streams.push(streams(bound(address, StdListener::bind)?)?);
        }
        if listeners.proxy.is_empty() {
            bail!("nothing to listen on: use --listen ADDRESS:PORT, or start it by its socket unit");
        }
        if dns != Dns::Off && listeners.dns_datagrams.is_empty() {
            bail!("nothing to answer --dns {dns} on: use --dns-listen ADDRESS:PORT");
        }
        Ok(listeners)
    }
}

fn bound<T>(address: SocketAddr, bind: impl Fn(SocketAddr) -> std::io::Result<T>) -> Result<T> {
    bind(address).with_context(|| format!("cannot listen on {address}"))
}

fn streams(listener: StdListener) -> Result<TcpListener> {
    listener.set_nonblocking(true).context("cannot make the listening socket non-blocking")?;
    TcpListener::from_std(listener).context("cannot use the listening socket")
}

fn datagrams(socket: StdSocket) -> Result<UdpSocket> {
    socket.set_nonblocking(true).context("cannot make the UDP socket non-blocking")?;
    UdpSocket::from_std(socket).context("cannot use the UDP socket")
}
