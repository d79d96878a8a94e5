//! The name of a launch, and the unit names that follow from it.

use std::fmt;
use std::path::Path;

use anyhow::{Result, bail};

/// The slice that holds every unit of ours. It carries no IP lists: a leaf merges the lists of all
/// its parent slices (systemd, src/core/bpf-firewall.c), so a list here would reach every launch.
pub const SLICE: &str = "appfw.slice";
/// The slice above it, and above everything.
pub const ROOT_SLICE: &str = "-.slice";

/// How long a name may be.
pub const MAX: usize = 64;

/// `[A-Za-z0-9_.-]{1,64}`, not beginning as an option does, nor ending as the names of a launch's other units do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaunchName(String);

impl LaunchName {
    /// # Errors
    /// Says which rule the name breaks: it becomes part of unit names and of a path.
    pub fn new(name: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
        if name.is_empty() || name.len() > MAX || !name.chars().all(allowed) {
            bail!("launch name {name:?}: takes 1 to {MAX} of A-Z a-z 0-9 _ . -");
        }
        if name.chars().all(|c| c == '.') {
            bail!("launch name {name:?}: needs a letter or digit");
        }
        if name.starts_with('-') {
            bail!("launch name {name:?}: must not begin with -, as an option does");
        }
        for taken in ["-forward", "-lifeline", "-publish"] {
            if name.ends_with(taken) {
                bail!("launch name {name:?}: must not end in {taken}, which names a launch's own units");
            }
        }
        Ok(Self(name.to_owned()))
    }

    /// The command's name and a short random part: two launches of one program never collide.
    #[must_use]
    pub fn for_command(command: &Path, random: u32) -> Self {
        let word: String = command
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' })
            .take(MAX - 9)
            .collect();
        // Nothing that begins as an option does.
        let start = if word.is_empty() || word.starts_with('-') { "_" } else { "" };
        Self(format!("{start}{}-{random:08x}", word.trim_start_matches('-')))
    }

    /// The app.
    #[must_use]
    pub fn app(&self) -> String {
        format!("appfw-{self}.service")
    }

    /// The forwarder.
    #[must_use]
    pub fn forwarder(&self) -> String {
        format!("appfw-{self}-forward.service")
    }

    /// The forwarder's listening socket. Its name must match the forwarder's: `Service=` cannot be
    /// set on a transient socket.
    #[must_use]
    pub fn socket(&self) -> String {
        format!("appfw-{self}-forward.socket")
    }

    /// The host's side of published ports, where systemd has it.
    #[must_use]
    pub fn publisher_socket(&self) -> String {
        format!("appfw-{self}-publish.socket")
    }

    /// What leads published ports to the app.
    #[must_use]
    pub fn publisher(&self) -> String {
        format!("appfw-{self}-publish.service")
    }

    /// What serves the app and has units of its own, in the order in which it ends: nothing is started by a connection then.
    #[must_use]
    pub fn servants(&self) -> [String; 4] {
        [self.publisher_socket(), self.publisher(), self.socket(), self.forwarder()]
    }

    /// What ends the launch when its launcher dies.
    #[must_use]
    pub fn lifeline(&self) -> String {
        format!("appfw-{self}-lifeline.service")
    }

    /// The directory of the app's cgroup.
    #[must_use]
    pub fn cgroup_directory(&self) -> String {
        cgroup_directory(&self.cgroup())
    }

    /// The same under the manager of this user.
    #[must_use]
    pub fn cgroup_of_user(&self, uid: u32) -> String {
        format!("{}{}", manager_of_user(uid), self.cgroup())
    }

    /// The app's cgroup as `/proc/PID/cgroup` shows it.
    #[must_use]
    pub fn cgroup(&self) -> String {
        cgroup(&self.app())
    }
}

/// The cgroup directory of this user's manager (user@.service, systemd.special(7)).
#[must_use]
pub fn manager_of_user(uid: u32) -> String {
    format!("/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service")
}

/// The cgroup of a unit of ours.
#[must_use]
pub fn cgroup(unit: &str) -> String {
    format!("/{SLICE}/{unit}")
}

/// The directory of a cgroup of the system manager's.
#[must_use]
pub fn cgroup_directory(cgroup: &str) -> String {
    format!("/sys/fs/cgroup{cgroup}")
}

/// The path that the text of a /proc/PID/cgroup gives in the unified hierarchy (cgroups(7)), to be
/// compared from its end: in a container the root of the hierarchy may show before it.
#[must_use]
pub fn unified_cgroup(text: &str) -> Option<&str> {
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

impl fmt::Display for LaunchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_become_syntax_are_refused() {
        for name in [
            "",
            ".",
            "..",
            "-x",
            "--now",
            "a b",
            "a/b",
            "../x",
            "a\nb",
            "a%i",
            "a@b",
            "é",
            "x-forward",
            "x-lifeline",
            "x-publish",
        ] {
            assert!(LaunchName::new(name).is_err(), "{name:?}");
        }
        assert!(LaunchName::new(&"a".repeat(65)).is_err());
        assert!(LaunchName::new(&"a".repeat(64)).is_ok());
        assert!(LaunchName::new("my_app-1.2").is_ok());
    }

    #[test]
    fn a_default_name_is_a_valid_name() {
        for command in ["curl", "/usr/bin/curl", "./a b%c", "x-forward", "..", &"long".repeat(40), "-"] {
            let name = LaunchName::for_command(Path::new(command), 0xbeef).to_string();
            assert!(LaunchName::new(&name).is_ok(), "{command}: {name}");
        }
    }

    #[test]
    fn the_units_of_a_launch() {
        let name = LaunchName::new("web").unwrap();
        assert_eq!(name.app(), "appfw-web.service");
        assert_eq!(name.socket(), "appfw-web-forward.socket");
        assert_eq!(name.cgroup(), "/appfw.slice/appfw-web.service");
    }
}
