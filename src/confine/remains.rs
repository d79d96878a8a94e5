//! Who else is there when a service starts: processes that an earlier start has left in its cgroup (KillMode=), and a
//! main process that systemd takes over from elsewhere (PIDFile=).

use std::fs;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    /// Looks, while processes come and go: who has ended may be in the list a little longer.
    const LOOKS: usize = 100;
    const PAUSE: Duration = Duration::from_millis(10);
    let host = network(1)?;
    // What was left by a proven start was refused by that, if it wasn't proven itself.
    let was_proven = Start::last(&name_of(&service.name)?) == Some(Start::Proven);
    let cgroup = cgroup_directory(&service.cgroup());
    for _ in 0..LOOKS {
        let mut has_gone = false;
        for process in processes(Path::new(&cgroup))?.into_iter().filter(|process| *process != std::process::id()) {
            let network = network(process)?;
            // Each start may have a network of its own.
            let is_behind = was_proven && (wall == WallKind::Address || network != host);
            match network {
                // Who follows it may not have been in the list.
                None => has_gone = true,
                Some(_) if is_behind => {}
                Some(_) => bail!(
                    "process {process} of an earlier start is outside of the wall still: systemctl kill --signal=KILL {}",
                    service.name
                ),
            }
        }
        if !has_gone {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    bail!("processes come and go in {cgroup} still, and who is left there cannot be told")
}

/// What the stop of a service that is not behind this wall leaves keeps it from starting again.
///
/// # Errors
/// There is some.
pub(super) fn refuse_to_stop(service: &Service) -> Result<()> {
    let all = processes(Path::new(&cgroup_directory(&service.cgroup()))).unwrap_or_default();
    match all.into_iter().find(|process| *process != service.main).filter(|_| service.leaves_processes) {
        Some(process) => bail!(
            "{0} has KillMode=process or none, and its stop may leave process {process} outside of the wall, so nothing was changed: systemctl stop {0}, then systemctl kill --signal=KILL {0}, then confine it",
            service.name
        ),
        None => Ok(()),
    }
}

/// Who says that it runs already is believed (Type=forking): systemd has that process for the service's, wherever it is,
/// if root owns the file.
///
/// # Errors
/// It is one of another cgroup.
pub(super) fn refuse_adopted(service: &Service) -> Result<()> {
    let Some(file) = &service.pid_file else { return Ok(()) };
    match named(file).filter(|process| is_outside(service, *process)) {
        Some(process) => bail!(
            "process {process}, which {0} names (PIDFile=), runs outside of {1}, and could be taken for it: end it first, or remove {0} if it is an old one",
            file.display(),
            service.name
        ),
        None => Ok(()),
    }
}

/// The process that a file names, as systemd reads it: the first line, a number in any base. Others may have made the
/// file, whatever it is.
fn named(file: &Path) -> Option<u32> {
    const MOST: u64 = 4096;
    let opened = fs::File::options().read(true).custom_flags(nix::libc::O_NONBLOCK).open(file).ok()?;
    let mut bytes = Vec::new();
    if opened.metadata().ok()?.is_file() {
        opened.take(MOST).read_to_end(&mut bytes).ok()?;
    }
    let line = String::from_utf8_lossy(bytes.split(|byte| matches!(byte, b'\n' | b'\r' | 0)).next()?).trim().to_owned();
    let (base, digits) = match line.get(..2) {
        Some("0x" | "0X") => (16, &line[2..]),
        Some("0b") => (2, &line[2..]),
        Some("0o") => (8, &line[2..]),
        _ if line.starts_with('0') => (8, &line[..]),
        _ => (10, &line[..]),
    };
    u32::from_str_radix(digits, base).ok()
}

/// Whether there is a process of that number, and it is none of the service's.
pub(super) fn is_outside(service: &Service, process: u32) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{process}/cgroup")) else { return false };
    let own = Path::new(&service.cgroup()).to_owned();
    // One that has ended meanwhile, and its cgroup with it, was of the service's (cgroups(7)).
    let of = |cgroup: &str| Path::new(cgroup.strip_suffix(" (deleted)").unwrap_or(cgroup)).starts_with(&own);
    unified_cgroup(&text).is_some_and(|cgroup| !of(cgroup))
}

/// Its network namespace; none if it has ended.
fn network(process: u32) -> Result<Option<PathBuf>> {
    let of = |path: PathBuf| fs::read_link(path.join("ns/net"));
    let first = match of(format!("/proc/{process}").into()) {
        Ok(network) => return Ok(Some(network)),
        Err(error) => error,
    };
    // Its first thread may have ended, and others live.
    let tasks = fs::read_dir(format!("/proc/{process}/task")).into_iter().flatten().flatten();
    if let Some(network) = tasks.filter_map(|task| of(task.path()).ok()).next() {
        return Ok(Some(network));
    }
    // Who ends meanwhile is nobody's to look at.
    if is_gone(&first) || !Path::new(&format!("/proc/{process}")).exists() {
        return Ok(None);
    }
    Err(first).with_context(|| format!("cannot tell where process {process} is"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_names_a_process_as_systemd_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        for (text, process) in [
            ("7", Some(7)),
            (" 7 \n/usr/sbin/sendmail -bd\n", Some(7)),
            ("7\0\0\0", Some(7)),
            ("7\rx", Some(7)),
            ("0x10\n", Some(16)),
            ("010\n", Some(8)),
            ("", None),
            ("x", None),
            ("-7", None),
            ("\u{e4}7", None),
            ("99999999999", None),
        ] {
            fs::write(&file, text).unwrap();
            assert_eq!(named(&file), process, "{text:?}");
        }
        assert_eq!(named(directory.path()), None);
        assert_eq!(named(Path::new("/dev/zero")), None);
        nix::unistd::mkfifo(&directory.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(named(&directory.path().join("fifo")), None);
    }
}
