//! The namespaces of a wall that `inside` builds itself: where no PID 1 has made them for it.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, ExitCode};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, mount};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, getppid, pidfd_open, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
};

use super::mounts;
use crate::control::{Report, acknowledged};
use crate::exit::{self, Ended};

/// What the wall is built with, in the user namespace: interfaces, routes and rules; the raw socket of
/// UDP answers; DNS's port; mounts, and giving all of it up.
const TO_BUILD: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SETPCAP);

/// A kind of namespace, as messages name it and as its limit is called (user.max_…_namespaces).
#[derive(Clone, Copy)]
struct Kind(&'static str, &'static str);

const USER: Kind = Kind("user", "user");
const NETWORK: Kind = Kind("network", "net");
const MOUNT: Kind = Kind("mount", "mnt");
const IPC: Kind = Kind("IPC", "ipc");
const PID: Kind = Kind("PID", "pid");

/// Enters a user namespace of its own and, if `with_pids`, makes this process's next child the first of
/// a new PID namespace. Root has the kernel's own where user namespaces are not permitted.
///
/// # Errors
/// The kernel permits no such namespace: says which of its settings may be in the way.
pub fn enter(launcher: &UnixStream, with_pids: bool) -> Result<()> {
    // Of each user namespace its own: in the new one nobody sees these any more.
    if let Some(kind) = [NETWORK, MOUNT, IPC, PID].into_iter().find(|kind| limit(*kind) == Some(0)) {
        return Err(refused(kind, Errno::ENOSPC));
    }
    let pids = if with_pids { CloneFlags::CLONE_NEWPID } else { CloneFlags::empty() };
    let (uid, gid) = (geteuid(), rustix::process::getegid());
    match unshare(CloneFlags::CLONE_NEWUSER | pids) {
        Ok(()) if uid.is_root() => {
            // Root's programs become other users. Only who is outside may map more than one.
            Report::Unmapped.send(launcher)?;
            acknowledged(launcher)
        }
        Ok(()) => {
            // Who may not set groups outside must give up setgroups(2) first (user_namespaces(7)).
            write("/proc/self/setgroups", "deny")?;
            write("/proc/self/uid_map", &format!("{0} {0} 1\n", uid.as_raw()))?;
            write("/proc/self/gid_map", &format!("{0} {0} 1\n", gid.as_raw()))
        }
        Err(Errno::EPERM | Errno::ENOSPC | Errno::EUSERS | Errno::ENOSYS | Errno::EINVAL) if uid.is_root() => {
            unshare(pids).map_err(|error| refused(PID, error))
        }
        Err(error) => Err(refused(USER, error)),
    }
}

/// Ubuntu's AppArmor permits the namespace and then every capability in it is refused, this first.
fn write(file: &str, text: &str) -> Result<()> {
    fs::write(file, text).map_err(|error| refused(USER, Errno::from_raw(error.raw_os_error().unwrap_or_default())))
}

/// Makes a network namespace.
///
/// # Errors
/// As [`enter`]'s.
pub fn separate_network() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| refused(NETWORK, error))
}

/// Makes a namespace for System V's shared memory and queues, and a mount namespace, whose mounts the host's don't follow.
///
/// # Errors
/// As [`enter`]'s.
pub fn separate() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWIPC).map_err(|error| refused(IPC, error))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| refused(MOUNT, error))?;
    mounts::separate().context(
        "the kernel permits no mounts for the app alone; in a container use --security-opt seccomp=unconfined --security-opt apparmor=unconfined, so nothing was run",
    )
}

/// How many there may be in this user namespace.
fn limit(kind: Kind) -> Option<u64> {
    number(&format!("/proc/sys/user/max_{}_namespaces", kind.1))
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The sentence for a namespace that is not to be had, with the setting that is most likely the cause.
fn refused(kind: Kind, error: Errno) -> anyhow::Error {
    let Kind(name, limit) = kind;
    let is = |path: &str, value: u64| number(path) == Some(value) && !geteuid().is_root();
    let why = if matches!(error, Errno::ENOSPC | Errno::EUSERS) {
        format!(
            "user.max_{limit}_namespaces, here or on a container's host, permits no more: set it to 1000 with sysctl(8)"
        )
    } else if is("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 1) {
        "AppArmor restricts user namespaces here (kernel.apparmor_restrict_unprivileged_userns): install units/apparmor/appfw as /etc/apparmor.d/appfw and load it".to_owned()
    } else if is("/proc/sys/kernel/unprivileged_userns_clone", 0) {
        "kernel.unprivileged_userns_clone is 0: set it to 1 with sysctl(8)".to_owned()
    } else {
        "in a container use --security-opt seccomp=unconfined --security-opt systempaths=unconfined --security-opt apparmor=unconfined".to_owned()
    };
    // sd_booted(3): to nobody else is it of use.
    let or = if Path::new("/run/systemd/system").is_dir() { "; or use --system" } else { "" };
    anyhow::anyhow!("the kernel permits no {name} namespace ({}): {why}{or}; nothing was run", error.desc())
}

/// Runs the rest of the work as the first process of the PID namespace, waits for its end, and returns
/// its exit code. Forking without exec has no safe form, so it is this program again. `meanwhile` is done while
/// that one starts. If the launcher ends first, the namespace does, and `state`, the launch's directory, which
/// nobody else would remove.
///
/// # Errors
/// It cannot be started; `meanwhile` failed, and then it is ended.
pub fn continue_as_init(
    launcher: &UnixStream,
    state: Option<&Path>,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<ExitCode> {
    keep_through_execve()?;
    let failed = "cannot run appfw inside the namespace";
    let parent = getppid();
    let control: OwnedFd = launcher.try_clone().context(failed)?.into();
    // Its own parent's end is the namespace's: by the launcher's control socket it is told as well.
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .arg("--init")
        .stdin(control)
        .spawn()
        .context(failed)?;
    let failure = meanwhile().err();
    if failure.is_some() || !outlived_by_launcher(&child, launcher, parent).context(failed)? {
        child.kill().context(failed)?;
        child.wait().context(failed)?;
        if let Some(error) = failure.filter(|_| !has_closed(launcher)) {
            return Err(error);
        }
        // As another user's it is left to the next launch.
        let _ = state.map(fs::remove_dir_all);
        // Nobody is there to be told; a launcher that has heard init's refusal said it.
        return Ok(ExitCode::from(exit::OURS));
    }
    let status = child.wait().context(failed)?;
    Ok(ExitCode::from(Ended::from(status).code()))
}

/// Waits for the end of either. The launcher is the `parent`, until its end.
fn outlived_by_launcher(child: &Child, launcher: &UnixStream, parent: Option<Pid>) -> Result<bool> {
    let pid = Pid::from_child(child);
    let child = pidfd_open(pid, PidfdFlags::empty())?;
    loop {
        // What is said there is for init; the other end's closing is told unasked (poll(2)).
        let mut sources =
            [PollFd::new(child.as_fd(), PollFlags::POLLIN), PollFd::new(launcher.as_fd(), PollFlags::empty())];
        match poll(&mut sources, PollTimeout::NONE) {
            // First, as a launcher that has heard of init's end closes its socket. Init ends with the launcher, too, and
            // may have done so before this process looks.
            Ok(_) if sources[0].any() == Some(true) => return Ok(getppid() == parent),
            Ok(_) if sources[1].any() == Some(true) => return Ok(false),
            Ok(_) => {}
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn has_closed(launcher: &UnixStream) -> bool {
    let mut source = [PollFd::new(launcher.as_fd(), PollFlags::empty())];
    poll(&mut source, PollTimeout::ZERO).is_ok_and(|hung_up| hung_up > 0)
}

/// Capabilities go with the execve of anybody but root, unless they are ambient (capabilities(7)).
fn keep_through_execve() -> Result<()> {
    let failed = "cannot keep the capabilities that the wall is built with";
    let held = capabilities(None).context(failed)?;
    if !held.permitted.contains(TO_BUILD) {
        bail!(
            "building the wall needs capabilities that are not to be had here; in a container add --cap-add SYS_ADMIN --cap-add NET_ADMIN, so nothing was run"
        );
    }
    set_capabilities(None, CapabilitySets { inheritable: TO_BUILD, ..held }).context(failed)?;
    TO_BUILD.iter().try_for_each(|one| configure_capability_in_ambient_set(one, true)).context(failed)
}

/// Ends this process with its parent, which is in another PID namespace, whatever ends that one.
///
/// # Errors
/// The parent is gone already.
pub fn die_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot bind appfw inside to its launcher")?;
    // What ended before is not told. Its socket is, when the launcher has gone.
    if getppid().is_some() {
        bail!("appfw inside is not the first process of its namespace");
    }
    Ok(())
}

/// Shows the processes of the PID namespace alone.
///
/// # Errors
/// Something covers a part of the /proc that is there: the kernel then permits no other one
/// (mount_too_revealing() in fs/namespace.c).
pub fn mount_proc() -> Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).context(
        "the kernel permits no /proc of the app's own, most likely as parts of the present one are masked; in a container use --security-opt systempaths=unconfined, so nothing was run",
    )
}
