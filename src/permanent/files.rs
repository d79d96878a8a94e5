//! The files of one unit: those that there shall be against those that there are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;

use super::realm::Realm;
use super::rendering::{Directories, Rendering};
use crate::cli::{Appfw, Subcommand, UnitCommand, UnitInstallArgs};
use crate::installed::{self, Change, Mark, Wanted};
use crate::name::LaunchName;
use crate::via::Via;

/// A unit that is to be written.
pub struct Made {
    /// What was decided.
    pub rendering: Rendering,
    /// All of its files.
    pub files: Vec<Wanted>,
    /// What makes them.
    pub command: Vec<String>,
}

impl Made {
    /// The unit of a mark, as it would be made now.
    ///
    /// # Errors
    /// It could not: something that it needs is gone, or this version does not know its command.
    pub fn again(mark: &Mark, realm: &Realm) -> Result<Self> {
        let UnitInstallArgs { name, launch, .. } = arguments(mark)?;
        let via = Via::from_args(&launch.via)?;
        let rendering = Rendering::new(&name, &launch, via, &realm.host.clone().for_units(), &realm.directories)?;
        Ok(Self { files: rendering.files(), rendering, command: mark.command.clone() })
    }
}

/// Files as they would be written, for people: what is secret in them is left out.
///
/// # Errors
/// A mark that cannot be written.
pub fn shown(files: &[Wanted], command: &[String]) -> Result<String> {
    let mark = Mark::new(command).lines()?;
    let text = |file: &Wanted| {
        let body = if file.mode == SECRET { "# (a way out with a password)\n" } else { &file.text };
        format!("# {}\n{mark}{body}", file.path.display())
    };
    Ok(files.iter().map(text).collect::<Vec<_>>().join("\n"))
}

/// The permissions of what nobody else reads.
pub const SECRET: u32 = 0o600;

/// The units that are installed, by name, with the marks of their apps' files.
///
/// # Errors
/// The directory cannot be read.
pub fn all_units(directories: &Directories) -> Result<Vec<(LaunchName, Mark)>> {
    let path = directories.units.display();
    let entries = match std::fs::read_dir(&directories.units) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot list {path}")),
    };
    let mut units: Vec<_> = entries.flatten().filter_map(|entry| unit_at(&entry.path())).collect();
    units.sort_by_key(|(name, _)| name.to_string());
    Ok(units)
}

/// What is no unit of ours is nothing here.
fn unit_at(file: &Path) -> Option<(LaunchName, Mark)> {
    let name = file.file_name()?.to_str()?.strip_prefix("appfw-")?.strip_suffix(".service")?;
    let name = LaunchName::new(name).ok()?;
    let (_, mark) = installed::find(file).ok()??;
    let is_units = mark.command.starts_with(&["unit".to_owned(), "install".to_owned(), name.to_string()]);
    is_units.then_some((name, mark))
}

fn arguments(mark: &Mark) -> Result<UnitInstallArgs> {
    let words = std::iter::once("appfw").chain(mark.command.iter().map(String::as_str));
    if let Ok(Subcommand::Unit(command)) = Appfw::try_parse_from(words).map(|parsed| parsed.subcommand)
        && let UnitCommand::Install(install) = *command
    {
        return Ok(install);
    }
    bail!("made by a command that this version does not know: appfw {}", mark.command.join(" "))
}

/// Every file that a unit of this name may have, the app's first: what needs others goes before them.
pub fn all_files(name: &LaunchName, directories: &Directories) -> impl Iterator<Item = PathBuf> {
    let units = [name.app(), name.publisher(), name.publisher_socket(), name.forwarder(), name.socket()];
    let units = units.map(|unit| directories.units.join(unit));
    units.into_iter().chain([directories.credentials.join(name.to_string())])
}

/// What has to be written, and what of an earlier form has to go.
///
/// # Errors
/// Something that isn't ours is in the way.
pub fn differences(made: &Made, directories: &Directories) -> Result<Vec<Change>> {
    let mut changes = installed::changes(&made.files, &made.command)?;
    let Rendering { plan, places, .. } = &made.rendering;
    let is_wanted = |path: &PathBuf| {
        made.files.iter().any(|file| file.path == *path) || plan.via.has_secret() && *path == places.credential
    };
    let left: Vec<PathBuf> = all_files(&plan.name, directories).filter(|path| !is_wanted(path)).collect();
    changes.extend(installed::removals(&left, Mark::subject(&made.command))?);
    Ok(changes)
}
