//! The story of `appfw unconfine`, for services of the system and of a user alike.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::install::{directories, print, refuse_caller, stop_servants};
use super::refuse::full_name;
use super::{alias, files, list, name_of, own, proven};
use crate::cli::UnconfineArgs;
use crate::installed;
use crate::manager::{self, Kind, Manager};
use crate::name::LaunchName;
use crate::permanent::Realm;
use crate::say::Say;

/// `appfw unconfine …`.
///
/// # Errors
/// Something of it could not be removed, or a service that was let go does not start: all others are let go, and these
/// are named.
pub fn undo(args: &UnconfineArgs) -> Result<()> {
    manager::block_on(unconfine(args))
}

async fn unconfine(args: &UnconfineArgs) -> Result<()> {
    let say = Say::of_appfw(args.quiet, false);
    let realm = Realm::of_caller().await?;
    let _alone = if args.dry_run { None } else { realm.alone(&say)? };
    if realm.is_systems() {
        refuse_caller(&realm.host, args.dry_run)?;
    }
    let services = chosen(args, &realm)?;
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?.patient(say);
    let mut done: Vec<String> = Vec::new();
    let mut failures = Vec::new();
    for service in &services {
        if done.contains(service) {
            continue;
        }
        let names = alias::names(&manager, service).await;
        let outcome = release(&names, args, &realm, &manager, &say).await;
        failures.extend(outcome.err().map(|error| format!("{error:#}")));
        done.extend(names);
    }
    if services.is_empty() {
        say.plain("nothing to do: no service is confined");
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// Those that are meant.
fn chosen(args: &UnconfineArgs, realm: &Realm) -> Result<Vec<String>> {
    match (&args.service, args.all) {
        (Some(word), false) if realm.is_systems() => Ok(vec![full_name(word)?]),
        (Some(word), false) => Ok(vec![full_name(word).map_err(own::of_users)?]),
        (None, true) => list::services(realm),
        _ => bail!("which service? appfw unconfine SERVICE, or --all"),
    }
}

/// Lets one service go, which systemd knows by the first of its names: it may have been confined by any of them.
async fn release(
    names: &[String],
    args: &UnconfineArgs,
    realm: &Realm,
    manager: &Manager<'_>,
    say: &Say,
) -> Result<()> {
    let Some(service) = names.first() else { return Ok(()) };
    let (mut walls, mut changes) = (Vec::new(), Vec::new());
    for name in names {
        // What cannot be confined by a name was not.
        let Ok(called) = name_of(name) else { continue };
        let swept = installed::sweep(&files(realm, name, &called), &["confine".to_owned(), name.clone()])?;
        walls.push((called, !swept.is_empty()));
        changes.extend(swept);
    }
    if changes.is_empty() {
        if !args.dry_run {
            // Who was killed after the files were gone came no further.
            stop_all(&walls, realm, manager).await;
            if manager.needs_reload(service).await {
                manager.reload().await?;
            }
        }
        say.plain(&format!("nothing to do: {service} is not confined"));
        return Ok(());
    }
    if args.dry_run {
        return print(&changes, &realm.directories.credentials);
    }
    // Before what a start that is under way binds in is gone, which fails then.
    let runs = manager.is_active(service).await;
    installed::apply(&changes)?;
    installed::remove_empty(&directories(realm), &changes);
    installed::tell(&changes, "new", say);
    if realm.is_systems() {
        walls.iter().filter(|(_, was_there)| *was_there).for_each(|(name, _)| proven::forget(name));
    }
    manager.reload().await?;
    let refusal = if runs { no_restart(manager, service).await } else { None };
    let restarts = runs && args.now && refusal.is_none();
    // What serves it has no file any more: nothing would end it with the service later.
    let stopped = if restarts && realm.is_systems() { manager.stop(service).await } else { Ok(()) };
    let had_servants = stop_all(&walls, realm, manager).await;
    stopped?;
    if restarts {
        return manager.restart(service).await;
    }
    if runs {
        let next = match refusal {
            None => format!("restart {service} to apply: {} restart {service}", realm.systemctl()),
            Some(why) => format!("{service} {why}, so it is not restarted and goes on as it is"),
        };
        let until = if had_servants { " (its way out is gone until then)" } else { "" };
        say.plain(&format!("removed; {next}{until}"));
    }
    Ok(())
}

/// Every file that confining a service by this name may have made.
fn files(realm: &Realm, service: &str, name: &LaunchName) -> Vec<PathBuf> {
    if realm.is_systems() { files::all(service, name) } else { own::files(realm, service, name).to_vec() }
}

/// Ends what serves these, if anything did: of what was not confined, that which has no file.
async fn stop_all(walls: &[(LaunchName, bool)], realm: &Realm, manager: &Manager<'_>) -> bool {
    let mut were_there = false;
    // A user's service has its forwarder as a process of its own.
    for (name, was_there) in walls.iter().filter(|_| realm.is_systems()) {
        were_there |= stop_servants(manager, name, *was_there).await;
    }
    were_there
}

/// Why a service would not start again once it is stopped, if it wouldn't.
async fn no_restart(manager: &Manager<'_>, service: &str) -> Option<String> {
    let held = async |name| manager.property(service, Kind::Unit, name).await.ok();
    let state = held("LoadState").await?;
    let may = async |name| held(name).await.is_none_or(|may| bool::try_from(may).unwrap_or(true));
    match <&str>::try_from(&state).ok()? {
        "loaded" if may("CanStart").await && may("CanStop").await => None,
        "loaded" => Some("may not be stopped and started by hand (RefuseManualStart=, RefuseManualStop=)".to_owned()),
        "masked" => Some("is masked".to_owned()),
        "not-found" => Some("has no file any more".to_owned()),
        other => Some(format!("cannot be loaded ({other})")),
    }
}
