//! Starting what is written, and how that went.

use std::fmt;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, anyhow, bail};
use tokio::time::{Instant, sleep};
use zbus::zvariant::{Array, Value};

use super::realm::Realm;
use crate::exit::{self, Ended};
use crate::installed::{self, Change};
use crate::manager::{Kind, Life, Manager, Properties};
use crate::name::LaunchName;
use crate::say::Say;

/// How long the app may take from its start to its execution.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);
/// How long it must go on to be said to run: what ends at once, as for a mistake in its arguments, is to be told.
const HOLDS: Duration = Duration::from_millis(300);

/// Changes the files of a unit, which is stopped for that if it runs behind them.
///
/// # Errors
/// It does not stop; a file could not be written: then all is as it was, and so is it.
pub async fn apply(changes: &[Change], manager: &Manager<'_>, unit: &str, runs: bool) -> Result<()> {
    if runs {
        manager.stop(unit).await?;
    }
    let applied = installed::apply(changes);
    if applied.is_err() && runs {
        let again = manager.restart(unit).await.err();
        return applied.with_context(|| match again {
            None => format!("{unit} was stopped for new files, and runs again as before"),
            Some(error) => format!("{unit} was stopped for new files, and does not start again ({error:#})"),
        });
    }
    applied
}

/// Starts it, or anew what has run since before its files were `written`, and waits until the app is executed; `how` is
/// said of what runs.
///
/// # Errors
/// It did not start, or ended at once; why, if one of ours has told.
pub async fn start(
    realm: &Realm,
    manager: &Manager<'_>,
    unit: &str,
    written: SystemTime,
    how: &str,
    say: &Say,
) -> Result<()> {
    if manager.is_active(unit).await && manager.runs_since(unit, written).await {
        say.plain(&format!("nothing to do: {unit} is installed and runs"));
        return Ok(());
    }
    manager.hold(unit).await;
    let began = SystemTime::now();
    if let Err(error) = manager.restart(unit).await {
        return Err(refusal(realm, unit, began).unwrap_or(error));
    }
    if is_skipped(manager, unit).await? {
        say.plain(&format!("{unit} {}, and {how} when it is", Started::Skipped));
        return Ok(());
    }
    let deadline = Instant::now() + PATIENCE;
    let mut executed = None;
    while Instant::now() < deadline {
        let held = manager.properties(unit, Kind::Service).await?;
        if let Some(ended) = Life::of(&held).main {
            if ended.code() == exit::OURS
                && let Some(error) = refusal(realm, unit, began)
            {
                return Err(error);
            }
            if result(&held) != SUCCESS {
                return Err(ended_at_once(manager, unit, Some(ended), result(&held)));
            }
            say.plain(&format!("{unit} has run, and {how}"));
            return Ok(());
        }
        let processes = manager.processes(unit).await.unwrap_or_default();
        if processes.iter().any(|(pid, _)| is_the_apps(*pid)) {
            let since = *executed.get_or_insert_with(Instant::now);
            if since.elapsed() >= HOLDS {
                say.plain(&format!("{unit} runs, and {how}"));
                return Ok(());
            }
        }
        sleep(PAUSE).await;
    }
    bail!(
        "{unit} was started, and did not execute its program within {} s; see: {} {unit}",
        PATIENCE.as_secs(),
        manager.journal()
    )
}

/// Whether a process executes something else than ours, and than systemd before it executes that. Its command line
/// doesn't tell: one that has just ended has none.
fn is_the_apps(pid: u32) -> bool {
    let program = std::fs::read_link(format!("/proc/{pid}/exe"));
    program.is_ok_and(|program| {
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        !["appfw", "appfw-run", "systemd", "systemd-executor"].contains(&&*name)
    })
}

/// Starts a service of another's making anew. That is over when its wall is proven, before its main process; how this
/// goes on is looked at for a moment, and returned.
///
/// # Errors
/// It did not start, or failed at once; why, if one of ours has told.
pub async fn restart(realm: &Realm, manager: &Manager<'_>, service: &str) -> Result<Started> {
    manager.hold(service).await;
    let began = SystemTime::now();
    if let Err(error) = manager.restart(service).await {
        // What is said of one that starts all the same is no reason.
        let refused = refusal(realm, service, began).filter(|said| said.to_string().contains("was not started"));
        return Err(refused.unwrap_or(error));
    }
    if is_skipped(manager, service).await? {
        return Ok(Started::Skipped);
    }
    let started = Instant::now();
    loop {
        let is_looked_at = started.elapsed() >= HOLDS;
        // Asked before how it ended: what is over by now has its last result.
        let runs = manager.is_active(service).await;
        let held = manager.properties(service, Kind::Service).await?;
        match result(&held) {
            SUCCESS if !is_looked_at => sleep(PAUSE).await,
            SUCCESS if runs => return Ok(Started::Runs),
            SUCCESS => return Ok(Started::HasRun),
            "exec-condition" => return Ok(Started::NotNow),
            result => return Err(ended_at_once(manager, service, Life::of(&held).main, result)),
        }
    }
}

/// What came of a start that systemd calls well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Started {
    /// It goes on.
    Runs,
    /// It is over.
    HasRun,
    /// A command of its own has kept it from starting, after the proof.
    NotNow,
    /// systemd has kept it from starting, and nothing of it has run, the proof neither.
    Skipped,
}

impl fmt::Display for Started {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Runs => "runs, and is behind its wall",
            Self::HasRun => "has run, and is behind its wall",
            Self::NotNow => "was not started, as its own conditions say (ExecCondition=)",
            Self::Skipped => {
                "was not started, as a condition of its own is not met (Condition…=, see systemctl status)"
            }
        })
    }
}

/// Whether nothing was started, as a condition is not met (systemd.unit(5)): that is no failure of the start.
async fn is_skipped(manager: &Manager<'_>, unit: &str) -> Result<bool> {
    let is_met = manager.property(unit, Kind::Unit, "ConditionResult").await?;
    let result = manager.property(unit, Kind::Service, "Result").await?;
    // One of its commands may have been the condition.
    Ok(*is_met == Value::Bool(false) && *result == Value::from(SUCCESS) && !manager.is_active(unit).await)
}

/// How a service's `Result=` calls that it is well, or was to its end; exit codes that are none of a failure are so.
const SUCCESS: &str = "success";

fn result(service: &Properties) -> &str {
    service.get("Result").and_then(|result| <&str>::try_from(result).ok()).unwrap_or(SUCCESS)
}

fn ended_at_once(manager: &Manager<'_>, unit: &str, ended: Option<Ended>, result: &str) -> anyhow::Error {
    let how = ended.map_or_else(|| format!("failed ({result})"), |ended| format!("ended with {}", ended.code()));
    anyhow!("{unit} was started and {how}; see: {} {unit}", manager.journal())
}

/// What listens on the host for what is called so does, if there is any: published ports, and in the address wall the
/// forwarder. Who needs it would start without, or not start.
///
/// # Errors
/// It doesn't: names its addresses.
pub async fn expect_ports(manager: &Manager<'_>, name: &LaunchName) -> Result<()> {
    for socket in [name.publisher_socket(), name.socket()] {
        let state = manager.property(&socket, Kind::Unit, "ActiveState").await;
        // In a network of its own nobody else has an address.
        let has_own = manager.property(&socket, Kind::Socket, "PrivateNetwork").await;
        let is_hosts = has_own.is_ok_and(|has_own| *has_own == Value::from(false));
        if !is_hosts || !state.is_ok_and(|state| *state == Value::from("failed")) {
            continue;
        }
        let ports = manager.property(&socket, Kind::Socket, "Listen").await;
        let ports = ports.ok().and_then(|ports| Array::try_from(ports).ok()).map(|ports| listed(&ports));
        bail!(
            "{socket} cannot listen at {}, most likely as another process does (ss -ltnp); see: {} {socket}",
            ports.unwrap_or_default(),
            manager.journal()
        );
    }
    Ok(())
}

/// The addresses of a socket unit's `Listen=`: pairs of a type and an address.
fn listed(listen: &Array<'_>) -> String {
    let address = |pair: &Value<'_>| match pair {
        Value::Structure(pair) => {
            pair.fields().get(1).and_then(|address| <&str>::try_from(address).ok()).map(str::to_owned)
        }
        _ => None,
    };
    listen.inner().iter().filter_map(address).collect::<Vec<_>>().join(", ")
}

/// Why it did not start, if one of ours has said it to the journal since. Not by the number of the start: journald looks
/// that up, and finds none of a unit that is over by then.
fn refusal(realm: &Realm, unit: &str, began: SystemTime) -> Option<anyhow::Error> {
    let began = began.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs();
    let of_unit = if realm.is_systems() { "--unit" } else { "--user-unit" };
    let lines = Command::new("journalctl")
        .args(["--sync"])
        // Root alone may ask for it; else what was said is there a moment later.
        .stderr(Stdio::null())
        .status()
        .and_then(|_| {
            let words = ["--quiet", "--no-pager", "--output=cat", &format!("--since=@{began}"), of_unit, unit];
            Command::new("journalctl").args(words).output()
        })
        .ok()?;
    let text = String::from_utf8_lossy(&lines.stdout);
    let ours = ["appfw ready: ", "appfw inside: ", "appfw-run: "];
    let said = text.lines().rev().find_map(|line| ours.iter().find_map(|who| line.strip_prefix(who)));
    said.map(|sentence| anyhow::Error::msg(sentence.to_owned()))
}
