//! Makes the app's view of the file system, in a mount namespace of its own. Mounts follow links, as
//! the paths of [`View`] are places, not names.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount, mount_bind_recursive, mount_change,
    mount_remount, move_mount, open_tree,
};

use crate::view::{Bind, Empty, View};

/// What systemd gives TemporaryFileSystem= (src/basic/mountpoint-util.h): a bound on what an app can
/// fill memory with.
const TMPFS_LIMITS: &str = "size=10%,nr_inodes=400k";

/// Makes `view` the file system of this process and of what it becomes.
///
/// # Errors
/// The kernel refuses one of the mounts, named. Nothing may then be run.
pub fn make(view: &View) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
    // What is mounted outside later is seen, an unplugged disk isn't held; nothing of ours gets out.
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("cannot separate the app's mounts from the host's")?;
    // Before their places are covered.
    let shown = view.shown.iter().filter_map(|path| tree(path, path).transpose()).collect::<Result<Vec<_>>>()?;
    let replaced = view
        .replaced
        .iter()
        .map(|Bind { source, target }| match tree(source, target)? {
            Some(tree) => Ok(tree),
            None => bail!("{} is missing", source.display()),
        })
        .collect::<Result<Vec<_>>>()?;
    read_only(&view.read_only)?;
    view.empty.iter().try_for_each(cover)?;
    shown.iter().chain(&replaced).try_for_each(Tree::put)?;
    hide(&view.hidden, view.empty.first())
}

/// A mount held by a descriptor, and where it goes.
struct Tree {
    root: OwnedFd,
    is_directory: bool,
    target: PathBuf,
}

/// What is at `source`; `None` if nothing is, for this user.
fn tree(source: &Path, target: &Path) -> Result<Option<Tree>> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    let failed = || format!("cannot take {} along", source.display());
    match present(open_tree(CWD, source, flags)).with_context(failed)? {
        Some(root) => {
            let is_directory = fs::metadata(source).with_context(failed)?.is_dir();
            Ok(Some(Tree { root, is_directory, target: target.to_owned() }))
        }
        None => Ok(None),
    }
}

impl Tree {
    fn put(&self) -> Result<()> {
        let failed = || format!("cannot show {}", self.target.display());
        if self.is_directory {
            fs::create_dir_all(&self.target).with_context(failed)?;
        } else if !self.target.exists() {
            // In a directory that was covered.
            self.target.parent().map_or(Ok(()), fs::create_dir_all).with_context(failed)?;
            File::create_new(&self.target).with_context(failed)?;
        }
        let follow = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
        move_mount(&self.root, "", CWD, &self.target, follow).with_context(failed)
    }
}

/// Covers a directory, made if it lies in one that was covered.
fn cover(Empty { path, mode }: &Empty) -> Result<()> {
    let failed = || format!("cannot cover {}", path.display());
    let mut directory = DirBuilder::new();
    match directory.recursive(true).mode(0o755).create(path) {
        Ok(()) => {}
        // It isn't there, and this user can't make it.
        Err(_) if !path.exists() => return Ok(()),
        Err(error) => return Err(error).with_context(failed),
    }
    let options = std::ffi::CString::new(format!("mode={mode:04o},{TMPFS_LIMITS}"))?;
    mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str()).with_context(failed)
}

/// Mounts something unusable over each path: an empty file, or an empty directory, with no mode.
fn hide(paths: &[PathBuf], place: Option<&Empty>) -> Result<()> {
    let Some(Empty { path: place, .. }) = place else { bail!("there is no place for what hides files") };
    let (file, directory) = (place.join("hidden-file"), place.join("hidden-directory"));
    let failed = "cannot make what hides files";
    OpenOptions::new().write(true).create_new(true).mode(0o000).open(&file).context(failed)?;
    DirBuilder::new().mode(0o000).create(&directory).context(failed)?;
    fs::set_permissions(&directory, Permissions::from_mode(0o000)).context(failed)?;
    for path in paths {
        let Ok(metadata) = fs::metadata(path) else { continue };
        let over = if metadata.is_dir() { &directory } else { &file };
        rustix::mount::mount_bind(over, path).with_context(|| format!("cannot hide {}", path.display()))?;
    }
    fs::remove_file(&file).and_then(|()| fs::remove_dir(&directory)).context(failed)
}

/// Mounts each path over itself, then sets the flag on it and on each mount below: a recursive
/// remount (mount_setattr(2)) has no safe form yet.
fn read_only(paths: &[PathBuf]) -> Result<()> {
    let mut roots = Vec::new();
    for path in paths {
        let failed = || format!("cannot make {} read-only", path.display());
        if present(mount_bind_recursive(path, path)).with_context(failed)?.is_some() {
            // As the mount table shows it, links followed.
            roots.push(fs::canonicalize(path).with_context(failed)?);
        }
    }
    if roots.is_empty() {
        return Ok(());
    }
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mount table")?;
    for (point, flags) in table.lines().filter_map(mount_point) {
        if roots.iter().any(|root| point.starts_with(root)) && !is_left_writable(&point) {
            mount_remount(&point, flags | MountFlags::BIND | MountFlags::RDONLY, "")
                .with_context(|| format!("cannot make {} read-only", point.display()))?;
        }
    }
    Ok(())
}

/// Programs ask SELinux by writing to its files; its policy says who may change what
/// (ProtectKernelTunables= leaves it so as well).
fn is_left_writable(point: &Path) -> bool {
    point.starts_with("/sys/fs/selinux")
}

/// Mount point and per-mount flags of a line of /proc/PID/mountinfo (proc_pid_mountinfo(5)).
fn mount_point(line: &str) -> Option<(PathBuf, MountFlags)> {
    let mut fields = line.split(' ').skip(4);
    let point = unescaped(fields.next()?);
    let flags = fields.next()?.split(',').map(|option| match option {
        "ro" => MountFlags::RDONLY,
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        "nosymfollow" => MountFlags::NOSYMFOLLOW,
        _ => MountFlags::empty(),
    });
    Some((point, flags.fold(MountFlags::empty(), |all, one| all | one)))
}

/// Blanks, tabs, line breaks and backslashes stand in the table as octal numbers.
fn unescaped(text: &str) -> PathBuf {
    let escapes = [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\043", "#"), ("\\134", "\\")];
    PathBuf::from(escapes.iter().fold(text.to_owned(), |text, (escape, character)| text.replace(escape, character)))
}

/// What isn't there, or not for this user, needs no mount.
fn present<T>(result: rustix::io::Result<T>) -> rustix::io::Result<Option<T>> {
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
    fn mount_points_are_read_with_their_flags() {
        let line = "36 35 98:0 /mnt1 /mnt/a\\040b\\134040 rw,nosuid,noexec,relatime master:1 - ext3 /dev/root rw,errors=continue";
        let flags = MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RELATIME;
        assert_eq!(mount_point(line), Some(("/mnt/a b\\040".into(), flags)));
        assert_eq!(mount_point("36 35"), None);
    }

    #[test]
    fn what_is_below_a_path_is_more_than_what_begins_like_it() {
        assert!(!Path::new("/system/x").starts_with("/sys"));
        assert!(is_left_writable(Path::new("/sys/fs/selinux")) && !is_left_writable(Path::new("/sys/fs/cgroup")));
    }
}
