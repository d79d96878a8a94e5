//! `appfw confine --list`.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use super::proven::Start;
use super::service::Service;
use super::{CONFINED, DROP_IN, drop_in_in, name_of, own, remains};
use crate::cli::{Appfw, Subcommand, WallKind};
use crate::installed::{self, Mark};
use crate::permanent::{Directories, Realm};
use crate::say;

/// One confined service.
#[derive(Debug, Serialize)]
struct Entry {
    service: String,
    via: Vec<String>,
    wall: String,
    state: &'static str,
    proven: bool,
    stale: bool,
    /// Without it the service is not confined from its next start on.
    drop_in: bool,
    command: Vec<String>,
}

/// The services that a file of ours is of: their drop-in, or what another that is gone has left.
///
/// # Errors
/// The directory of units cannot be read.
pub fn services(realm: &Realm) -> Result<Vec<String>> {
    Ok(marks(realm)?.into_keys().collect())
}

/// Each with the mark of its drop-in, and whether that is there; or with the mark of another of its files.
///
/// # Errors
/// The directory of units cannot be read.
pub fn marks(realm: &Realm) -> Result<BTreeMap<String, (Mark, bool)>> {
    let units = &realm.directories.units;
    let mut services = BTreeMap::new();
    for file in files(realm)? {
        // What isn't ours is nobody that we confined.
        let Some((_, mark)) = installed::find(&file).ok().flatten() else { continue };
        let [word, service, ..] = &mark.command[..] else { continue };
        if word == "confine" {
            let service = service.clone();
            let is_drop_in = file == drop_in_in(units, &service);
            if is_drop_in || !services.contains_key(&service) {
                services.insert(service, (mark, is_drop_in));
            }
        }
    }
    Ok(services)
}

/// Where files of confined services may be, with those that a killed writer has left.
fn files(realm: &Realm) -> Result<Vec<PathBuf>> {
    let Directories { units, credentials, .. } = &realm.directories;
    let named = |directory: &Path, part: &str| -> Vec<PathBuf> {
        let all = entries(directory).unwrap_or_default().into_iter();
        all.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(part))).collect()
    };
    let all = entries(units).with_context(|| format!("cannot read {}", units.display()))?;
    let drop_ins = all.iter().filter(|path| path.extension().is_some_and(|kind| kind == "d"));
    let mut files: Vec<PathBuf> = drop_ins.flat_map(|directory| named(directory, DROP_IN)).collect();
    files.extend(named(units, "appfw-"));
    files.extend(named(units, installed::CLAIM));
    files.extend(named(credentials, ""));
    if realm.is_systems() {
        let services = named(Path::new(CONFINED), "");
        files.extend(services.iter().flat_map(|service| named(service, "")));
        files.extend(services);
    }
    Ok(files)
}

/// What is in a directory; nothing if it isn't there.
fn entries(directory: &Path) -> std::io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => Ok(entries.flatten().map(|entry| entry.path()).collect()),
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// Prints them, one a line or as JSON.
///
/// # Errors
/// They cannot be read, or nobody reads what is printed.
pub(super) async fn print(realm: &Realm, json: bool) -> Result<()> {
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?;
    let units = &realm.directories.units;
    let mut entries = Vec::new();
    for (service, (mark, is_there)) in marks(realm)? {
        let found = Service::read(&manager, &service).await.ok().filter(|found| found.load_state != "not-found");
        let proven = match (realm.is_systems(), &found) {
            (_, None) => false,
            (true, Some(found)) => {
                let written = drop_in_in(units, &service).metadata().and_then(|found| found.modified());
                let written = written.unwrap_or_else(|_| SystemTime::now());
                was_proven(&service, found) && manager.runs_since(&service, written).await
            }
            // The launcher executes nothing that it has not proven the wall of.
            (false, Some(_)) => {
                let is_as_written = matches!(own::outside(&manager, &service).await, Ok(None));
                is_as_written && own::is_behind(&manager, &service).await
            }
        };
        entries.push(Entry { drop_in: is_there, ..entry(service, mark, found.as_ref(), units, proven) });
    }
    let text = if json { serde_json::to_string_pretty(&entries)? + "\n" } else { entries.iter().map(line).collect() };
    say::answer(&text)
}

fn was_proven(service: &str, found: &Service) -> bool {
    let proven = |name| Start::of(&name, &found.invocation) == Some(Start::Proven);
    found.is_active && name_of(service).is_ok_and(proven) && !remains::is_outside(found, found.main)
}

fn entry(service: String, mark: Mark, found: Option<&Service>, units: &Path, proven: bool) -> Entry {
    let is_systems = units == Path::new(super::UNITS);
    let words = std::iter::once("appfw").chain(mark.command.iter().map(String::as_str));
    let (via, wall) = match Appfw::try_parse_from(words) {
        Ok(Appfw { subcommand: Subcommand::Confine(args) }) => {
            let launch = args.launch;
            let has_lists = !launch.deny.is_empty();
            let usual = match (has_lists, is_systems) {
                (true, _) => WallKind::Address,
                (false, true) => WallKind::Strict,
                (false, false) => WallKind::Namespace,
            };
            (launch.via, launch.wall.unwrap_or(usual).as_str().to_owned())
        }
        _ => (Vec::new(), "unknown".to_owned()),
    };
    let has_changed = found.is_some_and(|found| found.newer(&drop_in_in(units, &service)).is_some());
    let stale = mark.is_stale() || has_changed;
    let state = found.map_or("gone", |found| if found.is_active { "active" } else { "inactive" });
    Entry { service, via, wall, state, proven, stale, drop_in: true, command: mark.command }
}

fn line(entry: &Entry) -> String {
    if !entry.drop_in {
        return format!(
            "{0}: not confined from its next start on, as its drop-in is gone (systemctl revert?): appfw confine it again, or appfw unconfine {0}\n",
            entry.service
        );
    }
    let proven = match (entry.state, entry.proven) {
        ("active", true) => ", proven",
        ("active", false) => ", not behind it before its next start",
        _ => "",
    };
    let stale = if entry.stale { ", stale: unconfine it and confine it again" } else { "" };
    format!("{}: {} wall, via {}, {}{proven}{stale}\n", entry.service, entry.wall, entry.via.join(" "), entry.state)
}
