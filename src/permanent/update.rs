//! `appfw unit update`: files written again as this version, on this machine, makes them.

use anyhow::{Context, Result, bail};

use super::files::{Made, all_units, differences};
use super::install::start;
use super::realm::Realm;
use crate::cli::UnitUpdateArgs;
use crate::installed::{self, Wanted};
use crate::manager::Manager;
use crate::name::LaunchName;
use crate::say::Say;

/// Renders the unit, or all, by their marks again.
///
/// # Errors
/// There is no such unit; one of them cannot be made any more: those before it are done.
pub async fn update(args: &UnitUpdateArgs) -> Result<()> {
    let say = Say::of_appfw(false, args.verbose);
    let realm = Realm::of_caller().await?;
    realm.expect_own_program()?;
    let _alone = realm.alone()?;
    let mut units = all_units(&realm.directories)?;
    if let Some(name) = &args.name {
        let name = LaunchName::new(name)?;
        units.retain(|(found, _)| *found == name);
        if units.is_empty() {
            bail!("there is no unit {name}; appfw unit list names those that there are");
        }
    }
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?;
    let mut changed = Vec::new();
    for (name, mark) in units {
        let failed = || format!("the unit {name} cannot be made again");
        let made = Made::again(&mark, &realm).with_context(failed)?;
        let changes = differences(&made, &realm.directories)?;
        let unit = name.app();
        if changes.iter().any(|change| !change.is_none()) {
            installed::apply(&changes)?;
            installed::tell(&changes, "written", &say);
            changed.push((unit, made.files));
        } else if manager.needs_reload(&unit).await || args.now && is_older(&manager, &unit, &made.files).await {
            changed.push((unit, made.files));
        }
    }
    if changed.is_empty() {
        say.plain("nothing to do: all is as it would be written");
        return Ok(());
    }
    manager.reload().await?;
    for (unit, files) in changed {
        match (manager.is_active(&unit).await, args.now) {
            (true, true) => start(&realm, &manager, &unit, installed::written(&files), &realm.when(), &say).await?,
            (true, false) => {
                say.plain(&format!("{unit} runs as before: {} restart {unit} applies it", realm.systemctl()))
            }
            (false, _) => {}
        }
    }
    Ok(())
}

/// Whether what runs was started before its files were written.
async fn is_older(manager: &Manager<'_>, unit: &str, files: &[Wanted]) -> bool {
    manager.is_active(unit).await && !manager.runs_since(unit, installed::written(files)).await
}
