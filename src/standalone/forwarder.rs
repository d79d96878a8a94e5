//! Keeps the forwarder, and who publishes ports: started by the first connection to its sockets, started again when it
//! dies, ended with the launch.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::net::{UdpSocket, UnixStream};
use tokio::process::Command;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::log::Log;
use crate::control;

/// As the socket unit has it (TriggerLimitBurst=): an app that makes its forwarder crash has it back each
/// time; one that can't start at all is given up.
const STARTS: usize = 40;
const IN: Duration = Duration::from_secs(10);

/// The keeping of one launch's forwarder. Its end is the forwarder's.
pub struct Forwarders {
    keeping: JoinHandle<()>,
    failure: Arc<Mutex<Option<String>>>,
}

impl Forwarders {
    /// Keeps a forwarder that serves `sockets`, and gets what is `beside` them as well; the launcher's connection to
    /// each one that is started comes by the receiver.
    #[must_use]
    pub fn keep(
        command: Vec<String>,
        sockets: Vec<OwnedFd>,
        beside: Vec<OwnedFd>,
        specs: &[String],
        log: Log,
    ) -> (Self, mpsc::Receiver<UnixStream>) {
        let (connections, receiver) = mpsc::channel(1);
        let hello = control::hello(specs);
        let failure = Arc::new(Mutex::new(None));
        let told = Arc::clone(&failure);
        let keeping = tokio::spawn(async move {
            let error = keep(&command, sockets, beside, &hello, &log, &connections).await;
            if let Ok(mut failure) = told.lock() {
                *failure = Some(format!("the forwarder did not start: {error:#}"));
            }
            // The receiver waits for ever for one that does not come any more.
            connections.closed().await;
        });
        (Self { keeping, failure }, receiver)
    }

    /// Why there is none any more, if there is none.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().ok()?.clone()
    }
}

impl Drop for Forwarders {
    fn drop(&mut self) {
        self.keeping.abort();
    }
}

/// Returns when it is given up: the sockets are closed then, and the app's connections end.
async fn keep(
    command: &[String],
    sockets: Vec<OwnedFd>,
    beside: Vec<OwnedFd>,
    hello: &[u8],
    log: &Log,
    connections: &mpsc::Sender<UnixStream>,
) -> anyhow::Error {
    let (served, mut handed) = (sockets.len(), sockets);
    handed.extend(beside);
    let mut starts: VecDeque<Instant> = VecDeque::new();
    loop {
        while starts.front().is_some_and(|start| start.elapsed() > IN) {
            starts.pop_front();
        }
        if starts.len() == STARTS {
            return anyhow::anyhow!("it ended {STARTS} times in {} s", IN.as_secs());
        }
        if let Err(error) = awaited(&handed[..served]).await {
            return error;
        }
        starts.push_back(Instant::now());
        if let Err(error) = run(command, &handed, hello, log, connections).await {
            return error;
        }
    }
}

/// Waits for the first connection or datagram.
async fn awaited(sockets: &[OwnedFd]) -> Result<()> {
    // Whatever they are, that something has come is all that is asked: which tokio tells of any of its
    // sockets but listeners.
    let watch = |socket: &OwnedFd| {
        let socket = std::net::UdpSocket::from(socket.try_clone()?);
        socket.set_nonblocking(true)?;
        UdpSocket::from_std(socket)
    };
    let watched = sockets.iter().map(watch).collect::<io::Result<Vec<_>>>();
    let watched = watched.context("cannot wait for connections to it")?;
    let mut waiting: Vec<_> = watched.iter().map(|socket| Box::pin(socket.readable())).collect();
    std::future::poll_fn(|context| {
        let ready = waiting.iter_mut().any(|socket| socket.as_mut().poll(context).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    Ok(())
}

/// Runs one forwarder until its end.
async fn run(
    command: &[String],
    sockets: &[OwnedFd],
    hello: &[u8],
    log: &Log,
    connections: &mpsc::Sender<UnixStream>,
) -> Result<()> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().context("cannot make a socket")?;
    let [program, name, arguments @ ..] = command else { bail!("there is no command") };
    let mut child = Command::new(program)
        .arg0(name)
        .args(arguments)
        .env_clear()
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .current_dir("/")
        // Ctrl-C is the app's, which may go on after it.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .context("cannot run it")?;
    ours.set_nonblocking(true).context("cannot use a socket")?;
    let mut ours = UnixStream::from_std(ours).context("cannot use a socket")?;
    // One that has died by now has nobody to hand them to, and is started again.
    if control::send_with(&mut ours, hello, sockets).await.is_ok() {
        // A launcher that no longer listens is about to end.
        let _ = connections.send(ours).await;
    }
    let errors = child.stderr.take().context("it has no standard error")?;
    let (ended, _) = tokio::join!(child.wait(), log.write_down(errors));
    ended.context("cannot wait for it")?;
    Ok(())
}
