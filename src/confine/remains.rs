//! Who else is there when a service starts: processes that an earlier start has left in its cgroup (KillMode=), and a
//! main process that systemd takes over from elsewhere (PIDFile=).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::name_of;
use super::proven::Start;
use super::service::Service;
use crate::cli::WallKind;
use crate::members::{is_gone, processes};
use crate::name::{cgroup_directory, unified_cgroup};

/// Looks at all processes of the service but this one, before anything of it is started.
///
/// # Errors
/// One of them isn't behind its wall, or that cannot be told.
pub(super) fn refuse(wall: WallKind, service: &Service) -> Result<()> {
    let host = network(1)?;
    // What was left by a proven start was refused by that, if it wasn't proven itself.
    let was_proven = Start::last(&name_of(&service.name)?) == Some(Start::Proven);
    for process in processes(Path::new(&cgroup_directory(&service.cgroup())))? {
        let Some(network) = network(process)? else { continue };
        // Each start may have a network of its own.
        let is_behind = was_proven && (wall == WallKind::Address || Some(network) != host);
        if !is_behind && process != std::process::id() {
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

/// Its network namespace; none if it has ended.
fn network(process: u32) -> Result<Option<PathBuf>> {
    match fs::read_link(format!("/proc/{process}/ns/net")) {
        Ok(network) => Ok(Some(network)),
        Err(error) if is_gone(&error) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot tell where process {process} is")),
    }
}
