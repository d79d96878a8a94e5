//! `appfw inside`: the app's main process until the wall is proven. It runs in the unit, as the
//! app's user and without privileges, and becomes the app by execve, or exits with 125.

mod descriptors;
mod hiding;
mod init;
mod mounts;
pub mod network;
mod privileges;
mod program;
mod proof;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::InsideArgs;
use crate::control::{Order, Report, receive_with};
use crate::exit::{self, NotExecuted};
use crate::say;

pub use descriptors::refuse_way_out;

/// How long a launcher on a machine under load may take to hear why the app does not run.
const HEARING: Duration = Duration::from_secs(5);

/// The story of the app's side of a launch. Returns if the app was not executed, or when it is
/// over where this process stays as its init.
#[must_use]
pub fn run(args: &InsideArgs) -> ExitCode {
    let launcher = match connect(args) {
        Ok(launcher) => launcher,
        Err(error) => {
            say::failure("appfw inside", &error);
            return ExitCode::from(exit::OURS);
        }
    };
    let error = match prove_and_become(args, &launcher) {
        Ok(code) => return code,
        Err(error) => error,
    };
    let message = format!("{error:#}");
    let code = exit::code_of(&error);
    let report = match error.downcast::<NotExecuted>() {
        Ok(failure) => Report::NotExecuted { code, message: failure.message },
        Err(_) => Report::Refused { message },
    };
    match report.send(&launcher) {
        Ok(()) => wait_until_heard(&launcher),
        Err(error) => say::failure("appfw inside", &error),
    }
    ExitCode::from(code)
}

/// The launcher takes a report from the unit's own processes alone, and whose it is can't be told
/// of one that is gone. It closes the connection when it has heard.
fn wait_until_heard(mut launcher: &UnixStream) {
    if launcher.set_read_timeout(Some(HEARING)).is_ok() {
        // Whether it ended or took too long: there is nothing more to say.
        let _ = launcher.read(&mut [0]);
    }
}

fn connect(args: &InsideArgs) -> Result<UnixStream> {
    descriptors::refuse_and_close()?;
    UnixStream::connect(&args.control).context("cannot reach the launcher, who sends the command")
}

fn prove_and_become(args: &InsideArgs, launcher: &UnixStream) -> Result<ExitCode> {
    proof::prove(args)?;
    Report::Proven { version: env!("CARGO_PKG_VERSION").to_owned() }.send(launcher)?;
    let mut streams = Vec::new();
    let first = receive_with(launcher, &mut streams)?;
    let order = Order::read(first.as_slice().chain(launcher))?;
    descriptors::install(&order, streams)?;
    mounts::make(&order.view)?;
    privileges::reduce(order.bounding)?;
    if args.terminal {
        if args.init {
            // systemd makes its child a session leader, and init is a child of that one.
            nix::unistd::setsid().context("cannot make a session for the terminal")?;
        }
        // The pty is nobody's terminal yet.
        rustix::process::ioctl_tiocsctty(std::io::stdin()).context("cannot take the terminal")?;
    }
    let mut app = program::prepare(&order)?;
    if args.init {
        return init::run(app, launcher, args.exit_with_main);
    }
    // The launcher takes the socket's end for the execve only after this: it ends with a process that
    // is killed as well.
    Report::Becoming.send(launcher)?;
    Err(program::become_it(&mut app))
}
