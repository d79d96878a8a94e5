//! The descriptors that travel with the units: what the app gets as 0-2, the life-line, the
//! terminal, the forwarder's report.

use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result};
use nix::pty::{OpenptyResult, openpty};

use crate::inside::refuse_socket;
use crate::plan::{Plan, Stdio};

/// What the launcher keeps.
#[derive(Debug)]
pub struct Streams {
    /// For the units, in the order of [`crate::units::descriptor`].
    pub for_units: Vec<OwnedFd>,
    /// The writing end of the life-line: its closing ends the launch.
    pub lifeline: PipeWriter,
    /// The forwarder's report.
    pub report: PipeReader,
    /// The pty's other side, if the app has one.
    pub terminal: Option<OwnedFd>,
}

impl Streams {
    /// Opens them.
    ///
    /// # Errors
    /// A socket among the caller's descriptors; no pty to be had.
    pub fn open(plan: &Plan) -> Result<Self> {
        let (lifeline_end, lifeline) = std::io::pipe().context("cannot make a pipe")?;
        let (report, report_end) = std::io::pipe().context("cannot make a pipe")?;
        let caller = || [own("input", std::io::stdin()), own("output", std::io::stdout()), own("error", std::io::stderr())];
        let (app, terminal) = match plan.stdio {
            Stdio::Terminal { errors } => {
                let OpenptyResult { master, slave } = openpty(None, None).context("cannot make a pty")?;
                // The app opens its own terminal by name (/dev/tty, ttyname(3)).
                let user = plan.app.user();
                nix::unistd::fchown(&slave, Some(user.uid.into()), None).context("cannot give the pty to the app's user")?;
                let [.., error] = caller();
                let third = if errors { duplicate(&slave)? } else { error? };
                ([duplicate(&slave)?, slave, third], Some(master))
            }
            Stdio::Descriptors => {
                let [input, output, error] = caller();
                ([input?, output?, error?], None)
            }
            // Not used by the unit, but their places must be filled.
            Stdio::Journal => ([null()?, null()?, null()?], None),
        };
        let tty = if terminal.is_some() { duplicate(std::io::stdin())? } else { null()? };
        let [input, output, error] = app;
        let for_units = vec![input, output, error, lifeline_end.into(), tty, report_end.into()];
        Ok(Self { for_units, lifeline, report, terminal })
    }
}

fn own(name: &str, stream: impl AsFd) -> Result<OwnedFd> {
    refuse_socket(name, stream.as_fd(), None)?;
    duplicate(stream)
}

fn duplicate(stream: impl AsFd) -> Result<OwnedFd> {
    stream.as_fd().try_clone_to_owned().context("cannot duplicate a descriptor")
}

fn null() -> Result<OwnedFd> {
    let file = std::fs::File::options().read(true).write(true).open("/dev/null");
    file.map(OwnedFd::from).context("cannot open /dev/null")
}
