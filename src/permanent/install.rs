//! Writing, enabling, starting and removing.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use super::ROOT;
use super::files::{Made, all_files, differences, shown};
use super::realm::Realm;
use super::rendering::{Rendering, command};
use super::settled::{Settled, kept_address, settle};
use crate::cli::{LaunchArgs, UnitInstallArgs, UnitShowArgs};
use crate::exit::{self, Ended};
use crate::installed;
use crate::launch;
use crate::manager::{Kind, Life, Manager, is_transient};
use crate::name::LaunchName;
use crate::profile;
use crate::say::Say;

/// How long the app may take from its start to its execution.
const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(20);
/// How long it must go on to be said to run: what ends at once, as for a mistake in its arguments, is to be told.
const HOLDS: Duration = Duration::from_millis(300);

/// `appfw unit show`: the files as `install` would write them.
///
/// # Errors
/// Those of `install` before it writes.
pub async fn show(args: &UnitShowArgs) -> Result<()> {
    let say = Say::of_appfw(args.launch.quiet, args.launch.verbose);
    let made = make(&Realm::of_caller().await?, &args.name, &args.launch, &say)?;
    let all = shown(&made.files, &made.command)?;
    std::io::stdout().write_all(all.as_bytes()).context("cannot print the unit")
}

/// `appfw unit install`.
///
/// # Errors
/// Nothing was written; or all was, and the start failed.
pub async fn install(args: &UnitInstallArgs) -> Result<()> {
    let say = Say::of_appfw(args.launch.quiet, args.launch.verbose);
    let realm = Realm::of_caller().await?;
    realm.expect_own_program()?;
    let _alone = realm.alone()?;
    let made = make(&realm, &args.name, &args.launch, &say)?;
    launch::expect_properties(&made.rendering.plan, &realm.host)?;
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?;
    let name = &made.rendering.plan.name;
    refuse_launch(&manager, name).await?;
    let changes = differences(&made, &realm.directories)?;
    let unit = name.app();
    let is_changed = changes.iter().any(|change| !change.is_none());
    let runs = is_changed && realm.is_systems() && manager.is_active(&unit).await;
    if runs && !args.now {
        bail!(
            "{unit} runs, and other files would change its wall under it: say --now, by which it is stopped and started again"
        );
    }
    if runs {
        manager.stop(&unit).await?;
    }
    if is_changed {
        if let Err(error) = installed::apply(&changes) {
            // All is as it was.
            return match runs {
                true => manager.restart(&unit).await.and(Err(error)),
                false => Err(error),
            };
        }
        installed::tell(&changes, "written", &say);
    }
    let is_new = !manager.is_enabled(&unit).await;
    if is_new {
        manager.enable(&unit).await?;
    }
    // What was killed half-way has written, and no more.
    if is_changed || is_new || manager.needs_reload(&unit).await {
        manager.reload().await?;
    }
    if args.now {
        let since = installed::written(&made.files);
        return start(&realm, &manager, &unit, since, &realm.when(), &say).await;
    }
    say.plain(&match (is_changed, is_new) {
        (false, false) => format!("nothing to do: {unit} is installed"),
        _ => format!("{unit} is written and enabled; {} restart {unit} starts it now", realm.systemctl()),
    });
    Ok(())
}

/// `appfw unit remove`.
///
/// # Errors
/// There is no such unit of ours; systemd refuses.
pub async fn remove(name: &str) -> Result<()> {
    let name = LaunchName::new(name)?;
    let realm = Realm::of_caller().await?;
    let _alone = realm.alone()?;
    let directories = &realm.directories;
    let paths: Vec<PathBuf> = all_files(&name, directories).collect();
    let changes = installed::removals(&paths, &["unit".to_owned(), "install".to_owned(), name.to_string()])?;
    let unit = name.app();
    if changes.is_empty() {
        bail!("there is no unit {name}: {} does not exist", directories.units.join(&unit).display());
    }
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?;
    manager.stop(&unit).await?;
    manager.disable(&unit).await?;
    installed::apply(&changes)?;
    if let Some(ours) = directories.credentials.parent() {
        // Only where nothing else is in it.
        let _ = std::fs::remove_dir(ours);
    }
    manager.reload().await?;
    // What is left of a unit that failed is its name.
    manager.forget(&unit).await;
    let _ = std::fs::remove_dir_all(directories.state.join(name.to_string()));
    let say = Say::of_appfw(false, false);
    for path in drop_ins(&paths) {
        say.plain(&format!("{} is not ours, and stays", path.display()));
    }
    say.plain(&format!("{unit} is removed"));
    Ok(())
}

/// What others have added to these units.
fn drop_ins(units: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let directories = units.iter().map(|unit| PathBuf::from(format!("{}.d", unit.display())));
    directories.filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten().map(|entry| entry.path())
}

/// Decides and renders, for this host as it is.
fn make(realm: &Realm, name: &str, args: &LaunchArgs, say: &Say) -> Result<Made> {
    let Realm { host, directories } = realm;
    // Profiles and the configuration are settled, too: what they say later is taken by installing the unit again.
    let (args, applied) = profile::complete(args, Path::new(ROOT), host)?;
    if let Some(profile) = applied.describe() {
        say.detail(&profile);
    }
    let made = || {
        let kept = kept_address(&directories.units.join(LaunchName::new(name)?.app()))?;
        let Settled { args, via, credential } = settle(name, &args, kept, host, directories, say)?;
        let rendering = Rendering::new(name, &args, via, &host.clone().for_units(), directories)?;
        let files = credential.into_iter().chain(rendering.files()).collect();
        Ok(Made { rendering, files, command: command(name, &args)? })
    };
    let made = made().map_err(|error| applied.explain(error))?;
    for opening in applied.openings(&args, &made.rendering.plan) {
        say.plain(&opening);
    }
    if let Some(warning) = made.rendering.plan.warning() {
        say.warning(&warning);
    }
    Ok(made)
}

/// A launch that runs has the name: its units are PID 1's own.
async fn refuse_launch(manager: &Manager<'_>, name: &LaunchName) -> Result<()> {
    match manager.file_of(&name.app()).await {
        Some(path) if is_transient(&path) => {
            bail!("the name {name} is in use by a launch; appfw stop {name} ends it")
        }
        _ => Ok(()),
    }
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
    let began = SystemTime::now();
    if let Err(error) = manager.restart(unit).await {
        return Err(refusal(realm, unit, began).unwrap_or(error));
    }
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut executed = None;
    while tokio::time::Instant::now() < deadline {
        let life = Life::of(&manager.properties(unit, Kind::Service).await?);
        if let Some(ended) = life.main {
            if ended.code() == exit::OURS
                && let Some(error) = refusal(realm, unit, began)
            {
                return Err(error);
            }
            return ended_at_once(manager, unit, ended, how, say);
        }
        let processes = manager.processes(unit).await.unwrap_or_default();
        if processes.iter().any(|(pid, _)| is_the_apps(*pid)) {
            let since = *executed.get_or_insert_with(tokio::time::Instant::now);
            if since.elapsed() >= HOLDS {
                say.plain(&format!("{unit} runs, and {how}"));
                return Ok(());
            }
        }
        tokio::time::sleep(PAUSE).await;
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

fn ended_at_once(manager: &Manager<'_>, unit: &str, ended: Ended, how: &str, say: &Say) -> Result<()> {
    match ended.code() {
        0 => {
            say.plain(&format!("{unit} has run, and {how}"));
            Ok(())
        }
        code => bail!("{unit} was started and ended with {code}; see: {} {unit}", manager.journal()),
    }
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
