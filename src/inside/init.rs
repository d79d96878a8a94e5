//! Where the app has a PID namespace of its own (PrivatePIDs=, systemd 257), its first process is
//! that namespace's init: the kernel shields it from every signal it has no handler for, and ends
//! the namespace with it. So `inside` stays as that process and runs the app as its child.

use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::program;
use crate::control::Report;
use crate::exit::Ended;

/// What the launcher sends to the main process alone, which here is the child.
const PASSED_ON: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGUSR2];

/// Runs the app and returns its exit code once the last process is gone, or with its main process
/// if `with_main`.
///
/// # Errors
/// The app could not be executed.
pub fn run(mut app: Command, launcher: &UnixStream, with_main: bool) -> Result<ExitCode> {
    // The app runs as the same user: it must not take the launcher's socket from here (pidfd_getfd(2)).
    nix::sys::prctl::set_dumpable(false).context("cannot close init to the app")?;
    // Before anything is blocked, as the child inherits that. What comes until then is lost here,
    // and the launcher sends it again when it hears of the program's execution.
    let main = program::spawn(&mut app)?;
    let mut awaited = SigSet::from_iter(PASSED_ON);
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block().context("cannot block signals")?;
    let signals = SignalFd::with_flags(&awaited, SfdFlags::SFD_CLOEXEC).context("cannot receive signals")?;
    // A detached launch has nobody to tell.
    let _ = Report::Executed.send(launcher);
    let mut ended = None;
    loop {
        // First, as the end of a child of short life is among what was lost.
        let all_gone = reap(|pid, how| {
            if pid == main {
                ended = Some(how);
                let _ = Report::Ended(how).send(launcher);
            }
        });
        if let Some(how) = ended
            && (with_main || all_gone)
        {
            return Ok(ExitCode::from(how.code()));
        }
        let signal = signals.read_signal().context("cannot receive signals")?;
        for passed in PASSED_ON {
            if signal.is_some_and(|info| info.ssi_signo == passed as u32) {
                let _ = kill(main, passed);
            }
        }
    }
}

/// Collects what has ended: children, and orphans, which the kernel gives to init. Returns whether
/// none is left.
fn reap(mut ended: impl FnMut(Pid, Ended)) -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => ended(pid, Ended::Code(code)),
            Ok(WaitStatus::Signaled(pid, signal, _)) => ended(pid, Ended::Signal(signal as i32)),
            Err(Errno::ECHILD) => return true,
            Ok(_) | Err(_) => return false,
        }
    }
}
