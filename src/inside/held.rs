//! What is at a place, held by a descriptor, so that nobody puts something else there between a look at it and the mount
//! on it.

use std::ffi::OsString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Statx, StatxFlags, open, readlinkat, statx};
use rustix::io::{Errno, Result};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::process::geteuid;

/// How often what is at a place may be taken away before something is mounted on it: who does so wins once, not always.
const TRIES: usize = 200;

/// Something held.
pub struct Held(OwnedFd);

impl Held {
    /// What is at `place`, a link at its end followed.
    ///
    /// # Errors
    /// Nothing is, or there is no way for this user.
    pub fn followed(place: &Path) -> Result<Self> {
        Self::open(place, OFlags::empty())
    }

    /// The same with the link itself, if it is one.
    ///
    /// # Errors
    /// As [`Self::followed`]'s.
    pub fn itself(place: &Path) -> Result<Self> {
        Self::open(place, OFlags::NOFOLLOW)
    }

    fn open(place: &Path, flags: OFlags) -> Result<Self> {
        open(place, OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty()).map(Self)
    }

    /// What it is.
    ///
    /// # Errors
    /// As [`Found::of`]'s.
    pub fn look(self) -> Result<(Self, Found)> {
        let found = Found::of(&self.0)?;
        Ok((self, found))
    }

    /// What it leads to, as a link has it.
    pub fn target(&self) -> Option<PathBuf> {
        let target = readlinkat(&self.0, "", Vec::new()).ok()?;
        Some(OsString::from_vec(target.into_bytes()).into())
    }

    /// The place where it is.
    ///
    /// # Errors
    /// /proc does not tell.
    pub fn place(&self) -> std::io::Result<PathBuf> {
        std::fs::read_link(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// A mount of it, with all that is mounted below, that is nowhere yet.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn tree(&self) -> Result<OwnedFd> {
        let clone = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        open_tree(&self.0, "", clone)
    }

    /// Mounts something on it, or itself, with all that is mounted below.
    ///
    /// # Errors
    /// ENOENT if it has been removed; the kernel refuses.
    pub fn cover(&self, by: &Self) -> Result<()> {
        let tree = by.tree()?;
        let on_it = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&tree, "", &self.0, "", on_it)
    }
}

/// What a look at something has found.
pub struct Found(Statx);

impl Found {
    /// What a descriptor stands for. Nothing is to be fetched from elsewhere, or waited for: the server of a FUSE mount may
    /// be gone, or never answer.
    ///
    /// # Errors
    /// It is not for this user to look at, as another one's FUSE mount.
    pub fn of(descriptor: &OwnedFd) -> Result<Self> {
        let wanted = StatxFlags::TYPE | StatxFlags::UID | StatxFlags::INO;
        statx(descriptor, "", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, wanted).map(Self)
    }

    pub fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.0.stx_mode.into())
    }

    pub fn is_own(&self) -> bool {
        self.0.stx_uid == geteuid().as_raw()
    }

    /// Whether it is this user's or root's.
    pub fn is_trusted(&self) -> bool {
        self.is_own() || self.0.stx_uid == 0
    }

    /// By which it is told from all else.
    pub fn identity(&self) -> (u32, u32, u64) {
        (self.0.stx_dev_major, self.0.stx_dev_minor, self.0.stx_ino)
    }
}

/// Does something that ends with a mount until nobody has taken away meanwhile what it was to be mounted on: there may be
/// something else by then.
pub fn insist(mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
    // EINVAL: it lay in a mount that is gone.
    let is_gone = |done: &Result<()>| matches!(done, Err(Errno::NOENT | Errno::INVAL));
    (1..TRIES).map(|_| attempt()).find(|done| !is_gone(done)).unwrap_or_else(attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_away_is_looked_for_again_but_not_for_ever() {
        let ends = |results: &[Result<()>]| {
            let mut results = results.iter().copied().cycle();
            insist(|| results.next().unwrap_or(Ok(())))
        };
        assert_eq!(ends(&[Err(Errno::NOENT), Err(Errno::INVAL), Ok(())]), Ok(()));
        assert_eq!(ends(&[Err(Errno::NOENT), Err(Errno::BUSY), Ok(())]), Err(Errno::BUSY));
        assert_eq!(ends(&[Err(Errno::NOENT)]), Err(Errno::NOENT));
    }

    #[test]
    fn what_is_held_is_told_from_what_has_its_name_later() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("name");
        std::os::unix::fs::symlink("/usr", &path).unwrap();
        let (link, found) = Held::itself(&path).and_then(Held::look).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(found.kind().is_symlink() && found.is_own() && found.is_trusted());
        assert_eq!(link.target().unwrap(), Path::new("/usr"));
        let (_, now) = Held::followed(&path).and_then(Held::look).unwrap();
        assert!(now.kind().is_dir() && now.identity() != found.identity());
    }
}
