//! The sockets that the forwarder serves in the app's namespace. It can make none there itself: they
//! are made here and handed to the launcher.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::sockopt::set_ipv6_v6only;
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with};

use crate::control::{self, Report};
use crate::listening::{BACKLOG, Kind, Listening};
use crate::plan::CAPTURE_PORT;

/// Makes them and hands them over, and behind them the `namespaces` for who publishes the app's ports. The launcher
/// acknowledges when it holds them.
///
/// # Errors
/// One cannot be made; the launcher is gone.
pub fn hand_over(wanted: &[Listening], namespaces: Vec<OwnedFd>, launcher: &UnixStream) -> Result<()> {
    if wanted.len() + namespaces.len() > control::MAX_DESCRIPTORS {
        bail!("the forwarder cannot listen at {} places, {} are the most", wanted.len(), control::MAX_DESCRIPTORS);
    }
    let mut sockets = wanted.iter().map(open).collect::<Result<Vec<_>>>()?;
    sockets.extend(namespaces);
    let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    control::send_all(launcher, &Report::Listening { sockets: sockets.len() }.line()?, &borrowed)
}

fn open(wanted: &Listening) -> Result<OwnedFd> {
    made(wanted).with_context(|| format!("cannot make the forwarder's socket {wanted} in the app's namespace"))
}

fn made(wanted: &Listening) -> Result<OwnedFd> {
    let Listening { kind, address } = *wanted;
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match kind {
        Kind::Stream => SocketType::STREAM,
        Kind::Datagram => SocketType::DGRAM,
        Kind::Raw => return Ok(socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, Some(ipproto::RAW))?),
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    // With capture those at every address take what was sent to any.
    if address.ip().is_unspecified() {
        at_every_address(&socket, address, kind)?;
    }
    bind(&socket, &address)?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG.into())?;
    }
    Ok(socket)
}

/// What the socket unit has as Transparent=, BindIPv6Only= and PassPacketInfo=. That tells DNS which server
/// was asked; of captured datagrams another option tells where each was sent to. Only one of them: the
/// forwarder has room for one answer.
fn at_every_address(socket: &OwnedFd, address: SocketAddr, kind: SocketType) -> Result<()> {
    // Both families have the one flag.
    setsockopt(socket, sockopt::IpTransparent, &true)?;
    if address.is_ipv6() {
        set_ipv6_v6only(socket, true)?;
    }
    if kind == SocketType::DGRAM {
        match (address.is_ipv6(), address.port() == CAPTURE_PORT) {
            (false, false) => setsockopt(socket, sockopt::Ipv4PacketInfo, &true)?,
            (true, false) => setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)?,
            (false, true) => setsockopt(socket, sockopt::Ipv4OrigDstAddr, &true)?,
            (true, true) => setsockopt(socket, sockopt::Ipv6OrigDstAddr, &true)?,
        }
    }
    Ok(())
}
