//! The sockets that the forwarder serves in the app's namespace. It can make none there itself: they
//! are made here and handed to the launcher.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use anyhow::{Context, Result, bail};

use crate::control::{self, Report, acknowledged};
use crate::listening::{Kind, Listening};

/// Makes them and hands them over; returns when the launcher holds them.
///
/// # Errors
/// One cannot be made; the launcher is gone.
pub fn hand_over(wanted: &[Listening], launcher: &UnixStream) -> Result<()> {
    if wanted.len() > control::MAX_DESCRIPTORS {
        bail!("the forwarder cannot listen at {} places, {} are the most", wanted.len(), control::MAX_DESCRIPTORS);
    }
    let sockets = wanted.iter().map(open).collect::<Result<Vec<_>>>()?;
    let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
    control::send_all(launcher, &Report::Listening { sockets: sockets.len() }.line()?, &borrowed)?;
    acknowledged(launcher)
}

fn open(wanted: &Listening) -> Result<OwnedFd> {
    let Listening { kind, address } = wanted;
    let failed = || format!("cannot listen at {address} in the app's namespace");
    match kind {
        Kind::Stream => TcpListener::bind::<SocketAddr>(*address).map(OwnedFd::from).with_context(failed),
        Kind::Datagram => UdpSocket::bind::<SocketAddr>(*address).map(OwnedFd::from).with_context(failed),
    }
}
