//! `appfw unit update`: files written again as this version, on this machine, makes them.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::files::{Made, all_units, differences, tell};
use super::install::start;
use super::{ROOT, directories};
use crate::cli::UnitUpdateArgs;
use crate::host::Host;
use crate::installed;
use crate::manager::{self, Manager};
use crate::name::LaunchName;
use crate::say::Say;

/// Renders the unit, or all, by their marks again.
///
/// # Errors
/// There is no such unit; one of them cannot be made any more: those before it are done.
pub async fn update(args: &UnitUpdateArgs) -> Result<()> {
    let say = Say::of_appfw(false, args.verbose);
    let directories = directories();
    let mut units = all_units(&directories)?;
    if let Some(name) = &args.name {
        let name = LaunchName::new(name)?;
        units.retain(|(found, _)| *found == name);
        if units.is_empty() {
            bail!("there is no unit {name}; appfw unit list names those that there are");
        }
    }
    let bus = manager::connect().await?;
    let manager = Manager::new(&bus).await?;
    let mut host = Host::read(Path::new(ROOT))?.for_units();
    host.systemd = manager::version(&bus).await;
    let mut changed = Vec::new();
    for (name, mark) in units {
        let failed = || format!("the unit {name} cannot be made again");
        let made = Made::again(&mark, &host, &directories).with_context(failed)?;
        let changes = differences(&made, &directories)?;
        let unit = name.app();
        if changes.iter().any(|change| !change.is_none()) {
            installed::apply(&changes)?;
            tell(&changes, &say);
            changed.push(unit);
        } else if manager.needs_reload(&unit).await {
            changed.push(unit);
        }
    }
    if changed.is_empty() {
        say.plain("nothing to do: all is as it would be written");
        return Ok(());
    }
    manager.reload().await?;
    for unit in changed {
        match (manager.is_active(&unit).await, args.now) {
            (true, true) => start(&manager, &unit, true, &say).await?,
            (true, false) => say.plain(&format!("{unit} runs as before: systemctl restart {unit} applies it")),
            (false, _) => {}
        }
    }
    Ok(())
}
