//! Launches that are there already: who keeps them, those that run, and what is left of those that don't.

use std::fs;
use std::path::{Path, PathBuf};

use super::{is_empty, lock};
use crate::name::LaunchName;
use crate::plan::Supervisor;
use crate::units::ORDER;

/// Who supervises the launch of this name, if there is one here.
#[must_use]
pub fn supervisor(base: &Path, name: &LaunchName) -> Option<Supervisor> {
    let record = recorded(&base.join(name.to_string()))?;
    Supervisor::ALL.into_iter().find(|supervisor| record["supervisor"] == supervisor.as_str())
}

/// Removes the directories of launches that have neither a launcher nor a running unit.
pub(super) fn remove_stale(base: &Path, uid: u32) {
    let Ok(entries) = fs::read_dir(base) else { return };
    // Nobody is between making one and holding it.
    let alone = lock(base).ok().flatten();
    for directory in entries.flatten().map(|entry| entry.path()) {
        // Only what we wrote: a launch's directory has its name, and a plan in it.
        let name = directory.file_name().and_then(|name| LaunchName::new(name.to_str()?).ok());
        let is_ours = || directory.join("plan.json").is_file() || alone.is_some() && is_empty(&directory);
        let Some(name) = name.filter(|_| is_ours()) else { continue };
        // A launcher without a systemd ends with all of its launch: it may be a unit of that name itself.
        let is_standalone = supervisor(base, &name) == Some(Supervisor::Standalone);
        let cgroups = [name.cgroup_directory(), name.cgroup_of_user(uid)];
        let running = !is_standalone && cgroups.iter().any(|path| runs(&directory, Path::new(path)));
        if !running && matches!(lock(&directory), Ok(Some(_))) {
            let _ = fs::remove_dir_all(&directory);
        }
    }
}

/// Whether the unit with that cgroup runs, whose `directory` this is. systemd 257 may leave the cgroup of one that it stops,
/// without a process; a permanent unit's has none either between `appfw ready`, which holds nothing any more, and `inside`.
fn runs(directory: &Path, cgroup: &Path) -> bool {
    match directory.join(ORDER).exists() {
        true => cgroup.is_dir(),
        false => fs::read_to_string(cgroup.join("cgroup.events"))
            .is_ok_and(|events| events.lines().any(|line| line == "populated 1")),
    }
}

/// A launch that its launcher keeps.
#[derive(Debug)]
pub struct Running {
    directory: PathBuf,
    /// The launcher's process.
    pub launcher: u32,
}

impl Running {
    /// The launch of that name below `base`, if there is one and no systemd keeps it.
    #[must_use]
    pub fn find(base: &Path, name: &LaunchName) -> Option<Self> {
        let directory = base.join(name.to_string());
        let record = recorded(&directory)?;
        let is_standalone = record["supervisor"] == Supervisor::Standalone.as_str();
        let launcher = u32::try_from(record["launcher"].as_u64()?).ok()?;
        let running = Self { directory, launcher };
        (is_standalone && running.is_running()).then_some(running)
    }

    /// Whether the launcher holds its directory, as it does for as long as it lives: the process is its then.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(lock(&self.directory), Ok(None))
    }
}

fn recorded(directory: &Path) -> Option<serde_json::Value> {
    serde_json::from_str(&fs::read_to_string(directory.join("plan.json")).ok()?).ok()
}

/// Who has the name of that directory, as a sentence says it.
pub(super) fn holder(directory: &Path) -> String {
    match recorded(directory) {
        Some(record) => format!("process {} running {}", record["launcher"], record["command"][0]),
        None => directory.display().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_units_empty_cgroup_is_a_launch_that_is_over_and_a_permanent_unit_that_starts() {
        let place = tempfile::tempdir().unwrap();
        let (directory, cgroup) = (place.path().join("web"), place.path().join("appfw-web.service"));
        fs::create_dir(&directory).unwrap();
        assert!(!runs(&directory, &cgroup));
        fs::create_dir(&cgroup).unwrap();
        for (populated, is_permanent, expected) in
            [(1, false, true), (0, false, false), (1, true, true), (0, true, true)]
        {
            fs::write(cgroup.join("cgroup.events"), format!("populated {populated}\nfrozen 0\n")).unwrap();
            if is_permanent {
                fs::write(directory.join(ORDER), "").unwrap();
            }
            assert_eq!(runs(&directory, &cgroup), expected, "{populated} {is_permanent}");
        }
    }
}
