//! Whose a name is: that of a launch that runs, of a unit that lasts, or of a service that is confined. What serves each of
//! them is called by it, so that two of one name would have each other's.

use std::path::Path;

use anyhow::{Result, bail};

use crate::confine;
use crate::installed::Mark;
use crate::manager::{Manager, is_transient};
use crate::name::LaunchName;
use crate::permanent::{Realm, all_files};
use crate::units::Units;

/// For what lasts, made by a command for `subject` ([`Mark::subject`]).
///
/// # Errors
/// Another has the name: says which, and what ends or removes it.
pub async fn refuse(name: &LaunchName, subject: &[String], realm: &Realm, manager: &Manager<'_>) -> Result<()> {
    for unit in [name.app(), name.socket(), name.forwarder()] {
        if manager.file_of(&unit).await.is_some_and(|file| is_transient(&file)) {
            bail!("the name {name} is in use by a launch; appfw stop {name} ends it");
        }
    }
    let files = all_files(name, &realm.directories).filter_map(|file| made(&file));
    let is_so_called = |service: &String| confine::name_of(service).is_ok_and(|found| found == *name);
    let services = confine::services(realm)?.into_iter().filter(is_so_called);
    let services = services.map(|service| vec!["confine".to_owned(), service]);
    match files.chain(services).find(|other| other != subject) {
        Some(other) => bail!(
            "the name {name} belongs to what `appfw {}` made, and what serves both would be called by it: remove that first",
            other.join(" ")
        ),
        None => Ok(()),
    }
}

/// For a launch with these units.
///
/// # Errors
/// One has the name of a unit that lasts: names its file, and who made that.
pub async fn refuse_launch(name: &LaunchName, units: &Units, manager: &Manager<'_>) -> Result<()> {
    // The app says most; where it has no file, what serves it may.
    for unit in std::iter::once(&units.app).chain(units.iter()) {
        if let Some(file) = manager.file_of(&unit.name).await.filter(|file| !is_transient(file)) {
            let by = made(&file).map(|command| format!(", which `appfw {}` made", command.join(" ")));
            let by = by.unwrap_or_default();
            bail!("the name {name} is in use by the unit {}{by}; choose another --unit", file.display());
        }
    }
    Ok(())
}

/// For what the file there was made, by its mark; whose it is does not matter.
fn made(file: &Path) -> Option<Vec<String>> {
    let mark = Mark::read(&std::fs::read_to_string(file).ok()?)?;
    Some(Mark::subject(&mark.command).to_vec())
}
