//! The story of `appfw confine`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};

use super::exec::Exec;
use super::files::{self, Files};
use super::proven::{self, Start};
use super::refuse::{self, full_name};
use super::service::Service;
use super::{DROP_IN, alias, drop_in_path, list, listeners, name_of, options, own, paths, remains};
use crate::cli::{ConfineArgs, LaunchArgs, WallKind};
use crate::filters::Programs;
use crate::host::Host;
use crate::installed::{self, Change, Mark};
use crate::manager::{self, Kind, Manager};
use crate::name::LaunchName;
use crate::permanent::{Realm, Started, apply, expect_ports, lasting_address, restart};
use crate::plan::PORT;
use crate::profile::{self, Applied};
use crate::publish::Published;
use crate::say::{self, Say};
use crate::units::{PRIVATE_TMP, TOR};
use crate::via::Via;
use crate::{taken, tor};

/// `appfw confine …`.
///
/// # Errors
/// The service cannot be confined so: then nothing was written. Or systemd does not hold what was.
pub fn run(args: ConfineArgs) -> Result<()> {
    manager::block_on(confine(args))
}

async fn confine(args: ConfineArgs) -> Result<()> {
    let say = Say::of_appfw(args.launch.quiet, args.launch.verbose);
    if args.list {
        return list::print(&Realm::of_caller().await?, args.json).await;
    }
    let Some(word) = &args.service else { bail!("which service? appfw confine SERVICE --via tor") };
    if let Some(word) = args.launch.command.first() {
        bail!("appfw confine takes one service and its options; what is {:?}?", word.to_string_lossy());
    }
    let (now, dry_run) = (args.now, args.launch.dry_run);
    let realm = Realm::of_caller().await?;
    let (launch, applied) = settings(args.launch, word, &realm)?;
    options::refuse(&launch, word, realm.is_systems()).map_err(|error| applied.explain(error))?;
    applied.left_out().iter().for_each(|left_out| say.plain(left_out));
    let _alone = if dry_run { None } else { realm.alone(&say)? };
    if !realm.is_systems() {
        return own::confine(&realm, word, now, launch, &applied, &say).await.map_err(|error| applied.explain(error));
    }
    let host = realm.host.clone().for_units();
    refuse_caller(&host, dry_run)?;
    let bus = manager::connect().await?;
    let manager = Manager::new(&bus).await?.patient(say);
    let service = read_anew(&manager, &full_name(word)?, dry_run).await?;
    let name = name_of(&service.name)?;
    let mut options = launch;
    files::make_absolute(&mut options)?;
    refuse::refuse_missing(&service)?;
    refuse::refuse_early(&service)?;
    alias::refuse(&service)?;
    refuse::refuse_changed(&service, &drop_in_path(&service.name))?;
    let via = way_out(&options, &service, &say)?;
    settle_address(&mut options, &via, &service, &realm)?;
    let render = |service: &Service| Files::new(options.clone(), via.clone(), &host, service);
    let files = render(&service).map_err(|error| applied.explain(error))?;
    applied.openings(&options, &files.plan).iter().for_each(|opening| say.plain(opening));
    refuse::refuse(&service, &files.plan.buses, &host.appfw)?;
    paths::refuse(&service, &files.drop_in, &host.appfw)?;
    refuse::refuse_useless(&service, &files.plan.buses)?;
    refuse::refuse_opening(&service, &files.plan.lists().deny, &drop_in_path(&service.name))?;
    if let Some(warning) = files.plan.warning().or_else(|| files.plan.buses.warning().map(str::to_owned)) {
        say.warning(&warning);
    }
    refuse_tor(&manager, &service, &files.plan.via).await?;
    refuse::refuse_slices(&manager, &service).await?;
    refuse::refuse_joined(&manager, &service).await?;
    tell_of_socket(&manager, &service, &say).await;
    tell_of_umbrella(&service, &say);
    taken::refuse(&name, &files.command, &realm, &manager).await?;
    if files.plan.wall != WallKind::Address {
        refuse_listeners(&realm, &manager, &service, &drop_in_path(&service.name), &files.plan.publish, &say).await?;
    }
    if now && !service.is_at_hand {
        bail!(
            "{0} may not be stopped and started by hand (RefuseManualStart=, RefuseManualStop=): confine it without --now, which is in force from its next start on",
            service.name
        );
    }
    let all = files::all(&service.name, &name);
    let wanted = files.wanted(&service);
    if !dry_run {
        // Each start would fail by one that isn't there.
        Programs::open(&files.plan.filters, false)?;
        installed::apply(&installed::leftovers(&all, Mark::subject(&files.command)))?;
    }
    let kept = |path: &PathBuf| wanted.iter().any(|wanted| wanted.path == *path) || files.uses(path);
    let obsolete: Vec<PathBuf> = all.into_iter().filter(|path| !kept(path)).collect();
    let mut changes = installed::changes(&wanted, &files.command)?;
    changes.extend(installed::removals(&obsolete, Mark::subject(&files.command))?);
    if dry_run {
        return print(&changes, Path::new(super::CREDENTIALS));
    }
    let is_new = !changes.iter().all(Change::is_none);
    let known = Start::of(&name, &service.invocation);
    let is_walled = service.is_active && known == Some(Start::Proven);
    if is_new && is_walled && !now {
        bail!(
            "{} runs behind its wall, and other files would change that under it: say --now, by which it is stopped and started again",
            service.name
        );
    }
    if now && service.is_active && (is_new || !is_walled) {
        remains::refuse_to_stop(&service)?;
    }
    if is_new {
        if !service.private.contains(&PRIVATE_TMP) {
            say.plain(&format!(
                "{} has a /tmp and a /var/tmp of its own from now on (PrivateTmp=yes): in the host's are users' sessions, which lead out",
                service.name
            ));
            for path in refuse::lost_in_tmp(&service) {
                say.plain(&format!("{} names {path}, which is in the host's: it will not see that", service.name));
            }
        }
        if service.is_active && known.is_none() {
            Start::Before.remember(&name, &service.invocation)?;
        }
        apply(&changes, &manager, &service.name, is_walled).await?;
        installed::remove_empty(&directories(&realm), &changes);
        if is_walled || !service.is_active {
            // What an earlier start has left is not behind this wall.
            proven::forget(&name);
        }
    }
    if is_new || service.needs_reload {
        manager.reload().await?;
    }
    if let Err(error) = check(&manager, &service.name, &files, render).await {
        if is_new {
            take_back(&changes, &realm, &manager).await?;
        }
        if is_walled && is_new {
            // What that start has left is behind this wall.
            let known = Start::Proven.remember(&name, &service.invocation);
            manager.restart(&service.name).await.and(known).with_context(|| format!("{error:#}; and as it was"))?;
        }
        return Err(error);
    }
    installed::tell(&changes, "new", &say);
    // Nothing would end it with the service later.
    let gone = changes.iter().filter(|change| change.before.is_some() && change.after.is_none());
    for unit in gone.filter_map(|change| change.path.file_name()?.to_str()).filter(|name| name.starts_with("appfw-")) {
        let _ = manager.stop(unit).await;
    }
    let is_behind_it = !is_new
        && service.is_active
        && known == Some(Start::Proven)
        && !remains::is_outside(&service, service.main)
        && manager.runs_since(&service.name, installed::written(&wanted)).await;
    match now {
        _ if is_behind_it => say.plain(&format!("nothing to do: {} is confined so already", service.name)),
        true => start(&realm, &manager, &service.name, &name, &say).await?,
        false if service.is_active => {
            // Seen with 252, and not with 257: a unit that runs has its new IP lists by the reload.
            let has_lists = host.systemd.is_none_or(|version| version < 257);
            let meanwhile =
                if has_lists { "this systemd has its IP lists in force at once" } else { "it goes on as before" };
            say.plain(&format!(
                "written; restart {0} to apply: systemctl restart {0} (until then {meanwhile})",
                service.name
            ));
        }
        false => say.plain(&format!("written; {} starts behind its wall from now on", service.name)),
    }
    Ok(())
}

/// The service as its files say: what was edited and not reloaded would be lost, as a drop-in repeats its commands.
pub(super) async fn read_anew(manager: &Manager<'_>, service: &str, dry_run: bool) -> Result<Service> {
    let held = Service::read(manager, service).await?;
    if dry_run || !held.needs_reload {
        return Ok(held);
    }
    manager.reload().await?;
    Service::read(manager, service).await
}

/// The directories of our own that files of several services are in, what is in another one first. A user's launches make
/// what theirs is in where it isn't.
pub(super) fn directories(realm: &Realm) -> Vec<PathBuf> {
    match realm.is_systems() {
        true => [super::CONFINED, super::CREDENTIALS, super::OWN].map(PathBuf::from).to_vec(),
        false => vec![realm.directories.credentials.clone()],
    }
}

/// The command line with what a profile that it names, and the configuration, add to it.
fn settings(launch: LaunchArgs, service: &str, realm: &Realm) -> Result<(LaunchArgs, Applied)> {
    // Profiles are for commands, and a service is none.
    let asked = LaunchArgs { no_profile: launch.profile.is_none(), command: vec![service.into()], ..launch };
    let is_unknown = |key: &str, value: &profile::Value| options::is_of_launches(key, value, realm.is_systems());
    let (completed, applied) = profile::complete_without(&asked, Path::new("/"), &realm.host, &is_unknown)?;
    Ok((LaunchArgs { command: Vec::new(), ..completed }, applied))
}

pub(super) fn refuse_caller(host: &Host, dry_run: bool) -> Result<()> {
    if !host.booted {
        bail!("no systemd is booted here, and services are its");
    }
    if dry_run {
        return Ok(());
    }
    // It is run as root at each start of the service.
    crate::host::refuse_writable(&host.appfw)
}

fn way_out(options: &LaunchArgs, service: &Service, say: &Say) -> Result<Via> {
    let look = || {
        let found = tor::find_tor(Path::new("/"));
        if let Err(error) = &found {
            say.plain(&format!("{error:#}; {} will look for it at 127.0.0.1:9050", service.name));
        }
        found.ok()
    };
    files::way_out(options, &service.name, look)
}

/// On the host's loopback a service keeps its forwarder's address.
fn settle_address(options: &mut LaunchArgs, via: &Via, service: &Service, realm: &Realm) -> Result<()> {
    if options.wall != Some(WallKind::Address) || *via == Via::None || options.address.is_some() {
        return Ok(());
    }
    let subject = ["confine".to_owned(), service.name.clone()];
    options.address = Some(lasting_address(PORT, &drop_in_path(&service.name), &subject, realm)?);
    Ok(())
}

/// The drop-in has the service start after Tor.
async fn refuse_tor(manager: &Manager<'_>, service: &Service, via: &Via) -> Result<()> {
    if !via.is_by_local_tor() {
        return Ok(());
    }
    refuse::refuse_itself(&service.name)?;
    let mut earlier = TOR.map(str::to_owned).to_vec();
    let mut next = 0;
    while let Some(unit) = earlier.get(next).cloned() {
        next += 1;
        let after = manager.property(&unit, Kind::Unit, "After").await?;
        let after = Vec::<String>::try_from(after).unwrap_or_default();
        refuse::refuse_cycle(service, &unit, &after)?;
        earlier.extend(after.into_iter().filter(|one| !earlier.contains(one)).collect::<Vec<_>>());
    }
    Ok(())
}

/// A wall that is a network of its own takes a service away from its clients.
pub(super) async fn refuse_listeners(
    realm: &Realm,
    manager: &Manager<'_>,
    service: &Service,
    drop_in: &Path,
    published: &[Published],
    say: &Say,
) -> Result<()> {
    if !service.is_active {
        if published.is_empty() {
            say.plain(&format!(
                "{} does not run, so whether it listens could not be seen: what does needs --publish{}",
                service.name,
                if realm.is_systems() { " or --wall address" } else { "" }
            ));
        }
        return Ok(());
    }
    if installed::find(drop_in)?.is_some() {
        // Where it listens now, nobody finds it anyway.
        return Ok(());
    }
    let processes: Vec<u32> = manager.processes(&service.name).await?.into_iter().map(|(number, _)| number).collect();
    let mut found = listeners::of(Path::new("/proc"), &processes);
    let is_published = |port| published.iter().any(|published| published.inner == port);
    found.retain(|listener| !(listener.is_stream && is_published(listener.address.port())));
    if found.is_empty() {
        return Ok(());
    }
    let listed: Vec<String> = found.iter().map(ToString::to_string).collect();
    let where_it_is = format!("{} listens at {}, where nobody", service.name, listed.join(", "));
    if !published.is_empty() {
        say.plain(&format!("{where_it_is} will find it in a network of its own: no --publish names that"));
        return Ok(());
    }
    let address = "--wall address with --allow NET for its clients, or rules with --via none";
    let instead = match (listeners::published(&found, Path::new("/proc")), realm.is_systems()) {
        (Some(published), true) => format!("say --wall namespace {published}, or {address}"),
        (Some(published), false) => format!("say {published}"),
        (None, true) => format!("and --publish carries no UDP: say {address}"),
        (None, false) => "and --publish carries no UDP: it cannot be confined".to_owned(),
    };
    bail!("{where_it_is} would find it in a network of its own: {instead}")
}

/// Whether systemd holds what was written, and that is what each start will compare it with: a drop-in may come later than
/// ours.
async fn check(
    manager: &Manager<'_>,
    service: &str,
    files: &Files,
    render: impl Fn(&Service) -> Result<Files>,
) -> Result<()> {
    let held = async |kind| manager.properties(service, kind).await;
    let (unit, own) = tokio::try_join!(held(Kind::Unit), held(Kind::Service))?;
    let (found, drop_in) = (Service::of(&unit, &own)?, drop_in_path(service));
    if let Some(setting) = files.drop_in.missing(&unit, &own) {
        return Err(not_held(&found, &drop_in, setting));
    }
    match render(&found)?.drop_in.added(&files.drop_in) {
        Some(setting) => Err(twice(&found, &drop_in, &setting)),
        None => Ok(()),
    }
}

/// Why systemd holds more than our drop-in says, which repeats what was there before it.
pub(super) fn twice(service: &Service, drop_in: &Path, setting: &str) -> anyhow::Error {
    let later = service.drop_ins.iter().rev().take_while(|path| !path.ends_with(DROP_IN));
    let later: Vec<String> = later.map(|path| path.display().to_string()).collect();
    if later.is_empty() {
        return not_held(service, drop_in, setting);
    }
    anyhow!(
        "{}: {} comes after {}, which repeats its {setting}=, so that this would be there twice: give it a name that comes earlier",
        service.name,
        later.join(", "),
        drop_in.display()
    )
}

/// Why systemd does not hold what our drop-in says.
pub(super) fn not_held(service: &Service, drop_in: &Path, setting: &str) -> anyhow::Error {
    let real = drop_in.canonicalize().unwrap_or_default();
    let is_read = service.drop_ins.iter().any(|path| path == drop_in || *path == real);
    if !is_read {
        return anyhow!(
            "systemd does not read {}, so {} would not be confined, and nothing was changed: make {} a directory and no link",
            drop_in.display(),
            service.name,
            drop_in.parent().unwrap_or(drop_in).display()
        );
    }
    anyhow!(
        "{}: {setting}= would not be as the wall needs it: look at {}; if it is confined already, appfw unconfine {0} takes that away",
        service.name,
        service.others(drop_in).join(", ")
    )
}

/// Undoes what was written and does not hold.
pub(super) async fn take_back(changes: &[Change], realm: &Realm, manager: &Manager<'_>) -> Result<()> {
    installed::take_back(changes)?;
    installed::remove_empty(&directories(realm), changes);
    manager.reload().await
}

/// A socket of the service's name that is not loaded: nothing tells yet that it is one of the service's.
pub(super) async fn tell_of_socket(manager: &Manager<'_>, service: &Service, say: &Say) {
    let socket = format!("{}.socket", service.name.trim_end_matches(".service"));
    let state = manager.file_state(&socket).await;
    if state.is_some_and(|state| !state.starts_with("masked")) && !service.triggered_by.contains(&socket) {
        say.warning(&format!(
            "{socket} is there, though not loaded: once it is started, {} gets no socket from it, as that is of the host's network, and does not serve",
            service.name
        ));
    }
}

/// Of a unit that others are part of, as some packages have one, nothing is left to confine.
fn tell_of_umbrella(service: &Service, say: &Say) {
    let does_nothing = |exec: &Exec| ["/bin/true", "/usr/bin/true"].contains(&&*exec.path);
    if !service.start.is_empty() && service.start.iter().all(does_nothing) {
        say.warning(&format!(
            "{0} runs nothing but true(1), so that there is no process of its own to confine: confine those services that it starts (systemctl list-dependencies {0})",
            service.name
        ));
    }
}

/// With what serves it, or has: that is to be as the files say now.
async fn start(realm: &Realm, manager: &Manager<'_>, service: &str, name: &LaunchName, say: &Say) -> Result<()> {
    manager.stop(service).await?;
    stop_servants(manager, name, true).await;
    let restarted = restart(realm, manager, service).await;
    let how = expect_ports(manager, name).await.and(restarted).map_err(|error| match format!("{error:#}") {
        told if told.contains("appfw unconfine") => error,
        told => anyhow!("{told}; appfw unconfine {service} takes its wall away"),
    })?;
    // That the proof has ended well, as systemd saw it, is not that it was made.
    let found = Service::read(manager, service).await?;
    if remains::is_outside(&found, found.main) {
        let main = found.main;
        manager.stop(service).await?;
        bail!("systemd took process {main}, which runs outside of {service}, for its main one, and has ended both");
    }
    if how != Started::Skipped && Start::of(name, &found.invocation) != Some(Start::Proven) {
        manager.stop(service).await?;
        bail!(
            "{service} was started without the proof of its wall, and is stopped: systemctl cat {service} shows its files"
        );
    }
    say.plain(&format!("{service} {how}"));
    Ok(())
}

/// Whether there were any; where `all` isn't meant, those without a file: another of that name has files for its own.
pub(super) async fn stop_servants(manager: &Manager<'_>, name: &LaunchName, all: bool) -> bool {
    let mut were_there = false;
    for servant in name.servants() {
        if !all && manager.file_of(&servant).await.is_some() {
            continue;
        }
        were_there |= manager.is_active(&servant).await;
        // Not there, or over already.
        let _ = manager.stop(&servant).await;
        // As a socket whose port is taken has.
        manager.forget(&servant).await;
    }
    were_there
}

/// The files as they would be, a password's left out.
pub(super) fn print(changes: &[Change], credentials: &Path) -> Result<()> {
    let text = changes.iter().map(|change| {
        let path = change.path.display();
        match &change.after {
            Some(_) if change.path.starts_with(credentials) => {
                format!("# {path}: the upstream with its password\n")
            }
            Some(text) => format!("# {path}\n{text}"),
            None => format!("# {path}: removed\n"),
        }
    });
    say::answer(&text.collect::<Vec<_>>().join("\n"))
}
