//! Which start of a service was proven: that it runs behind the wall that its files make, and not as before.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::name::LaunchName;
use crate::units::INNER;

/// What is known of a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    /// It was proven.
    Proven,
    /// It was before there was a drop-in: its last commands are as free as it was itself.
    Before,
}

impl Start {
    fn word(self) -> &'static str {
        match self {
            Self::Proven => "proven",
            Self::Before => "before",
        }
    }

    /// What is known of this start of what is called so.
    pub(super) fn of(name: &LaunchName, invocation: &str) -> Option<Self> {
        let (start, known) = Self::read(name)?;
        (!invocation.is_empty() && known == invocation).then_some(start)
    }

    /// What is known of the last start that anything is known of.
    pub(super) fn last(name: &LaunchName) -> Option<Self> {
        Self::read(name).map(|(start, _)| start)
    }

    /// With the invocation of the start that it is of.
    fn read(name: &LaunchName) -> Option<(Self, String)> {
        let text = fs::read_to_string(file(name)).ok()?;
        let (word, invocation) = text.split_once(' ')?;
        let start = [Self::Proven, Self::Before].into_iter().find(|start| start.word() == word)?;
        Some((start, invocation.to_owned()))
    }

    /// # Errors
    /// It cannot be written.
    pub(super) fn remember(self, name: &LaunchName, invocation: &str) -> Result<()> {
        let failed = || format!("cannot write {}", file(name).display());
        fs::DirBuilder::new().recursive(true).mode(0o711).create(INNER).with_context(failed)?;
        let opened = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file(name));
        let mut file = opened.with_context(failed)?;
        // The umask is the service's own: launches of all users have their directories there, and root alone writes this.
        fs::set_permissions(INNER, fs::Permissions::from_mode(0o711)).with_context(failed)?;
        file.set_permissions(fs::Permissions::from_mode(0o600)).with_context(failed)?;
        file.write_all(format!("{} {invocation}", self.word()).as_bytes()).with_context(failed)
    }
}

/// Beside the directories of launches, whose names have no colon.
fn file(name: &LaunchName) -> PathBuf {
    Path::new(INNER).join(format!("confined:{name}"))
}

/// For what is not confined any more, or by another wall from now on.
pub(super) fn forget(name: &LaunchName) {
    // Gone, or of no use to anybody.
    let _ = fs::remove_file(file(name));
}
