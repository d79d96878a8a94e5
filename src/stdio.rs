//! The descriptors of a launch: what the app gets as 0-2, the life-line, the terminal.

use std::fs::File;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::inside::refuse_way_out;
use crate::plan::{Plan, Stdio};
use crate::terminal::is_in_background;

/// What the launcher holds.
#[derive(Debug)]
pub struct Streams {
    /// What the app gets as 0, 1 and 2; nothing with `--detach`.
    pub app: Vec<OwnedFd>,
    /// For the life-line's unit, in the order of [`crate::units::descriptor`].
    pub lifeline_unit: Vec<OwnedFd>,
    /// The writing end of the life-line: its closing ends the launch.
    pub lifeline: PipeWriter,
    /// The pty's other side, if the app has one.
    pub terminal: Option<OwnedFd>,
}

impl Streams {
    /// Opens them.
    ///
    /// # Errors
    /// Something that leads out among the caller's descriptors; no pty to be had.
    pub fn open(plan: &Plan) -> Result<Self> {
        let (lifeline_end, lifeline): (PipeReader, _) = std::io::pipe().context("cannot make a pipe")?;
        let mut lifeline_unit = vec![lifeline_end.into()];
        let (app, terminal) = match plan.stdio {
            Stdio::Terminal { errors } => {
                let (master, slave) = pty().context("cannot make a pty")?;
                // The app opens its own terminal by name (/dev/tty, ttyname(3)).
                let user = plan.app.user();
                nix::unistd::fchown(&slave, Some(user.uid.into()), None)
                    .context("cannot give the pty to the app's user")?;
                lifeline_unit.push(duplicate(std::io::stdin())?);
                let error = if errors { duplicate(&slave)? } else { own("error", std::io::stderr())? };
                (vec![duplicate(&slave)?, slave, error], Some(master))
            }
            Stdio::Descriptors => {
                (vec![input()?, own("output", std::io::stdout())?, own("error", std::io::stderr())?], None)
            }
            Stdio::Journal => (Vec::new(), None),
        };
        Ok(Self { app, lifeline_unit, lifeline, terminal })
    }
}

/// Both sides of a new one. Unlike openpty(3)'s they are closed in what the launcher executes: whoever holds the app's side
/// keeps the other from telling its end.
fn pty() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags)?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let slave = ioctl_tiocgptpeer(&master, flags)?;
    Ok((master, slave))
}

/// The caller's, but no terminal in whose background this process is: an app that reads there is not stopped (SIGTTIN), as
/// it is in no session of that terminal's, and would take what is typed to the shell.
fn input() -> Result<OwnedFd> {
    if is_in_background() {
        return Ok(File::open("/dev/null").context("cannot open /dev/null")?.into());
    }
    own("input", std::io::stdin())
}

fn own(name: &str, stream: impl AsFd) -> Result<OwnedFd> {
    // Where this process is a unit's itself.
    let journal = std::env::var("JOURNAL_STREAM").ok();
    refuse_way_out(name, stream.as_fd(), journal.as_deref())?;
    duplicate(stream)
}

fn duplicate(stream: impl AsFd) -> Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")
}
