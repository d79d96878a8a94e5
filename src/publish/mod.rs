//! `--publish`: ports of the host that lead into the app's namespace, and `appfw publish`, the part of a
//! launch that leads them.
//!
//! It is no way out: the app can answer who connects, and begin nothing.

pub mod listeners;
pub mod namespaces;
mod port;
mod serve;

use std::fs::File;
use std::net::TcpListener as Std;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use listenfd::ListenFd;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::cli::PublishArgs;
use crate::forward::carry::{Launcher, Limits, ended, start_log};

pub use port::{Published, collide};
use serve::{House, serve};

/// The first descriptor that systemd hands over (sd_listen_fds(3), SD_LISTEN_FDS_START).
const FIRST: usize = 3;

/// `appfw publish`: runs until it is ended.
///
/// # Errors
/// It cannot do its work.
pub fn run(args: &PublishArgs) -> Result<()> {
    start_log(None);
    // What is kept of one that died, or, where there is no launcher, what a socket unit made.
    let is_handed_by_systemd = std::env::var_os("LISTEN_FDS").is_some();
    let launcher = Launcher::meet(args.report.as_deref(), !is_handed_by_systemd)?;
    let Launcher { reporter, mut sockets, lifeline, .. } = launcher;
    sockets.extend(kept()?);
    publish(args, sockets, lifeline).inspect_err(|error| reporter.cannot_start(error))
}

fn publish(args: &PublishArgs, handed: Vec<OwnedFd>, lifeline: Option<UnixStream>) -> Result<()> {
    let (namespaces, sockets) = handed.into_iter().partition(namespaces::is_one);
    // Before there is a second thread, with which nobody enters a user namespace (setns(2)).
    namespaces::join(namespaces, args.outside)?;
    let house = Arc::new(House::new(&Limits::of_this_process(&[])?));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(async {
        let mut serving = JoinSet::new();
        for (listener, published) in led(sockets, &args.publish)? {
            serving.spawn(serve(listener, published, Arc::clone(&house)));
        }
        match lifeline {
            Some(launcher) => ended(launcher).await,
            // By SIGTERM, when its unit is stopped: there is nothing to save.
            None => std::future::pending().await,
        }
    })
}

/// Each listener with the port that it is for. Needs the runtime.
fn led(sockets: Vec<OwnedFd>, published: &[Published]) -> Result<Vec<(TcpListener, Published)>> {
    if sockets.len() != published.len() {
        bail!("{} sockets were handed over for {} ports", sockets.len(), published.len());
    }
    let led = |socket: OwnedFd| {
        let listener = Std::from(socket);
        let address = listener.local_addr().context("cannot tell a socket's address")?;
        let published = published.iter().find(|published| published.outer == address);
        let published =
            published.with_context(|| format!("a socket at {address} was handed over, which is for nothing"))?;
        listener.set_nonblocking(true).context("cannot use a listening socket")?;
        Ok((TcpListener::from_std(listener).context("cannot use a listening socket")?, *published))
    };
    sockets.into_iter().map(led).collect()
}

/// What the manager has kept of one that died, or has made.
fn kept() -> Result<Vec<OwnedFd>> {
    let mut kept = ListenFd::from_env();
    let count = kept.len();
    let taken = |index: usize| match kept.take_tcp_listener(index) {
        Ok(listener) => listener.map(OwnedFd::from).context("a socket that was kept is gone"),
        // It is a namespace, which has no type of its own there: by its name it is opened anew.
        Err(_) => {
            let namespace = File::open(format!("/proc/self/fd/{}", FIRST + index));
            namespace.map(OwnedFd::from).context("cannot use what was kept of the app's namespaces")
        }
    };
    (0..count).map(taken).collect()
}
