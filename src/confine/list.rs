//! `appfw confine --list`.

use std::fs;
use std::io::{ErrorKind, Write};

use anyhow::{Context, Result};
use clap::Parser;
use serde::Serialize;

use super::proven::Start;
use super::service::Service;
use super::{UNITS, drop_in_path, name_of};
use crate::cli::{Appfw, Subcommand, WallKind};
use crate::installed::{self, Mark};
use crate::manager::{self, Manager};

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
pub(super) fn services() -> Result<Vec<String>> {
    let entries = match fs::read_dir(UNITS) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {UNITS}")),
    };
    let names = entries.flatten().filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".d")?.to_owned()));
    let mut services: Vec<String> = names.filter(|name| mark(name).is_some()).collect();
    services.sort();
    Ok(services)
}

/// What isn't ours is nobody that we confined.
fn mark(service: &str) -> Option<Mark> {
    installed::find(&drop_in_path(service)).ok().flatten().map(|(_, mark)| mark)
}

/// Prints them, one a line or as JSON.
///
/// # Errors
/// They cannot be read, or nobody reads what is printed.
pub(super) async fn print(json: bool) -> Result<()> {
    let bus = manager::connect().await?;
    let manager = Manager::new(&bus).await?;
    let mut entries = Vec::new();
    for service in services()? {
        if let Some(mark) = mark(&service) {
            let found = Service::read(&manager, &service).await.ok();
            entries.push(entry(service, mark, found.as_ref()));
        }
    }
    let text = if json { serde_json::to_string_pretty(&entries)? + "\n" } else { entries.iter().map(line).collect() };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the list")
}

fn entry(service: String, mark: Mark, found: Option<&Service>) -> Entry {
    let words = std::iter::once("appfw").chain(mark.command.iter().map(String::as_str));
    let (via, wall) = match Appfw::try_parse_from(words) {
        Ok(Appfw { subcommand: Subcommand::Confine(args) }) => {
            let launch = args.launch;
            let has_lists = !launch.deny.is_empty();
            let usual = if has_lists { WallKind::Address } else { WallKind::Strict };
            (launch.via, launch.wall.unwrap_or(usual).as_str().to_owned())
        }
        _ => (Vec::new(), "unknown".to_owned()),
    };
    let has_changed = found.is_some_and(Service::has_changed);
    let state = found.map_or("gone", |found| if found.is_active { "active" } else { "inactive" });
    let name = name_of(&service).ok();
    let proven = name
        .zip(found)
        .is_some_and(|(name, found)| found.is_active && Start::of(&name, &found.invocation) == Some(Start::Proven));
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
