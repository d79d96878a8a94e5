//! Makes the app's view of the file system, in a mount namespace of its own. Mounts follow links, as
//! the paths of [`View`] are places, not names.

use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{AtFlags, CWD, Mode, StatxFlags, statx};
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind_recursive, mount_change,
    mount_remount, move_mount, open_tree,
};
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit, umask};

use super::held::Found;
use super::hiding::Places;
use super::pinned::{self, Ways};
use super::table::{Mount, Table, is_within};
use super::{copies, hiding, lent};
use crate::view::{Bind, View};

/// What systemd gives TemporaryFileSystem= (src/basic/mountpoint-util.h): a bound on what an app can
/// fill memory with.
const TMPFS_LIMITS: &str = "size=10%,nr_inodes=400k";

/// In a new mount namespace: what is mounted outside later is seen, an unplugged disk isn't held; nothing of
/// ours gets out.
///
/// # Errors
/// The kernel refuses.
pub fn separate() -> rustix::io::Result<()> {
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
}

/// Makes `view` the file system of this process and of what it becomes, in a mount namespace of its own.
///
/// # Errors
/// The kernel refuses one of the mounts, named. Nothing may then be run.
pub fn make(view: &View) -> Result<()> {
    if let Some(own) = &view.own {
        make_own(own).with_context(|| format!("cannot make {}", own.display()))?;
    }
    view.made.iter().try_for_each(|made| pinned::make(made))?;
    let _descriptors = Descriptors::raised()?;
    let mut ways = Ways::default();
    // Before anything is mounted here: of each of ours there would be a second one.
    let table = Table::read()?;
    let Places { hidden, covered } = hiding::places(view, &table, &mut ways);
    let elsewhere: Vec<_> = view.read_only.iter().flat_map(|path| hiding::elsewhere(path, &table, &mut ways)).collect();
    let read_only: Vec<_> = view.read_only.iter().cloned().chain(elsewhere).collect();
    pinned::pin(hidden.iter().chain(&read_only), &view.sealed, &mut ways)?;
    make_read_only(&read_only, &mut ways)?;
    copies::make(&view.copied)?;
    // Held before the directory that they lie in is covered.
    let mut kept = Vec::new();
    keep(&view.sealed, view, &mut kept)?;
    for path in &view.shown {
        kept.extend(taken(path)?.map(|what| Kept { what, place: path.clone() }));
    }
    let mut session = Vec::new();
    let unseen = [std::slice::from_ref(&view.sealed), &view.empty, &hidden, &covered];
    for Bind { source, target } in &view.session {
        let what = lent::file(source, &unseen, &mut ways)?.map(|root| What::Tree { root, is_directory: false });
        session.extend(what.map(|what| Kept { what, place: target.clone() }));
    }
    for Bind { source, target } in &view.replaced {
        match lent::file(source, &unseen, &mut ways)? {
            Some(root) => {
                kept.push(Kept { what: What::Tree { root, is_directory: false }, place: target.clone() });
            }
            None => bail!("{} is missing, or something else is in its place", source.display()),
        }
    }
    // The caller's umask is the program's, not these directories'.
    let callers = umask(Mode::from_raw_mode(0o022));
    cover(&view.sealed, 0o755)?;
    for path in view.empty.iter().chain(&view.runtime) {
        fs::create_dir(path).with_context(|| format!("cannot make an empty {}", path.display()))?;
    }
    kept.iter().try_for_each(Kept::put)?;
    covered.iter().try_for_each(|directory| cover_filled(directory))?;
    hiding::hide(&hidden, view)?;
    if let Some(runtime) = &view.runtime {
        cover(runtime, 0o700)?;
        umask(Mode::from_raw_mode(0o077));
        session.iter().try_for_each(Kept::put)?;
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(&view.sealed, flags, "")
            .with_context(|| format!("cannot make {} read-only", view.sealed.display()))?;
    }
    umask(callers);
    Ok(())
}

/// Made by the user whose it is: root, who follows links of other users', never walks there.
fn make_own(directory: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
    if directory.metadata()?.uid() != geteuid().as_raw() {
        bail!("it is another user's");
    }
    Ok(fs::set_permissions(directory, Permissions::from_mode(0o700))?)
}

/// The limit of open files, raised as long as this lives: each entry of a sealed directory takes one.
struct Descriptors(Rlimit);

impl Descriptors {
    fn raised() -> Result<Self> {
        let callers = getrlimit(Resource::Nofile);
        let most = Rlimit { current: callers.maximum, ..callers };
        setrlimit(Resource::Nofile, most).context("cannot raise the limit of open files")?;
        Ok(Self(callers))
    }
}

impl Drop for Descriptors {
    fn drop(&mut self) {
        // Lowering always works.
        let _ = setrlimit(Resource::Nofile, self.0);
    }
}

/// Something that is seen at a place.
struct Kept {
    what: What,
    place: PathBuf,
}

enum What {
    /// A directory of the app's own, as some of the host's in it are not to be seen.
    Own,
    Link(PathBuf),
    /// A mount held by a descriptor.
    Tree {
        root: OwnedFd,
        is_directory: bool,
    },
}

/// Whether something is not to be seen at all, or only what is in it.
type IsAll = bool;

/// Takes along what `directory` holds, less what the view hides or has empty.
fn keep(directory: &Path, view: &View, kept: &mut Vec<Kept>) -> Result<()> {
    let failed = || format!("cannot see what is in {}", directory.display());
    let entries = match fs::read_dir(directory) {
        // Not for this user to look into.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(()),
        entries => entries.with_context(failed)?,
    };
    // By the name of what they are, or are in, here.
    let mut gone: HashMap<&OsStr, IsAll> = HashMap::new();
    for rest in view.hidden.iter().chain(&view.empty).filter_map(|path| path.strip_prefix(directory).ok()) {
        let mut names = rest.iter();
        if let Some(name) = names.next() {
            *gone.entry(name).or_default() |= names.next().is_none();
        }
    }
    for entry in entries {
        let entry = entry.with_context(failed)?;
        let place = entry.path();
        let gone = gone.get(&*entry.file_name());
        if gone == Some(&true) {
            continue;
        }
        if gone.is_some() {
            kept.push(Kept { what: What::Own, place: place.clone() });
            keep(&place, view, kept)?;
        } else if let Ok(to) = fs::read_link(&place) {
            kept.push(Kept { what: What::Link(to), place });
        } else {
            kept.extend(taken(&place)?.map(|what| Kept { what, place }));
        }
    }
    Ok(())
}

/// What is at `path`, links followed; `None` if nothing is, for this user.
fn taken(path: &Path) -> Result<Option<What>> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE
        // Nothing is to be fetched from elsewhere, or waited for.
        | OpenTreeFlags::AT_NO_AUTOMOUNT;
    let failed = || format!("cannot take {} along", path.display());
    let Some(root) = present(open_tree(CWD, path, flags)).with_context(failed)? else { return Ok(None) };
    let found = present(Found::of(&root)).with_context(failed)?;
    Ok(found.map(|found| What::Tree { root, is_directory: found.kind().is_dir() }))
}

impl Kept {
    fn put(&self) -> Result<()> {
        let Self { what, place } = self;
        let failed = || format!("cannot show {}", place.display());
        match what {
            What::Own => fs::create_dir(place).with_context(failed),
            What::Link(to) => symlink(to, place).with_context(failed),
            What::Tree { root, is_directory } => {
                if *is_directory {
                    fs::create_dir_all(place).with_context(failed)?;
                } else if !place.exists() {
                    // In the directory that was covered.
                    place.parent().map_or(Ok(()), fs::create_dir_all).with_context(failed)?;
                    File::create_new(place).with_context(failed)?;
                }
                let follow = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
                move_mount(root, "", CWD, place, follow).with_context(failed)
            }
        }
    }
}

/// Covers a directory with an empty file system.
pub(super) fn cover(directory: &Path, mode: u32) -> Result<()> {
    let options = CString::new(format!("mode={mode:04o},{TMPFS_LIMITS}"))?;
    mount("tmpfs", directory, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())
        .with_context(|| format!("cannot cover {}", directory.display()))
}

/// Covers a directory that anybody may write to and that somebody has filled; says so, as a program may look for its
/// files there.
fn cover_filled(directory: &Path) -> Result<()> {
    cover(directory, 0o1777)?;
    let name = directory.display();
    // To the program's errors. Who does not hear it loses nothing else.
    let _ = writeln!(
        std::io::stderr(),
        "appfw: {name} holds more that is called like a session's sockets than can be hidden, so the program sees none of {name}; clean it up"
    );
    Ok(())
}

/// Mounts each path over itself, then sets the flag on it and on each mount below: a recursive
/// remount (mount_setattr(2)) has no safe form yet.
fn make_read_only(paths: &[PathBuf], ways: &mut Ways) -> Result<()> {
    let mut roots = Vec::new();
    for path in paths {
        let failed = || format!("cannot make {} read-only", path.display());
        if present(mount_bind_recursive(path, path)).with_context(failed)?.is_some() {
            // As the mount table shows it, links followed.
            roots.push(ways.to(path).with_context(failed)?.end.clone());
        }
    }
    if roots.is_empty() {
        return Ok(());
    }
    for Mount { id, point, flags, .. } in &Table::read()?.mounts {
        if roots.iter().any(|root| is_within(point, root)) && !is_left_writable(point) && is_seen(*id, point) {
            mount_remount(point, *flags | MountFlags::BIND | MountFlags::RDONLY, "")
                .with_context(|| format!("cannot make {} read-only", point.display()))?;
        }
    }
    Ok(())
}

/// Whether the mount is what one finds at its place, and not covered by another one: then there is no way to it.
fn is_seen(id: u64, point: &Path) -> bool {
    // Nothing is to be fetched from elsewhere, or waited for. MNT_ID: Linux 5.8.
    let found = statx(CWD, point, AtFlags::NO_AUTOMOUNT | AtFlags::STATX_DONT_SYNC, StatxFlags::MNT_ID);
    // What cannot be looked at is tried, and said if it fails.
    found.map_or_else(|error| error != Errno::NOENT, |found| found.stx_mnt_id == id)
}

/// Programs ask SELinux by writing to its files; its policy says who may change what
/// (ProtectKernelTunables= leaves it so as well).
fn is_left_writable(point: &Path) -> bool {
    point.starts_with("/sys/fs/selinux")
}

/// What isn't there, or not for this user, needs no mount.
pub(super) fn present<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_below_a_path_is_more_than_what_begins_like_it() {
        assert!(!Path::new("/system/x").starts_with("/sys"));
        assert!(is_left_writable(Path::new("/sys/fs/selinux")) && !is_left_writable(Path::new("/sys/fs/cgroup")));
    }
}
