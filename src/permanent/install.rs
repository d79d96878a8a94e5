//! Writing, enabling, starting and removing.

use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::ROOT;
use super::files::{Made, all_files, differences, shown};
use super::realm::Realm;
use super::rendering::{Rendering, command};
use super::settled::{Settled, lasting_address, settle};
use super::start::{apply, expect_ports, start};
use crate::cli::{LaunchArgs, UnitInstallArgs, UnitRemoveArgs, UnitShowArgs};
use crate::filters::Programs;
use crate::installed::{self, Mark};
use crate::launch;
use crate::name::LaunchName;
use crate::plan::{Directory, Plan};
use crate::profile::{self, Value};
use crate::say::{self, Say};
use crate::taken;

/// `appfw unit show`: the files as `install` would write them.
///
/// # Errors
/// Those of `install` before it writes.
pub async fn show(args: &UnitShowArgs) -> Result<()> {
    let say = Say::of_appfw(args.launch.quiet, args.launch.verbose);
    let made = make(&Realm::of_caller().await?, &args.name, &args.launch, &say)?;
    say::answer(&shown(&made.files, &made.command)?)
}

/// `appfw unit install`.
///
/// # Errors
/// Nothing was written; or all was, and the start failed.
pub async fn install(args: &UnitInstallArgs) -> Result<()> {
    let say = Say::of_appfw(args.launch.quiet, args.launch.verbose);
    let realm = Realm::of_caller().await?;
    realm.expect_own_program()?;
    let _alone = realm.alone(&say)?;
    let made = make(&realm, &args.name, &args.launch, &say)?;
    launch::expect_properties(&made.rendering.plan, &realm.host)?;
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?.patient(say);
    let name = &made.rendering.plan.name;
    let subject = Mark::subject(&made.command);
    realm.expect_read(&manager).await?;
    taken::refuse(name, &made.command, &realm, &manager).await?;
    // Each start would fail by one that isn't there.
    Programs::open(&made.rendering.plan.filters, false)?;
    let paths: Vec<PathBuf> = all_files(name, &realm.directories).collect();
    installed::apply(&installed::leftovers(&paths, subject))?;
    let changes = differences(&made, &realm.directories)?;
    let unit = name.app();
    let is_changed = changes.iter().any(|change| !change.is_none());
    let runs = is_changed && realm.is_systems() && manager.is_active(&unit).await;
    if runs && !args.now {
        bail!(
            "{unit} runs, and other files would change its wall under it: say --now, by which it is stopped and started again"
        );
    }
    if is_changed {
        apply(&changes, &manager, &unit, runs).await?;
        installed::tell(&changes, "written", &say);
    }
    let is_new = !manager.is_enabled(&unit).await;
    if is_new {
        manager.enable(&unit).await?;
    }
    // What was killed half-way has written, and no more.
    if is_changed || is_new || manager.needs_reload(&unit).await {
        manager.reload().await?;
    }
    if args.now {
        let since = installed::written(&made.files);
        let started = start(&realm, &manager, &unit, since, &realm.when(), &say).await;
        expect_ports(&manager, name).await?;
        return started;
    }
    say.plain(&match (is_changed, is_new) {
        (false, false) => format!("nothing to do: {unit} is installed"),
        _ => format!("{unit} is written and enabled; {} restart {unit} starts it now", realm.systemctl()),
    });
    Ok(())
}

/// `appfw unit remove`.
///
/// # Errors
/// There is no such unit of ours; systemd refuses.
pub async fn remove(args: &UnitRemoveArgs) -> Result<()> {
    let name = LaunchName::new(&args.name)?;
    let realm = Realm::of_caller().await?;
    let say = Say::of_appfw(args.quiet, false);
    let _alone = realm.alone(&say)?;
    let directories = &realm.directories;
    let paths: Vec<PathBuf> = all_files(&name, directories).collect();
    let subject = ["unit".to_owned(), "install".to_owned(), name.to_string()];
    let changes = installed::sweep(&paths, &subject)?;
    let unit = name.app();
    if changes.is_empty() {
        bail!("there is no unit {name}: {} does not exist", directories.units.join(&unit).display());
    }
    let bus = realm.connect().await?;
    let manager = realm.manager(&bus).await?.patient(say);
    manager.stop(&unit).await?;
    manager.disable(&unit).await?;
    installed::apply(&changes)?;
    if realm.is_systems() {
        // A user's launches make that where it isn't.
        let ours: Vec<PathBuf> = directories.credentials.ancestors().take(2).map(Path::to_owned).collect();
        installed::remove_empty(&ours, &changes);
    }
    manager.reload().await?;
    // What is left of a unit that failed is its name.
    for unit in name.servants().iter().chain([&unit]) {
        manager.forget(unit).await;
    }
    let _ = std::fs::remove_dir_all(directories.state.join(name.to_string()));
    for path in drop_ins(&paths) {
        say.plain(&format!("{} is not ours, and stays", path.display()));
    }
    say.plain(&format!("{unit} is removed"));
    Ok(())
}

/// What others have added to these units.
fn drop_ins(units: &[PathBuf]) -> impl Iterator<Item = PathBuf> {
    let directories = units.iter().map(|unit| PathBuf::from(format!("{}.d", unit.display())));
    directories.filter_map(|directory| std::fs::read_dir(directory).ok()).flatten().flatten().map(|entry| entry.path())
}

/// Whether a key of the configuration, which is for every program, says nothing of a unit: that waits for nobody, and is
/// its systemd's. Another's than a user's own would have another wall.
fn is_of_launches(key: &str, value: &Value, is_systems: bool) -> bool {
    key == "detach" || key == "manager" && (is_systems || *value != Value::Word("system".to_owned()))
}

/// Decides and renders, for this host as it is.
fn make(realm: &Realm, name: &str, args: &LaunchArgs, say: &Say) -> Result<Made> {
    realm.expect_systemd()?;
    let Realm { host, directories } = realm;
    // Profiles and the configuration are settled, too: what they say later is taken by installing the unit again.
    let is_unknown = |key: &str, value: &Value| is_of_launches(key, value, realm.is_systems());
    let (args, applied) = profile::complete_without(args, Path::new(ROOT), host, &is_unknown)?;
    applied.left_out().iter().for_each(|left_out| say.plain(left_out));
    if let Some(profile) = applied.describe() {
        say.detail(&profile);
    }
    let made = || {
        let stem = name.strip_suffix(".service").unwrap_or(name);
        let stem = stem.strip_prefix("appfw-").unwrap_or(stem);
        if stem != name {
            bail!("the name {name}: the unit is appfw-NAME.service, so say {stem}");
        }
        if args.system && !realm.is_systems() {
            bail!("--system: units of the system are root's: sudo appfw unit …");
        }
        let file = directories.units.join(LaunchName::new(name)?.app());
        let subject = ["unit".to_owned(), "install".to_owned(), name.to_owned()];
        let address = |port| lasting_address(port, &file, &subject, realm);
        let Settled { args, via, credential } = settle(name, &args, host, directories, address, say)?;
        let rendering = Rendering::new(name, &args, via, &host.clone().for_units(), directories)?;
        let files = credential.into_iter().chain(rendering.files()).collect();
        Ok(Made { rendering, files, command: command(name, &args)? })
    };
    let made = made().map_err(|error| applied.explain(error))?;
    for opening in applied.openings(&args, &made.rendering.plan) {
        say.plain(&opening);
    }
    if let Some(warning) = made.rendering.plan.warning() {
        say.warning(&warning);
    }
    warn_of_absent(&made.rendering.plan, say);
    Ok(made)
}

/// What a start will not find: a package may bring it later.
fn warn_of_absent(plan: &Plan, say: &Say) {
    let is_absent = |path: &Path| path.metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
    if let Some(program) = plan.command.first().map(Path::new) {
        if is_absent(program) {
            say.warning(&format!("there is no {} yet: until there is, each start ends with 127", program.display()));
        } else if program.metadata().is_ok_and(|found| found.is_dir() || found.permissions().mode() & 0o111 == 0) {
            say.warning(&format!("{} is not executable: until it is, each start ends with 126", program.display()));
        }
    }
    if let Directory::Asked(directory) = &plan.directory
        && (is_absent(directory) || directory.metadata().is_ok_and(|found| !found.is_dir()))
    {
        let directory = directory.display();
        say.warning(&format!("there is no directory {directory} yet: until there is, each start ends with 125"));
    }
}
