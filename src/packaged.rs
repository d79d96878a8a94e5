//! Programs that a package system starts in a sandbox of its own, and what that means for the wall.
//!
//! `snap run` has its program moved into a scope of snapd's. `flatpak run` makes its sandbox itself, as a child
//! in our namespaces; it would ask the user manager for a scope, whose bus no app of ours sees. That it did so
//! is looked at afterwards: every sandbox has an entry in the runtime directory of who made it
//! (flatpak-ps(1)), and for one made inside the wall that is the app's own, which nobody outside sees.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Error, Result, anyhow, bail};

use crate::browser::{Surroundings, trace};
use crate::buses::Buses;
use crate::host::Host;
use crate::plan::Plan;
use crate::session;

/// How long after its start a sandbox outside is looked for, and how often.
const LOOKED_FOR: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packager {
    Snap,
    Flatpak,
}

/// `flatpak run` and the sandboxes that there were outside before it.
#[derive(Debug)]
pub struct Flatpak {
    directory: PathBuf,
    before: BTreeSet<OsString>,
}

/// What is to be watched of a plan's program.
///
/// # Errors
/// It would not be in the wall.
pub fn judge(plan: &Plan, host: &Host) -> Result<Option<Flatpak>> {
    let Some(traced) = trace(&plan.command, &Surroundings::of(plan, host), &packager) else { return Ok(None) };
    match traced.what {
        Packager::Snap => bail!(
            "{} is a snap, which snapd starts in a scope of its own, out of the wall; install it as a package of the distribution",
            plan.program()
        ),
        // Its other commands run no program.
        Packager::Flatpak if traced.arguments.iter().find(|word| !is_option(word)).is_none_or(|word| word != "run") => {
            Ok(None)
        }
        Packager::Flatpak if plan.detach => {
            bail!("flatpak run is looked at after its start, for which --detach leaves no time; leave --detach out")
        }
        Packager::Flatpak if matches!(plan.buses, Buses::Session(_)) => {
            bail!("flatpak run asks the session bus for a scope out of the wall; use --dbus filtered")
        }
        Packager::Flatpak => match session::runtime_directory(plan) {
            Some(runtime) => Ok(Some(Flatpak::new(runtime.join(".flatpak")))),
            None => bail!("flatpak run needs an ordinary user's runtime directory; add --uid USER"),
        },
    }
}

fn packager(file: &Path) -> Option<Packager> {
    match file.file_name()?.to_str()? {
        "snap" => Some(Packager::Snap),
        "flatpak" => Some(Packager::Flatpak),
        _ => None,
    }
}

fn is_option(word: &OsString) -> bool {
    word.to_string_lossy().starts_with('-')
}

impl Flatpak {
    fn new(directory: PathBuf) -> Self {
        let before = sandboxes(&directory);
        Self { directory, before }
    }

    /// Resolves if a sandbox comes up outside the wall, and never otherwise. Whose it is can't be told, so any
    /// one counts.
    pub async fn left(&self) -> Error {
        let mut waited = Duration::ZERO;
        while waited < LOOKED_FOR {
            if let Some(sandbox) = sandboxes(&self.directory).difference(&self.before).next() {
                return anyhow!(
                    "a flatpak sandbox came up outside the wall ({}), and the launch was ended: if it is another program's, start this one again",
                    self.directory.join(sandbox).display()
                );
            }
            tokio::time::sleep(PAUSE).await;
            waited += PAUSE;
        }
        std::future::pending().await
    }
}

/// The numbers under which sandboxes are entered.
fn sandboxes(directory: &Path) -> BTreeSet<OsString> {
    let Ok(entries) = fs::read_dir(directory) else { return BTreeSet::new() };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_string_lossy().chars().all(|c| c.is_ascii_digit())).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::fixture::{host, host_of, plan_on};

    /// A machine with snap and flatpak in a directory of its PATH.
    fn machine() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        let exported = "#!/bin/sh\nexec @/flatpak run --branch=stable org.mozilla.firefox \"$@\"\n";
        let ubuntus = "#!/bin/sh\nif ! [ -x @/snapped ]; then\n    exit 1\nfi\nexec @/snapped \"$@\"\n";
        for (name, text) in
            [("snap", "\x7fELF"), ("flatpak", "\x7fELF"), ("org.mozilla.firefox", exported), ("firefox", ubuntus)]
        {
            let file = place.path().join(name);
            fs::write(&file, text.replace('@', place.path().to_str().unwrap())).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        }
        symlink("snap", place.path().join("snapped")).unwrap();
        place
    }

    fn judged(line: &str, mut host: Host) -> Result<bool> {
        let place = machine();
        host.environment = vec![("PATH".into(), place.path().into()), ("HOME".into(), "/home/alice".into())];
        let plan = plan_on(&host, &format!("--system --via direct {line}").split(' ').collect::<Vec<_>>()).unwrap();
        judge(&plan, &host).map(|watched| watched.is_some())
    }

    #[test]
    fn a_snap_is_refused_by_any_name() {
        for command in ["snap run firefox", "snapped", "firefox http://a.test/"] {
            let message = judged(command, host_of("alice")).unwrap_err().to_string();
            assert!(message.contains(" is a snap, which snapd starts in a scope of its own"), "{command}: {message}");
        }
    }

    #[test]
    fn a_flatpak_is_watched_if_it_can_be() {
        for (command, watched) in [
            ("flatpak run org.test.App", true),
            ("flatpak --user run org.test.App", true),
            ("org.mozilla.firefox", true),
            ("flatpak list", false),
            ("flatpak", false),
            ("echo flatpak run", false),
        ] {
            assert_eq!(judged(command, host_of("alice")).unwrap(), watched, "{command}");
        }
        for (line, host) in [("--detach flatpak run x", host_of("alice")), ("flatpak run x", host())] {
            assert!(judged(line, host).is_err(), "{line}");
        }
    }

    #[test]
    fn a_sandbox_that_comes_up_outside_is_found_and_an_older_one_is_not() {
        let place = tempfile::tempdir().unwrap();
        for older in ["17", "org.test.App"] {
            fs::create_dir(place.path().join(older)).unwrap();
        }
        let flatpak = Flatpak::new(place.path().to_owned());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let in_time = |flatpak: &Flatpak| {
            runtime.block_on(async { tokio::time::timeout(Duration::from_millis(300), flatpak.left()).await.ok() })
        };
        assert!(in_time(&flatpak).is_none());
        fs::create_dir(place.path().join("18")).unwrap();
        assert!(in_time(&flatpak).unwrap().to_string().contains("/18), and the launch was ended"));
    }
}
