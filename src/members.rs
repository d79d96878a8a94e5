//! The processes of a cgroup and of all below it.

use std::fs;
use std::io::{Error, ErrorKind};
use std::path::Path;

use anyhow::{Context, Result};
use nix::errno::Errno;

/// Their numbers.
///
/// # Errors
/// There is no such cgroup, or it cannot be read.
pub fn processes(top: &Path) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    let mut ahead = vec![top.to_owned()];
    while let Some(directory) = ahead.pop() {
        let list = directory.join("cgroup.procs");
        match fs::read_to_string(&list) {
            Ok(text) => found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok())),
            // One below that went away meanwhile, or whose threads count where its processes are (cgroups(7), "threaded").
            Err(error) if directory != top && (is_gone(&error) || is(&error, Errno::EOPNOTSUPP)) => {}
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", list.display())),
        }
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        ahead.extend(below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()));
    }
    Ok(found)
}

/// Whether what was asked for of a process, or of a cgroup, is no more.
#[must_use]
pub fn is_gone(error: &Error) -> bool {
    error.kind() == ErrorKind::NotFound || is(error, Errno::ESRCH) || is(error, Errno::ENODEV)
}

fn is(error: &Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno as i32)
}
