//! What the launches of one profile have in common under `--isolate profile`: a file beside their directories.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// What a profile's file is called: as no launch is.
#[must_use]
pub fn file(profile: &str) -> String {
    format!("@circuits-{profile}")
}

/// Makes the file that the launches of a profile have in common: random, as whoever knew it could be on their
/// circuits. It lasts as long as the directory: to the next boot, or the end of the user's session.
///
/// # Errors
/// It cannot be written.
pub fn share(path: &Path) -> Result<()> {
    let failed = || format!("cannot write {}", path.display());
    if path.is_file() {
        return Ok(());
    }
    let mut key = [0; 32];
    rustix::rand::getrandom(&mut key, rustix::rand::GetRandomFlags::empty()).context("no random numbers")?;
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let text: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    // Of a launcher that was killed, and had this one's number.
    let _ = fs::remove_file(&beside);
    let opened = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    let written = opened.and_then(|mut file| file.write_all(text.as_bytes()));
    let linked = written.and_then(|()| fs::hard_link(&beside, path));
    let _ = fs::remove_file(&beside);
    match linked {
        // Another launch has made it meanwhile.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked.with_context(failed),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_profile_has_one_secret_and_every_other_another() {
        let base = tempfile::tempdir().unwrap();
        let read = |profile: &str| {
            let path = base.path().join(file(profile));
            share(&path).unwrap();
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
            fs::read_to_string(path).unwrap()
        };
        let web = read("web");
        assert_eq!((web.len(), &read("web")), (64, &web));
        assert_ne!(read("mail"), web);
        assert_eq!(fs::read_dir(base.path()).unwrap().count(), 2, "nothing is left of the making");
    }
}
