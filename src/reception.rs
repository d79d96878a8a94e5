//! The launcher's end of the control socket: receives `inside`'s report and sends it the order.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::control::{self, Order, Report};
use crate::exit::NotExecuted;
use crate::manager::Manager;
use crate::plan::Plan;
use crate::state::State;
use crate::wait::{Signals, Watch};

/// How long `inside` may take for its proof: its own probes wait five seconds at most.
const PATIENCE: Duration = Duration::from_secs(30);
/// A report is a sentence.
const MAX_REPORT: u64 = 64 << 10;

/// How far a launch came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reached {
    /// The program was executed.
    Executed,
    /// A signal from the user ended the launch before.
    Ended(u8),
}

/// Waits for `inside`, and answers its proof with the order.
///
/// # Errors
/// The wall does not stand, or the program could not be executed: `inside`'s own sentence.
pub async fn receive(
    plan: &Plan,
    state: &State,
    order: &Order,
    streams: &[OwnedFd],
    watch: &mut Watch,
    signals: &mut Signals,
    manager: &Manager<'_>,
) -> Result<Reached> {
    let listener = state.control.try_clone().context("cannot duplicate a socket")?;
    let listener = UnixListener::from_std(listener).context("cannot use a socket")?;
    let conversation = tokio::time::timeout(PATIENCE, converse(plan, &listener, order, streams));
    tokio::pin!(conversation);
    let mut signalled = None;
    loop {
        tokio::select! {
            // The report comes first: it says why the unit ended.
            biased;
            result = &mut conversation => {
                result.context("appfw inside did not report: the wall is not proven, so nothing was run")??;
                return Ok(Reached::Executed);
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

async fn converse(plan: &Plan, listener: &UnixListener, order: &Order, streams: &[OwnedFd]) -> Result<()> {
    let mut stream = BufReader::new(accept_own(plan, listener).await?.take(MAX_REPORT));
    let Some(report) = next_report(&mut stream).await? else {
        bail!("appfw inside ended before it reported, so nothing was run");
    };
    judge(report)?;
    // Blocking for the moment of one send: `inside` waits for it and does nothing else.
    let blocking = stream.into_inner().into_inner().into_std().context("cannot use a socket")?;
    blocking.set_nonblocking(false).context("cannot use a socket")?;
    control::send_with(&blocking, &order.to_bytes(), streams)?;
    blocking.set_nonblocking(true).context("cannot use a socket")?;
    // The socket closes by itself when the program is executed; anything said before is a failure.
    let stream = UnixStream::from_std(blocking).context("cannot use a socket")?;
    match next_report(&mut BufReader::new(stream.take(MAX_REPORT))).await? {
        None => Ok(()),
        Some(report) => judge(report),
    }
}

fn judge(report: Report) -> Result<()> {
    match report {
        Report::Proven { version } if version == env!("CARGO_PKG_VERSION") => Ok(()),
        Report::Proven { version } => bail!(
            "appfw is version {version} and appfw-run is {}: install both from one package",
            env!("CARGO_PKG_VERSION")
        ),
        Report::Refused { message } => bail!(message),
        Report::NotExecuted { code, message } => Err(anyhow::Error::new(NotExecuted { code, message })),
    }
}

async fn next_report(from: &mut (impl AsyncBufReadExt + Unpin)) -> Result<Option<Report>> {
    let mut line = String::new();
    let length = from.read_line(&mut line).await.context("cannot read from appfw inside")?;
    if length == 0 {
        return Ok(None);
    }
    serde_json::from_str(&line).map(Some).with_context(|| format!("appfw inside sent {line:?}"))
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
