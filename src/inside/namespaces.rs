//! The namespaces of a wall that `inside` builds itself: where no PID 1 has made them for it.

use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use rustix::mount::{MountFlags, mount};
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitOptions, geteuid, getppid, kill_process, pidfd_open, set_parent_process_death_signal,
    waitpid,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

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

/// Goes on as two processes: the first one of the PID namespace does `init`, and this one waits for its end and returns its
/// exit code. `meanwhile` is done here while that one starts. It is a fork without an exec, which would cost a tenth
/// of the launch. If the launcher ends first, the namespace does, and its directory, which nobody else would remove.
///
/// # Errors
/// It cannot be started; `meanwhile` failed, and then it is ended. Or it is `init`'s, in the new process.
pub fn continue_as_init(
    launcher: &UnixStream,
    directory: Option<Directory>,
    init: impl FnOnce() -> Result<ExitCode>,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<ExitCode> {
    expect_capabilities()?;
    let failed = "cannot run appfw inside the namespace";
    let parent = getppid();
    let Some(child) = appfw_kernel::fork().context(failed)? else {
        // Nothing from outside stays open where the app is.
        drop(directory);
        keep_what_builds()?;
        return init();
    };
    let child = Pid::from_raw(child).context(failed)?;
    let waited = || {
        let descriptor = pidfd_open(child, PidfdFlags::empty()).context(failed)?;
        meanwhile()?;
        outlived_by_launcher(&descriptor, launcher, parent).context(failed)
    };
    let (is_over, failure) = match waited() {
        Ok(is_outlived) => (!is_outlived, None),
        Err(error) => (true, Some(error)),
    };
    if is_over {
        // Over already, or ended by this.
        let _ = kill_process(child, Signal::KILL);
    }
    let ended = ended(child).context(failed)?;
    if is_over {
        if let Some(error) = failure.filter(|_| !has_closed(launcher)) {
            return Err(error);
        }
        if let Some(directory) = directory {
            directory.remove();
        }
        // Nobody is there to be told; a launcher that has heard init's refusal said it.
        return Ok(ExitCode::from(exit::OURS));
    }
    Ok(ExitCode::from(ended.code()))
}

/// In which a launcher that is being ended lets go of its directory.
const TRIES: u32 = 40;
const PAUSE: Duration = Duration::from_millis(5);

/// A launch's directory. It stays open, by which the kernel gives its number to no other one.
pub struct Directory {
    path: PathBuf,
    opened: File,
}

impl Directory {
    /// The launcher's, which lives. `None` as another user's: it is left to the next launch.
    #[must_use]
    pub fn open(path: &Path, launcher: &UnixStream) -> Option<Self> {
        let opened = File::open(path).ok()?;
        // Another launch has the name only after this one's launcher has ended.
        (!has_closed(launcher)).then(|| Self { path: path.to_owned(), opened })
    }

    /// Removes it, unless a new launch has done so, and perhaps taken its name, by now: each holds it meanwhile.
    fn remove(self) {
        let Self { path, opened } = self;
        let Some(held) = hold(opened) else { return };
        let number = |found: fs::Metadata| (found.dev(), found.ino());
        if let (Ok(own), Ok(there)) = (held.metadata(), fs::symlink_metadata(&path))
            && number(own) == number(there)
        {
            let _ = fs::remove_dir_all(path);
        }
    }
}

/// A launcher that is being ended lets go of its socket a moment before it does of its directory. One that lives on removes
/// that itself.
fn hold(mut directory: File) -> Option<Flock<File>> {
    for _ in 0..TRIES {
        match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            Ok(held) => return Some(held),
            Err((opened, _)) => directory = opened,
        }
        sleep(PAUSE);
    }
    None
}

/// How a child has ended, or will have.
fn ended(child: Pid) -> Result<Ended> {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => return Ok(Ended::Code(code)),
                (_, Some(signal)) => return Ok(Ended::Signal(signal)),
                _ => {}
            },
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits for the end of either. The launcher is the `parent`, until its end.
fn outlived_by_launcher(child: &OwnedFd, launcher: &UnixStream, parent: Option<Pid>) -> Result<bool> {
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

fn expect_capabilities() -> Result<()> {
    let held = capabilities(None).context("cannot tell the own capabilities")?;
    if !held.permitted.contains(TO_BUILD) {
        bail!(
            "building the wall needs capabilities that are not to be had here; in a container add --cap-add SYS_ADMIN --cap-add NET_ADMIN, so nothing was run"
        );
    }
    Ok(())
}

/// Others than root have all capabilities in a user namespace of their own, there past the modes of their own files too.
///
/// # Errors
/// The kernel refuses.
pub fn keep_what_builds() -> Result<()> {
    if geteuid().is_root() {
        return Ok(());
    }
    let sets = CapabilitySets { effective: TO_BUILD, permitted: TO_BUILD, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot give up capabilities")
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

#[cfg(test)]
mod tests {
    #[test]
    fn a_process_with_threads_is_not_forked() {
        // A test is a thread beside the harness's own. What is in the crate itself, no run of this one's tests would run.
        assert!(appfw_kernel::fork().unwrap_err().to_string().contains("threads"));
    }
}
