//! No descriptor but 0, 1 and 2 reaches the app, and none of those leads out: a socket made outside
//! keeps its creator's namespace and filter, a directory its file system, which `..` walks (facts:
//! docs/security.md).

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use anyhow::{Context, Result, bail};
use rustix::fs::FileType;
use rustix::stdio::{dup2_stderr, dup2_stdin, dup2_stdout};

use crate::control::Order;

/// Closes descriptors from 3 up, and refuses sockets and directories below.
///
/// # Errors
/// Names the descriptor that is one.
pub fn refuse_and_close() -> Result<()> {
    let journal = std::env::var("JOURNAL_STREAM").ok();
    refuse_way_out("input", std::io::stdin().as_fd(), journal.as_deref())?;
    refuse_way_out("output", std::io::stdout().as_fd(), journal.as_deref())?;
    refuse_way_out("error", std::io::stderr().as_fd(), journal.as_deref())?;
    close_from_three(None)
}

/// Closes descriptors from 3 up but this one.
///
/// # Errors
/// They cannot be listed.
pub fn close_all_but(kept: &impl AsRawFd) -> Result<()> {
    close_from_three(Some(kept.as_raw_fd()))
}

fn close_from_three(kept: Option<RawFd>) -> Result<()> {
    for descriptor in open_descriptors()?.into_iter().filter(|descriptor| *descriptor > 2 && Some(*descriptor) != kept)
    {
        // One of them was the listing itself, closed by now.
        let _ = nix::unistd::close(descriptor);
    }
    Ok(())
}

/// Puts the program's descriptors in the places of 0, 1 and 2.
///
/// # Errors
/// They are not three, or one leads out.
pub fn install(order: &Order, streams: Vec<OwnedFd>) -> Result<()> {
    if streams.len() != order.descriptors {
        bail!("the launcher announced {} descriptors and sent {}", order.descriptors, streams.len());
    }
    let [input, output, error] = match <[OwnedFd; 3]>::try_from(streams) {
        Ok(streams) => streams,
        Err(none) if none.is_empty() => return Ok(()),
        Err(_) => bail!("the launcher sent another number of descriptors than three"),
    };
    refuse_way_out("input", input.as_fd(), None)?;
    refuse_way_out("output", output.as_fd(), None)?;
    refuse_way_out("error", error.as_fd(), None)?;
    let failed = "cannot take over the caller's descriptors";
    dup2_stdin(input).context(failed)?;
    dup2_stdout(output).context(failed)?;
    dup2_stderr(error).context(failed)
}

/// The rule for one descriptor, in the launcher before it hands it over as well. `journal` is the
/// stream that systemd itself made for the unit's output (systemd.exec(5), `$JOURNAL_STREAM`).
///
/// # Errors
/// It is a socket or a directory.
pub fn refuse_way_out(name: &str, fd: BorrowedFd<'_>, journal: Option<&str>) -> Result<()> {
    let stat = rustix::fs::fstat(fd).with_context(|| format!("cannot look at the standard {name}"))?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Socket if journal != Some(&format!("{}:{}", stat.st_dev, stat.st_ino)) => "socket made",
        FileType::Directory => "directory opened",
        _ => return Ok(()),
    };
    bail!("the standard {name} is a {kind} outside the wall, which would stay open to the app; use a pipe or a file")
}

fn open_descriptors() -> Result<Vec<RawFd>> {
    let mut descriptors = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").context("cannot list descriptors")? {
        let name = entry.context("cannot list descriptors")?.file_name();
        descriptors.extend(name.to_str().and_then(|name| name.parse::<RawFd>().ok()));
    }
    Ok(descriptors)
}
