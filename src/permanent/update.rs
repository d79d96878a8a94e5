//! `appfw unit update`: files written again as this version, on this machine, makes them.

use anyhow::{Context, Result, bail};

use super::files::{Made, all_units, differences};
use super::realm::Realm;
use super::start::start;
use crate::cli::UnitUpdateArgs;
use crate::installed::{self, Mark, Wanted};
use crate::manager::Manager;
use crate::name::LaunchName;
use crate::say::Say;

/// Renders the unit, or all, by their marks again.
///
/// # Errors
/// There is no such unit; or some cannot be made any more, or don't start: all others are done, and these are named.
pub async fn update(args: &UnitUpdateArgs) -> Result<()> {
    let say = Say::of_appfw(false, args.verbose);
    let realm = Realm::of_caller().await?;
    realm.expect_own_program()?;
    let _alone = realm.alone(&say)?;
    let mut units = all_units(&realm.directories)?;
    if let Some(name) = &args.name {
        let name = LaunchName::new(name)?;
        units.retain(|(found, _)| *found == name);
        if units.is_empty() {
            bail!("there is no unit {name}; appfw unit list names those that there are");
        }
    }
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?.patient(say);
    let mut due = Vec::new();
    let mut failures = Vec::new();
    for (name, mark) in units {
        let unit = name.app();
        match again(&name, &mark, &realm, &say) {
            Ok((files, is_changed)) => {
                let is_due = is_changed || manager.needs_reload(&unit).await;
                if is_due || args.now && is_older(&manager, &unit, &files).await {
                    due.push((unit, files));
                }
            }
            Err(error) => failures.push(format!("{error:#}")),
        }
    }
    if !due.is_empty() {
        manager.reload().await?;
    } else if failures.is_empty() {
        say.plain("nothing to do: all is as it would be written");
    }
    for (unit, files) in due {
        match (manager.is_active(&unit).await, args.now) {
            (true, true) => {
                let started = start(&realm, &manager, &unit, installed::written(&files), &realm.when(), &say).await;
                failures.extend(started.err().map(|error| format!("{error:#}")));
            }
            (true, false) => {
                say.plain(&format!("{unit} runs as before: {} restart {unit} applies it", realm.systemctl()))
            }
            (false, _) => {}
        }
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}

/// Writes one again: its files, and whether any has changed.
fn again(name: &LaunchName, mark: &Mark, realm: &Realm, say: &Say) -> Result<(Vec<Wanted>, bool)> {
    let failed = || format!("the unit {name} cannot be made again");
    let made = Made::again(mark, realm).with_context(failed)?;
    let changes = differences(&made, &realm.directories).with_context(failed)?;
    installed::apply(&changes).with_context(failed)?;
    installed::tell(&changes, "written", say);
    Ok((made.files, changes.iter().any(|change| !change.is_none())))
}

/// Whether what runs was started before its files were written.
async fn is_older(manager: &Manager<'_>, unit: &str, files: &[Wanted]) -> bool {
    manager.is_active(unit).await && !manager.runs_since(unit, installed::written(files)).await
}
