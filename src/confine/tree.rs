//! Where a path leads as systemd walks it: links included, anew at each start and before each command, as root. So it
//! matters who can put a link in the way.

use std::fs::{self, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::walk::Walk;

/// A file system, with what a service is shown of it elsewhere.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: PathBuf,
    /// Whose alone the directories shall be.
    owner: u32,
    /// What is seen at a place, which comes first. Both are without links.
    shown: Vec<(PathBuf, PathBuf)>,
}

/// The end of such a walk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The path, without links. What isn't there is as it was written.
    pub(super) path: PathBuf,
    /// The first directory on the way in which others than its owner can put a link. Not the end itself: what is in
    /// there may be anybody's.
    pub(super) changeable: Option<PathBuf>,
}

impl Tree {
    /// That of root's at this path.
    pub(super) fn new(root: PathBuf, owner: u32) -> Self {
        Self { root, owner, shown: Vec::new() }
    }

    /// The host's: that of PID 1, where this process is in the view of a service.
    pub(super) fn of_host() -> Self {
        let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/mnt")).ok();
        // Who may not ask is in no service's.
        let is_elsewhere = namespace("1").is_some_and(|of_host| namespace("self") != Some(of_host));
        Self::new(if is_elsewhere { "/proc/1/root" } else { "/" }.into(), 0)
    }

    /// From here on, what is at `target` is `source`.
    pub(super) fn show(&mut self, source: PathBuf, target: PathBuf) {
        self.shown.push((target, source));
    }

    /// A file of it.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn read(&self, path: &Path) -> Result<Vec<u8>> {
        fs::read(self.real(path)).with_context(|| format!("cannot read {}", path.display()))
    }

    /// # Errors
    /// It cannot be told.
    pub(super) fn place(&self, path: &Path) -> Result<Place> {
        let failed = || format!("cannot tell where {} leads", path.display());
        let (mut walk, mut changeable) = (Walk::to(path), None);
        while let Some(next) = walk.step() {
            let directory = found(self.real(walk.here()).metadata()).with_context(failed)?;
            if directory.is_some_and(|directory| !self.is_owners_alone(&directory)) {
                changeable.get_or_insert_with(|| walk.here().to_owned());
            }
            let real = self.real(&next);
            if !found(real.symlink_metadata()).with_context(failed)?.is_some_and(|found| found.is_symlink()) {
                walk.enter(next);
                continue;
            }
            let target = fs::read_link(real).with_context(failed)?;
            walk.follow(&target).with_context(|| format!("{}: its links lead nowhere", failed()))?;
        }
        Ok(Place { path: walk.here().to_owned(), changeable })
    }

    /// In a sticky directory others cannot take away what is there, and can put what isn't yet. An access list shows as
    /// the group's rights (acl(5)).
    fn is_owners_alone(&self, directory: &Metadata) -> bool {
        directory.uid() == self.owner && directory.mode() & 0o022 == 0
    }

    /// Where a path without links is for this process.
    fn real(&self, path: &Path) -> PathBuf {
        let shown = self.shown.iter().filter_map(|(target, source)| Some((path.strip_prefix(target).ok()?, source)));
        let shown = shown.min_by_key(|(rest, _)| rest.components().count());
        let of_host = shown.map_or_else(|| path.to_owned(), |(rest, source)| source.join(rest));
        // Without the slash that an empty rest leaves at the end.
        self.root.join(of_host.strip_prefix("/").unwrap_or(&of_host)).components().collect()
    }
}

/// What isn't there is no error.
fn found(looked: std::io::Result<Metadata>) -> std::io::Result<Option<Metadata>> {
    match looked {
        Ok(found) => Ok(Some(found)),
        Err(error) if [ErrorKind::NotFound, ErrorKind::NotADirectory].contains(&error.kind()) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// A file system in a directory of the test's own, whose owner is root in it.
    fn tree(directories: &[&str], links: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let held = tempfile::tempdir().unwrap();
        let tree = Tree::new(held.path().to_owned(), nix::unistd::geteuid().as_raw());
        let inside = |path: &str| held.path().join(path.trim_start_matches('/'));
        for directory in directories {
            fs::create_dir_all(inside(directory)).unwrap();
        }
        for (link, target) in links {
            symlink(target, inside(link)).unwrap();
        }
        for directory in directories.iter().chain(&["/"]) {
            fs::set_permissions(inside(directory), fs::Permissions::from_mode(0o755)).unwrap();
        }
        (held, tree)
    }

    fn open_to_others(held: &tempfile::TempDir, path: &str, mode: u32) {
        fs::set_permissions(held.path().join(&path[1..]), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn path(tree: &Tree, path: &str) -> String {
        tree.place(Path::new(path)).unwrap().path.display().to_string()
    }

    fn changeable(tree: &Tree, path: &str) -> Option<PathBuf> {
        tree.place(Path::new(path)).unwrap().changeable
    }

    #[test]
    fn links_lead_where_they_lead_in_the_tree() {
        let (_held, tree) = tree(
            &["/run/dbus", "/srv/a/b"],
            &[("/var", "run"), ("/srv/abs", "/run"), ("/srv/a/up", "../../run/dbus"), ("/srv/twice", "abs/dbus")],
        );
        for (given, end) in [
            ("/run/dbus", "/run/dbus"),
            ("/var/dbus", "/run/dbus"),
            ("/srv/abs/dbus/x/y", "/run/dbus/x/y"),
            ("/srv/a/up", "/run/dbus"),
            ("/srv/twice/socket", "/run/dbus/socket"),
            ("/nothing/../run", "/run"),
            ("/../srv/./a", "/srv/a"),
        ] {
            assert_eq!(path(&tree, given), end, "{given}");
        }
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let (_held, tree) = tree(&[], &[("/a", "b"), ("/b", "a")]);
        assert!(tree.place(Path::new("/a/x")).unwrap_err().to_string().contains("lead nowhere"));
    }

    #[test]
    fn a_directory_on_the_way_that_others_can_write_is_told_and_the_end_is_not_judged() {
        for mode in [0o777, 0o1777, 0o775, 0o757] {
            let (held, tree) = tree(&["/srv/theirs/x", "/root"], &[("/root/link", "/srv/theirs/x")]);
            open_to_others(&held, "/srv/theirs", mode);
            assert_eq!(changeable(&tree, "/srv/theirs"), None);
            for given in ["/srv/theirs/x", "/srv/theirs/missing/y", "/root/link"] {
                assert_eq!(changeable(&tree, given), Some("/srv/theirs".into()), "{given}");
            }
            assert_eq!(changeable(&tree, "/root/missing"), None);
        }
        let (_held, tree) = tree(&["/srv/x/y"], &[]);
        let of_another = Tree { owner: tree.owner + 1, ..tree };
        assert_eq!(changeable(&of_another, "/srv/x"), Some("/".into()));
    }

    #[test]
    fn below_what_is_shown_elsewhere_that_is_walked() {
        let (held, mut tree) = tree(&["/srv/theirs", "/srv/own", "/opt/a"], &[("/srv/own/usr", "/usr")]);
        open_to_others(&held, "/srv/theirs", 0o777);
        assert_eq!(changeable(&tree, "/opt/a/x"), None);
        tree.show("/srv/own".into(), "/opt/a".into());
        assert_eq!(path(&tree, "/opt/a/usr/lib"), "/usr/lib");
        tree.show("/srv/theirs".into(), "/opt/a/deep".into());
        assert_eq!(changeable(&tree, "/opt/a/deep"), None);
        assert_eq!(changeable(&tree, "/opt/a/deep/x"), Some("/opt/a/deep".into()));
        assert_eq!(tree.real(Path::new("/opt/a/deep/x")), held.path().join("srv/theirs/x"));
        assert_eq!(tree.real(Path::new("/opt/a")), held.path().join("srv/own"));
    }
}
