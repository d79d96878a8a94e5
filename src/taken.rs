//! Whose a name is: that of a launch that runs, of a unit that lasts, or of a service that is confined. What serves each of
//! them is called by it, so that two of one name would have each other's. And whose an address on the host is: of what
//! doesn't run nobody but its files tells, and the second of two would not start beside the first.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Result, bail};

use crate::confine;
use crate::installed::Mark;
use crate::manager::{Manager, is_transient};
use crate::name::LaunchName;
use crate::permanent::{Realm, all_files, all_units};
use crate::plan::parse_address;
use crate::publish::{Published, collide};
use crate::units::Units;

/// For what lasts, made by a command.
///
/// # Errors
/// Another has the name, or an address: says which, and what ends or removes it.
pub async fn refuse(name: &LaunchName, command: &[String], realm: &Realm, manager: &Manager<'_>) -> Result<()> {
    let subject = Mark::subject(command);
    for unit in [name.app(), name.socket(), name.forwarder()] {
        if manager.file_of(&unit).await.is_some_and(|file| is_transient(&file)) {
            bail!("the name {name} is in use by a launch; appfw stop {name} ends it");
        }
    }
    let files = all_files(name, &realm.directories).filter_map(|file| made(&file));
    let is_so_called = |service: &String| confine::name_of(service).is_ok_and(|found| found == *name);
    let services = confine::services(realm)?.into_iter().filter(is_so_called);
    let services = services.map(|service| vec!["confine".to_owned(), service]);
    if let Some(other) = files.chain(services).find(|other| other != subject) {
        bail!(
            "the name {name} belongs to what `appfw {}` made, and what serves both would be called by it: remove that first",
            other.join(" ")
        );
    }
    let others = addresses(subject, realm)?;
    for (option, own) in on_host(command) {
        if let Some((_, other)) = others.iter().find(|(other, _)| collide(*other, own)) {
            bail!(
                "{}: what `appfw {}` made listens there when it runs; choose another address or port",
                option.replacen('=', " ", 1),
                other.join(" ")
            );
        }
    }
    Ok(())
}

/// Where on the host those listen that last, but the one for `subject` ([`Mark::subject`]): each with what it is for.
///
/// # Errors
/// The directory of units cannot be read.
pub fn addresses(subject: &[String], realm: &Realm) -> Result<Vec<(SocketAddr, Vec<String>)>> {
    let units = all_units(&realm.directories)?.into_iter().map(|(_, mark)| mark.command);
    let services = confine::marks(realm)?.into_values().map(|(mark, _)| mark.command);
    let others = units.chain(services).filter(|command| Mark::subject(command) != subject);
    let each = others.flat_map(|command| {
        let subject = Mark::subject(&command).to_vec();
        on_host(&command).map(|(_, address)| (address, subject.clone())).collect::<Vec<_>>()
    });
    Ok(each.collect())
}

/// Where on the host that listens which a command makes, with the option that says so. `--address` is there in the address
/// wall alone: the others have the forwarder in a network of their own.
fn on_host(command: &[String]) -> impl Iterator<Item = (&str, SocketAddr)> {
    // What follows is the unit's own program.
    let options = command.iter().take_while(|word| *word != "--");
    options.filter_map(|option| {
        let address = match option.split_once('=')? {
            ("--address", word) => parse_address(word).ok()?.into(),
            ("--publish", word) => word.parse::<Published>().ok()?.outer,
            _ => return None,
        };
        Some((option.as_str(), address))
    })
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
