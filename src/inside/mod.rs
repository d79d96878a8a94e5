//! `appfw inside`: the app's main process until the wall is proven. It runs in the unit, as the
//! app's user and without privileges, and becomes the app by execve, or exits with 125.

mod copies;
mod descriptors;
mod held;
mod hiding;
mod init;
mod lent;
mod listeners;
mod mounts;
mod namespaces;
pub mod network;
mod pinned;
pub(crate) mod privileges;
mod program;
mod proof;
pub(crate) mod seccomp;
pub(crate) mod table;

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::cli::{Capture, InsideArgs, NetworkArgs, WallKind};
use crate::control::{self, Order, Report, receive_with};
use crate::exit::{self, NotExecuted};
use crate::permanent::Standing;
use crate::{publish, say};

use namespaces::Directory;

pub use descriptors::{is_journal, refuse_of_service, refuse_way_out};

/// How long a launcher on a machine under load may take to hear why the app does not run.
const HEARING: Duration = Duration::from_secs(5);

/// The story of the app's side of a launch. Returns if the app was not executed, or when it is
/// over where this process stays as its init.
#[must_use]
pub fn run(args: &InsideArgs) -> ExitCode {
    if let Some(order) = &args.order {
        return run_by(order, args);
    }
    let launcher = match connect(args) {
        Ok(launcher) => launcher,
        Err(error) => {
            say::failure("appfw inside", &error);
            return ExitCode::from(exit::OURS);
        }
    };
    let outcome = if args.state.is_some() && !args.init {
        enter_and_go_on(args, &launcher)
    } else {
        prove_and_become(args, &launcher)
    };
    let error = match outcome {
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

/// The same without a launcher: the order stands in a file, and what fails is told to the journal.
fn run_by(order: &Path, args: &InsideArgs) -> ExitCode {
    let become_app = || {
        descriptors::refuse_and_close()?;
        let Standing { outside, order } = Standing::read(order)?;
        let args = InsideArgs { outside: Some(outside.network), outside_user: outside.user, ..args.clone() };
        proof::prove(&args)?;
        let mut app = prepare(&args, &order)?;
        if args.init {
            return init::run(app, None, &args);
        }
        Err(program::become_it(&mut app))
    };
    become_app().unwrap_or_else(|error| {
        say::failure("appfw inside", &error);
        ExitCode::from(exit::code_of(&error))
    })
}

/// Makes the network of the app's network namespace, in which this process is, and which must be a new one.
///
/// # Errors
/// It is the host's, which has this inode number, or not new; the kernel refuses a step.
pub fn network_of(outside: u64, capture: Capture) -> Result<()> {
    // systemd carries on without a namespace that it cannot make: what is made here would then be the host's.
    proof::is_new(outside)?;
    network::set_up(capture)
}

/// The story of the unit's ExecStartPre=+ in the namespace wall: as root, in the app's network namespace, before
/// the app. The launcher hears of a failure as soon as systemd tells it that there is one.
#[must_use]
pub fn make_network(args: &NetworkArgs) -> ExitCode {
    let Err(error) = network_of(args.outside, args.capture) else { return ExitCode::SUCCESS };
    say::failure("appfw network", &error);
    let launcher = UnixStream::connect(&args.control).context("cannot reach the launcher");
    let told = launcher.and_then(|launcher| Report::Refused { message: format!("{error:#}") }.send(&launcher));
    if let Err(error) = told {
        say::failure("appfw network", &error);
    }
    ExitCode::from(exit::OURS)
}

/// Whether this process's network namespace holds anything but loopback, and the pair that leads nowhere.
#[must_use]
pub fn leads_out() -> bool {
    proof::is_apart().is_err()
}

/// The proof of a service whose main process isn't ours, as root, in its cgroup and its network namespace; in the
/// namespace wall its network is made first, unless an earlier start of the service has.
///
/// # Errors
/// One sentence that says what is open and what to do. The service must then not run.
pub fn prove_service(args: &InsideArgs) -> Result<()> {
    if let (WallKind::Namespace, Some(_), Some(outside)) = (args.wall, args.forwarder, args.outside)
        && proof::prove(args).is_err()
    {
        proof::is_new(outside)?;
        network::set_up(args.capture)?;
    }
    proof::prove(args)
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
    let launcher = match &args.control {
        Some(path) => {
            descriptors::refuse_and_close()?;
            return UnixStream::connect(path).context("cannot reach the launcher, who sends the command");
        }
        None => control::from_stdin()?,
    };
    descriptors::close_all_but(&launcher)?;
    Ok(launcher)
}

/// Under no manager: this process stays outside the PID namespace and waits for what is in it.
fn enter_and_go_on(args: &InsideArgs, launcher: &UnixStream) -> Result<ExitCode> {
    // Ctrl-C on the caller's terminal is the launcher's to pass on.
    nix::unistd::setsid().context("cannot leave the launcher's session")?;
    let directory = args.state.as_deref().and_then(|path| Directory::open(path, launcher));
    namespaces::enter(launcher, true)?;
    namespaces::separate_network()?;
    let init = || prove_and_become(&InsideArgs { init: true, ..args.clone() }, launcher);
    namespaces::continue_as_init(launcher, directory, init, || build_network(args, launcher))
}

/// Where no PID 1 has built it: the namespaces, what is in them, and the forwarder's sockets, before
/// anything else is done. Returns when the launcher holds the sockets.
fn build(args: &InsideArgs, launcher: &UnixStream) -> Result<()> {
    if args.init {
        namespaces::die_with_parent()?;
        namespaces::separate()?;
        namespaces::mount_proc()?;
    } else {
        namespaces::enter(launcher, false)?;
        namespaces::separate_network()?;
        namespaces::separate()?;
        build_network(args, launcher)?;
        namespaces::keep_what_builds()?;
    }
    // Of init it is the process outside that has handed them over; this one hears the answer.
    control::acknowledged(launcher)
}

/// What is in the network namespace, and the forwarder's sockets there.
fn build_network(args: &InsideArgs, launcher: &UnixStream) -> Result<()> {
    network::set_up(args.capture)?;
    let namespaces = if args.publish { publish::namespaces::own()? } else { Vec::new() };
    listeners::hand_over(&args.listen, namespaces, launcher)
}

fn prove_and_become(args: &InsideArgs, launcher: &UnixStream) -> Result<ExitCode> {
    if args.build {
        build(args, launcher)?;
    }
    proof::prove(args)?;
    Report::Proven { version: env!("CARGO_PKG_VERSION").to_owned() }.send(launcher)?;
    let mut streams = Vec::new();
    let first = receive_with(launcher, &mut streams)?;
    let order = Order::read(first.as_slice().chain(launcher))?;
    descriptors::install(&order, streams)?;
    let mut app = prepare(args, &order)?;
    if args.init {
        return init::run(app, Some(launcher), args);
    }
    // The launcher takes the socket's end for the execve only after this: it ends with a process that
    // is killed as well.
    Report::Becoming.send(launcher)?;
    Err(program::become_it(&mut app))
}

/// All that is between the proof and the app's execution.
fn prepare(args: &InsideArgs, order: &Order) -> Result<Command> {
    if !args.build {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
        mounts::separate().context("cannot separate the app's mounts from the host's")?;
    }
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
    if args.build {
        seccomp::forbid()?;
    }
    program::prepare(order)
}
