//! `--detach` without a systemd: the launcher goes on in the background, as the program's keeper.

use std::fs::File;
use std::io::{Read, Write};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use rustix::stdio::{dup2_stderr, dup2_stdout};

use super::Log;
use crate::exit::Ended;

/// Starts this launcher again in a session of its own; returns when the program is executed, or with the
/// code of a launch that came to nothing and has said why.
///
/// # Errors
/// It cannot be started.
pub fn launch() -> Result<u8> {
    let failed = "cannot start the launcher in the background";
    let mut child = Command::new("/proc/self/exe")
        .arg("--background")
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(failed)?;
    let mut executed = child.stdout.take().context(failed)?;
    if executed.read(&mut [0]).context(failed)? > 0 {
        return Ok(0);
    }
    let status = child.wait().context(failed)?;
    Ok(Ended::from(status).code())
}

/// Leaves the caller's session: its end, and its terminal's keys, are not for this launch.
///
/// # Errors
/// The kernel refuses.
pub fn leave_session() -> Result<()> {
    nix::unistd::setsid().context("cannot leave the caller's session")?;
    Ok(())
}

/// Tells who waits in [`launch`], and lets go of the caller's descriptors: what is said from now on is the log's.
///
/// # Errors
/// They cannot be replaced.
pub fn let_caller_go(log: &Log) -> Result<()> {
    let failed = "cannot let go of the caller's output";
    let nothing = File::options().write(true).open("/dev/null").context(failed)?;
    dup2_stderr(log.descriptor().context(failed)?).context(failed)?;
    // A caller that was killed meanwhile has let go itself.
    let _ = std::io::stdout().write_all(b"\n").and_then(|()| std::io::stdout().flush());
    dup2_stdout(nothing).context(failed)
}
