//! `appfw confine --list`.

use std::fs;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use super::proven::Start;
use super::service::Service;
use super::{drop_in_in, name_of, own};
use crate::cli::{Appfw, Subcommand, WallKind};
use crate::installed::{self, Mark};
use crate::permanent::Realm;

/// One confined service.
#[derive(Debug, Serialize)]
struct Entry {
    service: String,
    via: Vec<String>,
    wall: String,
    state: &'static str,
    proven: bool,
    stale: bool,
    command: Vec<String>,
}

/// The services that have a drop-in of ours.
///
/// # Errors
/// The directory of units cannot be read.
pub(super) fn services(units: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(units) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", units.display())),
    };
    let names = entries.flatten().filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".d")?.to_owned()));
    let mut services: Vec<String> = names.filter(|name| mark(units, name).is_some()).collect();
    services.sort();
    Ok(services)
}

/// What isn't ours is nobody that we confined.
fn mark(units: &Path, service: &str) -> Option<Mark> {
    installed::find(&drop_in_in(units, service)).ok().flatten().map(|(_, mark)| mark)
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
    for service in services(units)? {
        if let Some(mark) = mark(units, &service) {
            let found = Service::read(&manager, &service).await.ok();
            let proven = match (realm.is_systems(), &found) {
                (_, None) => false,
                (true, Some(found)) => {
                    let written = drop_in_in(units, &service).metadata().and_then(|found| found.modified());
                    let written = written.unwrap_or_else(|_| SystemTime::now());
                    was_proven(&service, found) && manager.runs_since(&service, written).await
                }
                // The launcher executes nothing that it has not proven the wall of.
                (false, Some(_)) => own::is_behind(&manager, &service).await,
            };
            entries.push(entry(service, mark, found.as_ref(), units, proven));
        }
    }
    let text = if json { serde_json::to_string_pretty(&entries)? + "\n" } else { entries.iter().map(line).collect() };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the list")
}

fn was_proven(service: &str, found: &Service) -> bool {
    let proven = |name| Start::of(&name, &found.invocation) == Some(Start::Proven);
    found.is_active && name_of(service).is_ok_and(proven)
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
    let has_changed = found.is_some_and(|found| found.has_changed(&drop_in_in(units, &service)));
    let state = found.map_or("gone", |found| if found.is_active { "active" } else { "inactive" });
    Entry { service, via, wall, state, proven, stale: mark.is_stale() || has_changed, command: mark.command }
}

fn line(entry: &Entry) -> String {
    let proven = match (entry.state, entry.proven) {
        ("active", true) => ", proven",
        ("active", false) => ", not behind it before its next start",
        _ => "",
    };
    let stale = if entry.stale { ", stale: unconfine it and confine it again" } else { "" };
    format!("{}: {} wall, via {}, {}{proven}{stale}\n", entry.service, entry.wall, entry.via.join(" "), entry.state)
}
