//! A service's other names. systemd reads the drop-ins of all of them, so that the wall of a service that has become an
//! alias is that of the one that it is an alias of, which it was not made for.

use anyhow::{Result, bail};

use super::DROP_IN;
use super::service::Service;
use crate::installed;
use crate::manager::{Kind, Manager};

/// All names of a service, the one that systemd has it by first. What is gone has none but the one that it is asked for by.
pub(super) async fn names(manager: &Manager<'_>, service: &str) -> Vec<String> {
    let held = async |name| manager.property(service, Kind::Unit, name).await.ok();
    let id = held("Id").await.and_then(|id| String::try_from(id).ok());
    let others = held("Names").await.and_then(|names| Vec::<String>::try_from(names).ok()).unwrap_or_default();
    let mut names: Vec<String> = Vec::new();
    for name in id.into_iter().chain(others).chain([service.to_owned()]) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// # Errors
/// The service is behind a wall that it was given by another name.
pub(super) fn refuse(service: &Service) -> Result<()> {
    for path in service.drop_ins.iter().filter(|path| path.ends_with(DROP_IN)) {
        let mark = installed::find(path).ok().flatten().map(|(_, mark)| mark.command);
        if let Some([word, other, ..]) = mark.as_deref()
            && word == "confine"
            && *other != service.name
        {
            bail!(
                "{0} has the wall that {other} was given, which is another name of it by now ({1}): appfw unconfine {other}, then confine {0}",
                service.name,
                path.display()
            );
        }
    }
    Ok(())
}
