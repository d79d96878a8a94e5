//! No descriptor but 0, 1 and 2 reaches the app, and none of those is a socket: a socket made
//! outside keeps its creator's namespace and filter (facts: docs/security.md).

use std::os::fd::{AsFd, BorrowedFd, RawFd};

use anyhow::{Context, Result, bail};
use rustix::fs::FileType;

/// Closes descriptors from 3 up, and refuses sockets below.
///
/// # Errors
/// Names the descriptor that is a socket.
pub fn refuse_and_close() -> Result<()> {
    let journal = std::env::var("JOURNAL_STREAM").ok();
    refuse_socket("input", std::io::stdin().as_fd(), journal.as_deref())?;
    refuse_socket("output", std::io::stdout().as_fd(), journal.as_deref())?;
    refuse_socket("error", std::io::stderr().as_fd(), journal.as_deref())?;
    for descriptor in open_descriptors()?.into_iter().filter(|descriptor| *descriptor > 2) {
        // One of them was the listing itself, closed by now.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// The rule for one descriptor, in the launcher before it hands it over as well. `journal` is the
/// stream that systemd itself made for the unit's output (systemd.exec(5), `$JOURNAL_STREAM`).
///
/// # Errors
/// It is a socket.
pub fn refuse_socket(name: &str, fd: BorrowedFd<'_>, journal: Option<&str>) -> Result<()> {
    let stat = rustix::fs::fstat(fd).with_context(|| format!("cannot look at the standard {name}"))?;
    let is_socket = FileType::from_raw_mode(stat.st_mode) == FileType::Socket;
    if is_socket && journal != Some(&format!("{}:{}", stat.st_dev, stat.st_ino)) {
        bail!("the standard {name} is a socket made outside the wall, which would stay open to the app; use a pipe or a file");
    }
    Ok(())
}

fn open_descriptors() -> Result<Vec<RawFd>> {
    let mut descriptors = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").context("cannot list descriptors")? {
        let name = entry.context("cannot list descriptors")?.file_name();
        descriptors.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    Ok(descriptors)
}
