//! The namespaces of a wall that `inside` builds itself: where no PID 1 has made them for it.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Pid, Signal, geteuid, set_parent_process_death_signal};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, configure_capability_in_ambient_set, set_capabilities,
};

use crate::control::{Report, acknowledged};
use crate::exit::Ended;

/// What the wall is built with, in the user namespace: interfaces, routes and rules; the raw socket of
/// UDP answers; DNS's port; mounts, and giving all of it up.
const TO_BUILD: CapabilitySet = CapabilitySet::NET_ADMIN
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_ADMIN)
    .union(CapabilitySet::SETPCAP);

/// Enters a user namespace of its own and, if `with_pids`, makes this process's next child the first of
/// a new PID namespace. Root has the kernel's own where user namespaces are not permitted.
///
/// # Errors
/// The kernel permits no such namespace: says which of its settings may be in the way.
pub fn enter(launcher: &UnixStream, with_pids: bool) -> Result<()> {
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
            unshare(pids).map_err(|error| refused("PID", error))
        }
        Err(error) => Err(refused("user", error)),
    }
}

fn write(file: &str, text: &str) -> Result<()> {
    fs::write(file, text).with_context(|| format!("cannot map the user into its namespace by {file}"))
}

/// Makes a network and a mount namespace.
///
/// # Errors
/// As [`enter`]'s.
pub fn separate() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|error| refused("network", error))?;
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| refused("mount", error))
}

/// The sentence for a namespace that is not to be had, with the setting that is most likely the cause.
fn refused(kind: &str, error: Errno) -> anyhow::Error {
    let number = |path: &str| fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let limit = |kind: &str| number(&format!("/proc/sys/user/max_{kind}_namespaces")) == Some(0);
    let why = if number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        "AppArmor restricts user namespaces here (kernel.apparmor_restrict_unprivileged_userns): install units/apparmor/appfw as /etc/apparmor.d/appfw and load it"
    } else if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        "kernel.unprivileged_userns_clone is 0: set it to 1"
    } else if let Some(kind) = ["user", "net", "mnt", "pid"].into_iter().find(|kind| limit(kind)) {
        return anyhow::anyhow!(
            "the kernel permits no {kind} namespace ({error}): user.max_{kind}_namespaces is 0, set it to 1000; or use --system, so nothing was run"
        );
    } else {
        "in a container, allow unshare(2) and mounts: --security-opt seccomp=unconfined --security-opt systempaths=unconfined, as root with --cap-add SYS_ADMIN"
    };
    anyhow::anyhow!("the kernel permits no {kind} namespace ({error}): {why}; or use --system, so nothing was run")
}

/// Runs the rest of the work as the first process of the PID namespace, waits for its end, and returns
/// its exit code. Forking without exec has no safe form, so it is this program again.
///
/// # Errors
/// It cannot be started.
pub fn continue_as_init(launcher: UnixStream) -> Result<ExitCode> {
    keep_through_execve()?;
    let failed = "cannot run appfw inside the namespace";
    let control: OwnedFd = launcher.into();
    // Its own parent's end is the namespace's: by the launcher's control socket it is told as well.
    let mut child = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .arg("--init")
        .stdin(control)
        .spawn()
        .context(failed)?;
    let status = child.wait().context(failed)?;
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => Ended::Code(code),
        (None, signal) => Ended::Signal(signal.unwrap_or_default()),
    };
    Ok(ExitCode::from(ended.code()))
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

/// Ends this process with its parent, whatever ends that one. What was set before a change of user or
/// namespace is forgotten (PR_SET_PDEATHSIG(2const)).
///
/// # Errors
/// The parent is gone already.
pub fn die_with_parent(parent: Option<Pid>) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot bind appfw inside to its launcher")?;
    if rustix::process::getppid() != parent {
        bail!("the launcher is gone");
    }
    Ok(())
}

/// Shows the processes of the PID namespace alone.
///
/// # Errors
/// Something covers a part of the /proc that is there: the kernel then permits no other one
/// (mount_too_revealing() in fs/namespace.c).
pub fn mount_proc() -> Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .context("cannot separate the app's mounts from the host's")?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", "/proc", "proc", flags, None).context(
        "the kernel permits no /proc of the app's own, most likely as parts of the present one are masked; in a container use --security-opt systempaths=unconfined, so nothing was run",
    )
}
