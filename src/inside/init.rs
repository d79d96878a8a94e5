//! Where the app has a PID namespace of its own (PrivatePIDs= of systemd 257, or no systemd at all), its
//! first process is that namespace's init: the kernel shields it from every signal it has no handler for, and ends
//! the namespace with it. So `inside` stays as that process and runs the app as its child.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::program;
use crate::cli::InsideArgs;
use crate::control::{Pass, Report};
use crate::exit::Ended;

/// What the launcher sends to the main process alone, which here is the child.
const PASSED_ON: [Signal; 2] = [Signal::SIGUSR1, Signal::SIGUSR2];

/// Runs the app and returns its exit code once the last process is gone, or with its main process
/// if so asked. Without a unit it also ends with the launcher, and takes signals from it.
///
/// # Errors
/// The app could not be executed; the launcher is gone.
pub fn run(mut app: Command, launcher: Option<&UnixStream>, args: &InsideArgs) -> Result<ExitCode> {
    // The app runs as the same user: it must not take the launcher's socket from here (pidfd_getfd(2)).
    nix::sys::prctl::set_dumpable(false).context("cannot close init to the app")?;
    // Before anything is blocked, as the child inherits that. What comes until then is lost here,
    // and the launcher sends it again when it hears of the program's execution.
    let main = program::spawn(&mut app)?;
    let mut awaited = SigSet::from_iter(PASSED_ON);
    awaited.add(Signal::SIGCHLD);
    awaited.thread_block().context("cannot block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&awaited, flags).context("cannot receive signals")?;
    // A detached launch has nobody to tell.
    let tell = |report: Report| launcher.is_some_and(|launcher| report.send(launcher).is_ok());
    tell(Report::Executed);
    // Only where it is the launcher who runs all this.
    let mut orders = launcher.filter(|_| args.build).map(BufReader::new);
    let mut ended = None;
    loop {
        // First, as the end of a child of short life is among what was lost.
        let all_gone = reap(|pid, how| {
            if pid == main {
                ended = Some(how);
                tell(Report::Ended(how));
            }
        });
        if let Some(how) = ended
            && (args.exit_with_main || all_gone)
        {
            return Ok(ExitCode::from(how.code()));
        }
        let mut sources = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        sources.extend(orders.iter().map(|orders| PollFd::new(orders.get_ref().as_fd(), PollFlags::POLLIN)));
        match poll(&mut sources, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for signals"),
        }
        let has_orders = sources.get(1).and_then(PollFd::any) == Some(true);
        drop(sources);
        if let Some(orders) = orders.as_mut().filter(|_| has_orders) {
            pass_on(orders, main, ended.is_some())?;
            // What came with it has been read from the socket, which poll(2) tells nothing of any more.
            while !orders.buffer().is_empty() {
                pass_on(orders, main, ended.is_some())?;
            }
        }
        while let Some(info) = signals.read_signal().context("cannot receive signals")? {
            if let Some(passed) = PASSED_ON.into_iter().find(|passed| info.ssi_signo == *passed as u32) {
                let _ = kill(main, passed);
            }
        }
    }
}

/// Takes one order of the launcher's, which is alive: every order is a line that came in one piece.
fn pass_on(orders: &mut impl BufRead, main: Pid, main_has_ended: bool) -> Result<()> {
    let mut line = String::new();
    if orders.read_line(&mut line).context("cannot hear the launcher")? == 0 {
        bail!("the launcher is gone");
    }
    let (to, number) = match serde_json::from_str(&line).context("the launcher sent no order")? {
        // To all but this process (kill(2)).
        Pass::All(number) => (Pid::from_raw(-1), number),
        // Its number may be another's by now.
        Pass::Main(_) if main_has_ended => return Ok(()),
        Pass::Main(number) => (main, number),
    };
    if let Ok(signal) = Signal::try_from(number) {
        let _ = kill(to, signal);
    }
    Ok(())
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
