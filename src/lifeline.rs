//! `appfw lifeline`: waits for the end of a pipe whose other end only the launcher holds. When it
//! exits, what is bound to its unit is stopped.

use std::io::{BufRead, Write, stdin, stdout};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};

use crate::say;
use crate::terminal::Settings;

/// Written by a launcher that ended in order and restored its terminal itself.
const DONE: &str = "done";

/// The launcher's side: tells which settings the terminal must get back should the launcher die.
///
/// # Errors
/// The life-line is gone.
pub fn remember(mut pipe: impl Write, settings: &Settings) -> Result<()> {
    writeln!(pipe, "{}", serde_json::to_string(settings)?).context("the life-line is gone")
}

/// The launcher's side: nothing is to be restored any more.
pub fn release(mut pipe: impl Write) {
    // If the life-line is gone, nothing is left to be told.
    let _ = writeln!(pipe, "{DONE}");
}

/// Where no systemd does it: starts one that reads the first of `descriptors` and restores the second, a terminal.
///
/// # Errors
/// It cannot be started.
pub fn start(appfw: &Path, descriptors: Vec<OwnedFd>) -> Result<()> {
    let failed = "cannot start appfw lifeline";
    let [pipe, terminal] = <[OwnedFd; 2]>::try_from(descriptors).ok().context(failed)?;
    // It ends when the launcher has, and so with nobody who waits for it.
    Command::new(appfw).arg("lifeline").stdin(pipe).stdout(terminal).spawn().context(failed)?;
    Ok(())
}

/// The unit's side.
#[must_use]
pub fn run() -> ExitCode {
    // In the launcher's session it would be stopped, as a background process that changes the terminal
    // (tcsetattr(3)). A unit leads a session already.
    let _ = nix::unistd::setsid();
    // Without capabilities it would be open to an app of root's: /proc/PID/root, ptrace(2).
    if let Err(error) = nix::sys::prctl::set_dumpable(false) {
        say::failure("appfw lifeline", &anyhow::Error::from(error).context("cannot close itself to others"));
        return ExitCode::FAILURE;
    }
    let mut settings: Option<Settings> = None;
    for line in stdin().lock().lines().map_while(Result::ok) {
        settings = if line == DONE { None } else { serde_json::from_str(&line).ok() };
    }
    if let Some(settings) = settings {
        // A terminal that is gone needs no restoring.
        let _ = settings.restore_from_raw(stdout());
    }
    ExitCode::SUCCESS
}
