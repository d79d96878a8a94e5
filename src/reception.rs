//! The launcher's end of the control socket: receives `inside`'s report and sends it the order.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};

use crate::control::{self, Order, Report};
use crate::exit::{Ended, NotExecuted};
use crate::manager::Manager;
use crate::plan::Plan;
use crate::wait::{Signals, Watch};

/// How long `inside` may take for its proof: its own probes wait five seconds at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// A report is a sentence.
const MAX_REPORT: usize = 64 << 10;

/// How far a launch came.
#[derive(Debug)]
pub enum Reached {
    /// The program was executed.
    Executed(App),
    /// A signal from the user ended the launch before.
    Ended(u8),
}

/// Waits for `inside`, and answers its proof with the order.
///
/// # Errors
/// The wall does not stand, or the program could not be executed: `inside`'s own sentence.
pub async fn receive(
    plan: &Plan,
    control: std::os::unix::net::UnixListener,
    order: &Order,
    streams: &[OwnedFd],
    watch: &mut Watch,
    signals: &mut Signals,
    manager: &Manager<'_>,
) -> Result<Reached> {
    // Closed when `inside` has been heard: nobody else has anything to say here.
    let listener = UnixListener::from_std(control).context("cannot use a socket")?;
    let conversation = tokio::time::timeout(PATIENCE, converse(plan, &listener, order, streams));
    tokio::pin!(conversation);
    let mut signalled = None;
    loop {
        tokio::select! {
            // The report comes first: it says why the unit ended.
            biased;
            result = &mut conversation => {
                let app = result.context("appfw inside did not report: the wall is not proven, so nothing was run")??;
                return Ok(Reached::Executed(app));
            }
            signal = signals.next() => {
                signalled = Some(signal);
                signal.forward(manager, watch.unit()).await;
            }
            over = watch.over() => {
                over?;
                return match signalled {
                    Some(signal) => Ok(Reached::Ended(signal.code())),
                    None => bail!(
                        "{} ended before its wall was proven, so nothing was run; see: journalctl -u {0}",
                        watch.unit()
                    ),
                };
            }
        }
    }
}

async fn converse(plan: &Plan, listener: &UnixListener, order: &Order, streams: &[OwnedFd]) -> Result<App> {
    let mut inside = App(accept_own(plan, listener).await?);
    match inside.next().await? {
        Some(Report::Proven { version }) if version == env!("CARGO_PKG_VERSION") => {}
        Some(Report::Proven { version }) => bail!(
            "appfw is version {version} and appfw-run is {}: install both from one package",
            env!("CARGO_PKG_VERSION")
        ),
        Some(report) => return Err(refusal(report)),
        None => bail!("appfw inside ended before it reported, so nothing was run"),
    }
    inside = inside.send(order, streams)?;
    // The socket closes by itself where `inside` becomes the program.
    match inside.next().await? {
        None | Some(Report::Executed) => Ok(inside),
        Some(report) => Err(refusal(report)),
    }
}

fn refusal(report: Report) -> anyhow::Error {
    match report {
        Report::Refused { message } => anyhow::Error::msg(message),
        Report::NotExecuted { code, message } => anyhow::Error::new(NotExecuted { code, message }),
        report => anyhow::anyhow!("appfw inside sent {report:?} out of turn"),
    }
}

/// The connection to `inside`.
#[derive(Debug)]
pub struct App(UnixStream);

impl App {
    /// How the app's main process ended, where `inside` stays to tell; never returns elsewhere.
    pub async fn ended(&mut self) -> Ended {
        match self.next().await {
            Ok(Some(Report::Ended(how))) => how,
            // systemd tells of the main process then.
            _ => std::future::pending().await,
        }
    }

    fn send(self, order: &Order, streams: &[OwnedFd]) -> Result<Self> {
        // Blocking for the moment of one send: `inside` waits for it and does nothing else.
        let stream = self.0.into_std().context("cannot use a socket")?;
        stream.set_nonblocking(false).context("cannot use a socket")?;
        control::send_with(&stream, &order.to_bytes(), streams)?;
        stream.set_nonblocking(true).context("cannot use a socket")?;
        UnixStream::from_std(stream).map(Self).context("cannot use a socket")
    }

    /// The next report: one line, which `inside` writes as a whole.
    async fn next(&mut self) -> Result<Option<Report>> {
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            let length = self.0.read(&mut byte).await.context("cannot read from appfw inside")?;
            match byte[0] {
                _ if length == 0 && line.is_empty() => return Ok(None),
                b'\n' => break,
                _ if length == 0 || line.len() == MAX_REPORT => bail!("appfw inside sent half a report"),
                byte => line.push(byte),
            }
        }
        let report = serde_json::from_slice(&line);
        report.map(Some).with_context(|| format!("appfw inside sent {:?}", String::from_utf8_lossy(&line)))
    }
}

/// The first client that belongs to the app's unit; any other gets nothing. As an ordinary user's
/// launch, other processes of that user could connect as well.
async fn accept_own(plan: &Plan, listener: &UnixListener) -> Result<UnixStream> {
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept on the control socket")?;
        let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
        let cgroup = pid.and_then(|pid| std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok());
        if cgroup
            .is_some_and(|text| text.lines().any(|line| line.starts_with("0::") && line.ends_with(&plan.name.cgroup())))
        {
            return Ok(stream);
        }
    }
}
