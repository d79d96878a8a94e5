//! Who else is there when a service starts: processes that an earlier start has left in its cgroup (KillMode=), and a
//! main process that systemd takes over from elsewhere (PIDFile=).

use std::fs;
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;

use super::name_of;
use super::proven::Start;
use super::service::Service;
use crate::cli::WallKind;
use crate::name::{cgroup_directory, unified_cgroup};

/// Looks at all processes of the service but this one, before anything of it is started.
///
/// # Errors
/// One of them isn't behind its wall, or that cannot be told.
pub(super) fn refuse(wall: WallKind, service: &Service) -> Result<()> {
    let host = network("1")?;
    // What was left by a proven start was refused by that, if it wasn't proven itself.
    let was_proven = Start::last(&name_of(&service.name)?) == Some(Start::Proven);
    for process in processes(Path::new(&cgroup_directory(&service.cgroup())))? {
        let Some(network) = network(&process)? else { continue };
        // Each start may have a network of its own.
        let is_behind = was_proven && (wall == WallKind::Address || Some(network) != host);
        if !is_behind && process != std::process::id().to_string() {
            bail!(
                "process {process} of an earlier start is outside of the wall still: systemctl kill --signal=KILL {}",
                service.name
            );
        }
    }
    Ok(())
}

/// Who says that it runs already is believed (Type=forking): systemd has that process for the service's, wherever it is,
/// if root owns the file.
///
/// # Errors
/// It is one of another cgroup.
pub(super) fn refuse_adopted(service: &Service) -> Result<()> {
    let Some(file) = &service.pid_file else { return Ok(()) };
    let process = fs::read_to_string(file).ok().and_then(|text| text.trim().parse::<u32>().ok());
    match process.filter(|process| is_outside(service, *process)) {
        Some(process) => bail!(
            "process {process}, which {} names (PIDFile=), runs outside of {}, and could be taken for it: end it first",
            file.display(),
            service.name
        ),
        None => Ok(()),
    }
}

/// Whether there is a process of that number, and it is none of the service's.
pub(super) fn is_outside(service: &Service, process: u32) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{process}/cgroup")) else { return false };
    let own = Path::new(&service.cgroup()).to_owned();
    unified_cgroup(&text).is_some_and(|cgroup| !Path::new(cgroup).starts_with(own))
}

/// Those of a cgroup and of all below it.
fn processes(top: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(directory) = ahead.pop() {
        let list = directory.join("cgroup.procs");
        match fs::read_to_string(&list) {
            Ok(text) => found.extend(text.lines().map(str::to_owned)),
            // One below that went away meanwhile, or whose threads count where its processes are (cgroups(7), "threaded").
            Err(error) if directory != top && (is_gone(&error) || is(&error, Errno::EOPNOTSUPP)) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", list.display())),
        }
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        ahead.extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
    Ok(found)
}

/// Its network namespace; none if it has ended.
fn network(process: &str) -> Result<Option<PathBuf>> {
    match fs::read_link(format!("/proc/{process}/ns/net")) {
        Ok(network) => Ok(Some(network)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot tell where process {process} is")),
    }
}

fn is_gone(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound || is(error, Errno::ESRCH) || is(error, Errno::ENODEV)
}

fn is(error: &Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
