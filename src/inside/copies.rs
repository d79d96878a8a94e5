//! Copies of directories whose files count for nothing unless they belong to the user or to root.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, mount_remount};

use super::mounts::cover;

/// Far more than such a directory has, and little enough for every launch.
const MAX_FILES: usize = 64;
/// Of each file.
const MAX_BYTES: u64 = 1 << 20;

/// Covers each directory, where there, with a copy of its files that this process's user owns and nobody
/// writes. One that is too large to be copied is left as it is: its reader says what is wrong with it.
///
/// # Errors
/// The kernel refuses a mount, or has no memory for the copy.
pub fn make(directories: &[PathBuf]) -> Result<()> {
    for directory in directories {
        if let Some(copies) = read(directory) {
            put(directory, &copies).with_context(|| format!("cannot make a copy of {}", directory.display()))?;
        }
    }
    Ok(())
}

/// One file.
struct Copy {
    name: PathBuf,
    permissions: Permissions,
    content: Vec<u8>,
}

fn put(directory: &Path, copies: &[Copy]) -> Result<()> {
    cover(directory, 0o755)?;
    for Copy { name, permissions, content } in copies {
        let place = directory.join(name);
        fs::write(&place, content)?;
        fs::set_permissions(&place, permissions.clone())?;
    }
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount_remount(directory, flags, "")?)
}

/// The regular files of a directory, links followed; `None` if it isn't there for this user, is empty, or too large.
fn read(directory: &Path) -> Option<Vec<Copy>> {
    let mut copies = Vec::new();
    for entry in fs::read_dir(directory).ok()? {
        let path = entry.ok()?.path();
        match copy(&path) {
            Ok(Some(_)) if copies.len() == MAX_FILES => return None,
            Ok(copy) => copies.extend(copy),
            Err(error) if error.kind() == io::ErrorKind::FileTooLarge => return None,
            // Not for this user, outside as inside.
            Err(_) => {}
        }
    }
    (!copies.is_empty()).then_some(copies)
}

/// `None` if it isn't a regular file.
fn copy(path: &Path) -> io::Result<Option<Copy>> {
    // Before it is opened: a FIFO would wait for its other end.
    let metadata = path.metadata()?;
    let (true, Some(name)) = (metadata.is_file(), path.file_name()) else { return Ok(None) };
    let mut content = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let permissions = Permissions::from_mode(metadata.permissions().mode() & 0o777);
    Ok(Some(Copy { name: name.into(), permissions, content }))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;

    use super::*;

    #[test]
    fn regular_files_are_copied_with_what_links_lead_to() {
        let place = tempfile::tempdir().unwrap();
        let (directory, other) = (place.path().join("config.d"), place.path().join("other"));
        fs::create_dir_all(directory.join("folder")).unwrap();
        fs::write(&other, "other").unwrap();
        fs::write(directory.join("own"), "own").unwrap();
        fs::set_permissions(directory.join("own"), Permissions::from_mode(0o4644)).unwrap();
        symlink(&other, directory.join("link")).unwrap();
        symlink("nowhere", directory.join("broken")).unwrap();
        nix::unistd::mkfifo(&directory.join("fifo"), Mode::S_IRWXU).unwrap();
        let mut copies = read(&directory).unwrap();
        copies.sort_by(|one, other| one.name.cmp(&other.name));
        let found: Vec<_> = copies.iter().map(|copy| (copy.name.to_str().unwrap(), copy.content.as_slice())).collect();
        assert_eq!(found, [("link", &b"other"[..]), ("own", b"own")]);
        assert_eq!(copies[1].permissions.mode(), 0o644);
    }

    #[test]
    fn what_is_too_large_or_has_nothing_is_left_as_it_is() {
        let place = tempfile::tempdir().unwrap();
        assert!(read(place.path()).is_none() && read(&place.path().join("absent")).is_none());
        let file = |name: &str| place.path().join(name);
        (0..MAX_FILES).for_each(|number| fs::write(file(&number.to_string()), "").unwrap());
        assert_eq!(read(place.path()).unwrap().len(), MAX_FILES);
        fs::write(file("one more"), "").unwrap();
        assert!(read(place.path()).is_none());
        fs::remove_file(file("one more")).unwrap();
        File::create(file("0")).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(read(place.path()).is_none());
    }
}
