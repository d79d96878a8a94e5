//! Where links lead that root alone can change. The name that they end at chooses a profile, and a program must not choose
//! the one of its own next start.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::walk::Walk;

const STICKY: u32 = 0o1000;

/// The file that an absolute path leads to; `None` if anybody but root could have it lead elsewhere.
pub(super) fn leads_to(path: &Path) -> Option<PathBuf> {
    let mut walk = Walk::to(path);
    while let Some(next) = walk.step() {
        let found = next.symlink_metadata().ok()?;
        if !is_fixed(&walk.here().symlink_metadata().ok()?, &found) {
            return None;
        }
        if found.is_symlink() {
            walk.follow(&fs::read_link(&next).ok()?)?;
        } else {
            walk.enter(next);
        }
    }
    Some(walk.here().to_owned())
}

/// Whether root alone can put something else in an entry's place.
fn is_fixed(directory: &Metadata, entry: &Metadata) -> bool {
    let is_written = directory.mode() & 0o022 != 0;
    // In a directory as /tmp or /nix/store is, an entry is its owner's.
    directory.uid() == 0 && (!is_written || directory.mode() & STICKY != 0 && entry.uid() == 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    #[test]
    fn a_way_that_somebody_else_could_change_leads_nowhere() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root has directories that are root's");
            return;
        }
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        let mode = |name: &str, mode| fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        for directory in ["bin", "lib", "bobs", "open"] {
            fs::create_dir(at(directory)).unwrap();
        }
        fs::write(at("lib/program"), "").unwrap();
        fs::write(at("bobs/program"), "").unwrap();
        symlink("../bin/./two", at("bin/one")).unwrap();
        symlink(at("lib/program"), at("bin/two")).unwrap();
        symlink(at("lib"), at("bin/directory")).unwrap();
        symlink(at("bin/one"), at("bobs/link")).unwrap();
        symlink(at("bobs/link"), at("bin/by-bobs")).unwrap();
        symlink(at("lib"), at("bobs/directory")).unwrap();
        symlink("round", at("bin/round")).unwrap();
        for link in [&at("bobs/link"), &at("open/bobs")] {
            let _ = symlink(at("lib/program"), link);
            std::os::unix::fs::lchown(link, Some(12345), None).unwrap();
        }
        symlink(at("lib/program"), at("open/roots")).unwrap();
        chown(at("bobs"), Some(12345), None).unwrap();
        mode("open", 0o1777);
        let program = Some(at("lib/program"));
        for name in
            ["lib/program", "bin/one", "bin/two", "bin/directory/program", "bin/directory/../bin/two", "open/roots"]
        {
            assert_eq!(leads_to(&at(name)), program, "{name}");
        }
        for name in
            ["bobs/link", "bobs/program", "bin/by-bobs", "bobs/directory/program", "open/bobs", "bin/round", "absent"]
        {
            assert_eq!(leads_to(&at(name)), None, "{name}");
        }
        for open in [0o777, 0o775] {
            mode("open", open);
            assert_eq!(leads_to(&at("open/roots")), None);
        }
    }
}
