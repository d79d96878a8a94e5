//! Services of an ordinary user: their main process is started by the launcher, which builds the wall and proves it at
//! each start. The user's systemd has no part in that (facts: docs/services.md), so that none of a service's other
//! commands could be behind it.

mod hardened;

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};

use self::hardened::Needs;
use super::exec::Exec;
use super::install::{directories, not_held, print, read_anew, refuse_listeners, take_back, tell_of_socket, twice};
use super::refuse::{self, full_name};
use super::service::Service;
use super::{alias, drop_in_in, name_of, options, paths};
use crate::cli::LaunchArgs;
use crate::exit;
use crate::installed::{self, Change, Mark, Wanted};
use crate::manager::{Kind, Manager, Properties};
use crate::name::LaunchName;
use crate::permanent::{Realm, Rendering, Settled, lasting_address, settle, start};
use crate::profile::Applied;
use crate::say::Say;
use crate::taken;
use crate::units::text::quoted;
use crate::units::{LINKERS, Value};
use crate::view::View;

/// Commands beside the main process. No user's service that is confined has any, but for a reload by a signal.
const OTHERS: [&str; 7] =
    ["ExecCondition", "ExecStartPre", "ExecStartPost", RELOAD, "ExecReloadPost", "ExecStop", "ExecStopPost"];

const RELOAD: &str = "ExecReload";

/// The drop-in, and the file of a way out with a password, of what is called so.
pub(super) fn files(realm: &Realm, service: &str, name: &LaunchName) -> [PathBuf; 2] {
    [drop_in_in(&realm.directories.units, service), realm.directories.credentials.join(name.to_string())]
}

/// `appfw confine SERVICE …`.
///
/// # Errors
/// The service cannot be confined so: then nothing was written. Or systemd does not hold what was.
pub(super) async fn confine(
    realm: &Realm,
    word: &str,
    now: bool,
    options: LaunchArgs,
    applied: &Applied,
    say: &Say,
) -> Result<()> {
    realm.expect_own_program()?;
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?.patient(*say);
    let service = read_anew(&manager, &full_name(word).map_err(of_users)?, options.dry_run).await?;
    if service.load_state == "not-found" {
        bail!(
            "{} has no service {} of their own; services of the system are root's to confine: sudo appfw confine …",
            realm.host.caller.name,
            service.name
        );
    }
    refuse::refuse_missing(&service).map_err(of_users)?;
    alias::refuse(&service)?;
    let [drop_in, secret] = files(realm, &service.name, &name_of(&service.name)?);
    refuse::refuse_changed(&service, &drop_in)?;
    realm.expect_read(&manager).await?;
    refuse_kind(&service)?;
    let name = name_of(&service.name)?;
    let own = own_command(&service, &name)?;
    let held = manager.properties(&service.name, Kind::Service).await?;
    let others = Others::of(&held)?;
    if let Some((directive, exec)) = others.outside() {
        bail!(
            "{} has {directive}={}, which would run outside of the wall: only the main process of a user's service is behind it; take that out by a drop-in first, or confine a service of the system",
            service.name,
            exec.path
        );
    }
    let dry_run = options.dry_run;
    let asked = LaunchArgs { command: vec![own.path.clone().into()], dry_run: false, ..options };
    let subject = ["confine".to_owned(), service.name.clone()];
    let address = |port| lasting_address(port, &drop_in, &subject, realm);
    let Settled { args, via, credential } =
        settle(&name.to_string(), &asked, &realm.host, &realm.directories, address, say)?;
    let host = realm.host.clone().for_units();
    let rendering = Rendering::new(&name.to_string(), &args, via, &host, &realm.directories)?;
    refuse::refuse(&service, &rendering.plan.buses, &realm.host.appfw).map_err(of_users)?;
    // Covered there as well at each start, where the launcher finds it; by this it is known before.
    let View { hidden, made, sessions, .. } = View::new(&rendering.plan, &host, &rendering.places);
    paths::refuse_hidden(&service, [hidden, made, sessions].concat()).map_err(of_users)?;
    let launcher = launcher_of(&rendering);
    hardened::refuse(&service, &held, &needs(realm, &launcher))?;
    applied.openings(&args, &rendering.plan).iter().for_each(|opening| say.plain(opening));
    if let Some(warning) = rendering.plan.warning().or_else(|| rendering.plan.buses.warning().map(str::to_owned)) {
        say.warning(&warning);
    }
    tell_of_socket(&manager, &service, say).await;
    refuse_listeners(realm, &manager, &service, &drop_in, &rendering.plan.publish, say).await?;
    let text = text(&launcher, &own, &others);
    let has_secret = credential.is_some() || rendering.plan.via.has_secret() && rendering.places.credential == secret;
    let wanted: Vec<Wanted> =
        credential.into_iter().chain([Wanted { path: drop_in.clone(), text, mode: 0o644 }]).collect();
    let command = [vec!["confine".to_owned(), service.name.clone()], options::words(&args)?].concat();
    taken::refuse(&name, &command, realm, &manager).await?;
    if !dry_run {
        installed::apply(&installed::leftovers(&[drop_in.clone(), secret.clone()], Mark::subject(&command)))?;
    }
    let mut changes = installed::changes(&wanted, &command)?;
    if !has_secret {
        changes.extend(installed::removals(&[secret], Mark::subject(&command))?);
    }
    if dry_run {
        return print(&changes, &realm.directories.credentials);
    }
    let is_new = !changes.iter().all(Change::is_none);
    if is_new {
        installed::apply(&changes)?;
        installed::remove_empty(&directories(realm), &changes);
    }
    if is_new || service.needs_reload {
        manager.reload().await?;
    }
    let held = Service::read(&manager, &service.name).await?;
    let failure = match outside(&manager, &service.name).await? {
        Some(setting) => Some(not_held(&held, &drop_in, setting)),
        None if Others::of(&manager.properties(&service.name, Kind::Service).await?)? != others => {
            Some(twice(&held, &drop_in, RELOAD))
        }
        None => None,
    };
    if let Some(failure) = failure {
        if is_new {
            take_back(&changes, realm, &manager).await?;
        }
        return Err(failure);
    }
    installed::tell(&changes, "new", say);
    let systemctl = realm.systemctl();
    let written = installed::written(&wanted);
    let is_behind = !is_new && is_behind(&manager, &service.name).await;
    match (is_behind && manager.runs_since(&service.name, written).await, service.is_active, now) {
        (true, true, _) => say.plain(&format!("nothing to do: {} is confined so already", service.name)),
        (.., true) => start(realm, &manager, &service.name, written, "is behind its wall", say)
            .await
            .map_err(|error| anyhow!("{error:#}; appfw unconfine {} takes its wall away", service.name))?,
        (_, true, false) => {
            say.plain(&format!("written; restart {0} to apply: {systemctl} restart {0}", service.name));
        }
        (_, false, false) => say.plain(&format!("written; {} starts behind its wall from now on", service.name)),
    }
    Ok(())
}

/// Whether it runs by the launcher.
pub(super) async fn is_behind(manager: &Manager<'_>, service: &str) -> bool {
    let processes = manager.processes(service).await.unwrap_or_default();
    let program = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    processes.iter().any(|(pid, _)| program(*pid).file_name().is_some_and(|name| name == "appfw-run"))
}

/// A setting by which it runs something outside, if there is one: of a drop-in that comes later than ours.
///
/// # Errors
/// systemd does not tell.
pub(super) async fn outside(manager: &Manager<'_>, service: &str) -> Result<Option<&'static str>> {
    let found = Service::read(manager, service).await?;
    let name = name_of(service)?;
    if !matches!(&found.start[..], [only] if within(only, &name).is_some()) {
        return Ok(Some("ExecStart"));
    }
    let others = Others::of(&manager.properties(service, Kind::Service).await?)?;
    Ok(others.outside().map(|(directive, _)| directive))
}

/// A sentence about services of the system, as it is for a user's own.
pub(super) fn of_users(error: anyhow::Error) -> anyhow::Error {
    anyhow!(format!("{error:#}").replace("systemctl ", "systemctl --user "))
}

/// # Errors
/// Its main process isn't the launcher's to start.
fn refuse_kind(service: &Service) -> Result<()> {
    match service.kind.as_str() {
        "simple" | "exec" | "notify" => Ok(()),
        kind => bail!(
            "{} has Type={kind}: a user's service can be confined if it is simple, exec or notify, as the launcher is its main process then",
            service.name
        ),
    }
}

/// The command of the service itself, whether it is confined already or not.
fn own_command(service: &Service, name: &LaunchName) -> Result<Exec> {
    let Service { name: unit, start, .. } = service;
    let [only] = &start[..] else {
        bail!("{unit} has {} commands in ExecStart=, and the launcher starts one", start.len());
    };
    let own = within(only, name).unwrap_or_else(|| only.clone());
    if let Some(flag) = own.flags.iter().find(|flag| !["ignore-failure", "no-env-expand"].contains(&flag.as_str())) {
        bail!(
            "{unit} runs {} with the prefix for {flag} (systemd.service(5)), which the launcher cannot keep",
            own.path
        );
    }
    let called = own.argv.first().map(String::as_str).unwrap_or_default();
    if called != own.path && Path::new(called).file_name() != Path::new(&own.path).file_name() {
        bail!("{unit} runs {} under the name {called} (`@`), which the launcher cannot keep", own.path);
    }
    Ok(own)
}

/// The command that a launcher of ours starts.
fn within(exec: &Exec, name: &LaunchName) -> Option<Exec> {
    let [_, standalone, unit, rest @ ..] = &exec.argv[..] else { return None };
    if standalone != "--standalone" || *unit != format!("--unit={name}") {
        return None;
    }
    let end = rest.iter().position(|word| word == "--")?;
    let argv = rest[end + 1..].to_vec();
    let expands = !exec.flags.iter().any(|flag| flag == "no-env-expand");
    let path = if expands { argv.first()?.replace("$$", "$") } else { argv.first()?.clone() };
    Some(Exec { path: path.clone(), argv: [vec![path], argv[1..].to_vec()].concat(), flags: exec.flags.clone() })
}

/// The commands of a service beside its main process, by directive: of each that its systemd knows.
#[derive(PartialEq, Eq)]
struct Others(Vec<(&'static str, Vec<Exec>)>);

impl Others {
    /// # Errors
    /// systemd tells them in an unknown form.
    fn of(held: &Properties) -> Result<Self> {
        let known = OTHERS.into_iter().filter_map(|directive| Some((directive, held.get(&format!("{directive}Ex"))?)));
        let read = known.map(|(directive, held)| Ok((directive, Exec::list(directive, held)?)));
        read.collect::<Result<_>>().map(Self)
    }

    /// The first that would run outside of the wall.
    fn outside(&self) -> Option<(&'static str, &Exec)> {
        let mut all = self.0.iter().flat_map(|(directive, list)| list.iter().map(|exec| (*directive, exec)));
        // It signals, and the launcher passes signals on.
        let signals = |directive: &str, exec: &Exec| {
            directive == RELOAD && ["/bin/kill", "/usr/bin/kill"].contains(&exec.path.as_str())
        };
        all.find(|(directive, exec)| !signals(directive, exec))
    }

    /// These and no others: what a new version of the service's file brings would run outside.
    fn text(&self) -> String {
        let lines = self.0.iter().map(|(directive, list)| {
            let own: String = list.iter().map(|exec| format!("{directive}={}\n", exec.text())).collect();
            format!("{directive}=\n{own}")
        });
        lines.collect()
    }
}

/// The launcher's words before the service's own.
fn launcher_of(rendering: &Rendering) -> Vec<String> {
    let command = match rendering.units.app.get("ExecStart") {
        Some(Value::Exec(command)) => &command[..],
        _ => &[],
    };
    let end = command.iter().position(|word| word == "--").unwrap_or(command.len());
    command[..end].iter().cloned().chain(["--".to_owned()]).collect()
}

/// The files that it uses at each start.
fn needs(realm: &Realm, launcher: &[String]) -> Needs {
    let ways = launcher.iter().filter_map(|word| word.strip_prefix("--via=@"));
    Needs {
        runtime: realm.host.user_bus.as_deref().and_then(Path::parent).map(Path::to_owned),
        files: launcher.iter().take(1).map(String::as_str).chain(ways).map(PathBuf::from).collect(),
    }
}

fn text(launcher: &[String], own: &Exec, others: &Others) -> String {
    let is_set = |flag: &str| own.flags.iter().any(|set| set == flag);
    let expands = !is_set("no-env-expand");
    // A service that tells when it is ready (Type=notify) is so when it is executed: the socket to tell it by is one of
    // the user's systemd, which no app reaches.
    let text = format!(
        "[Service]\nUnsetEnvironment={}\n{}Type=exec\nWatchdogSec=0\nKillMode=mixed\nSuccessExitStatus=143\nRestartPreventExitStatus={}\nExecStart=\nExecStart={}{}",
        LINKERS.join(" "),
        others.text(),
        exit::OURS,
        if is_set("ignore-failure") { "-" } else { "" },
        if expands { "" } else { ":" },
    );
    let ours = launcher.iter().map(|word| if expands { quoted(&word.replace('$', "$$")) } else { quoted(word) });
    // Which program is started is not expanded; an argument is.
    let program = if expands { own.path.replace('$', "$$") } else { own.path.clone() };
    let command: Vec<String> =
        ours.chain([quoted(&program)]).chain(own.argv.iter().skip(1).map(|word| quoted(word))).collect();
    text + &command.join(" ") + "\n"
}
