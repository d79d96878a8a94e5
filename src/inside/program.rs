//! The last step: find the program, start where it shall start, execute it.

use std::ffi::{OsStr, OsString};
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::Pid;

use crate::control::Order;
use crate::exit::{NOT_EXECUTABLE, NOT_FOUND, NotExecuted};

/// Enters the order's directory and finds its program.
///
/// # Errors
/// [`NotExecuted`] with 126 or 127 as shells have them; a directory that cannot be entered.
pub fn prepare(order: &Order) -> Result<Command> {
    enter(&order.directories)?;
    let Some((program, arguments)) = order.command.split_first() else { bail!("the command is empty") };
    let path = order.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let file = find(program, path.unwrap_or_default())?;
    refuse_foreign(&file)?;
    let mut command = Command::new(&file);
    command.arg0(program).args(arguments).env_clear();
    command.envs(order.environment.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

/// Becomes the program. Returns only on failure.
#[must_use]
pub fn become_it(command: &mut Command) -> anyhow::Error {
    let error = command.exec();
    not_executable(command.get_program().as_ref(), &error.to_string())
}

/// Runs the program as a child.
///
/// # Errors
/// [`NotExecuted`].
pub fn spawn(command: &mut Command) -> Result<Pid> {
    match command.spawn() {
        Ok(child) => Ok(Pid::from_raw(i32::try_from(child.id())?)),
        Err(error) => Err(not_executable(command.get_program().as_ref(), &error.to_string())),
    }
}

/// Enters the first directory that can be.
fn enter(directories: &[PathBuf]) -> Result<()> {
    let mut failure = None;
    for directory in directories {
        match std::env::set_current_dir(directory) {
            Ok(()) => return Ok(()),
            Err(error) => failure = failure.or(Some((directory, error))),
        }
    }
    match failure {
        Some((directory, error)) => bail!("cannot start in {}: {error}", directory.display()),
        None => Ok(()),
    }
}

/// As execvp(3): a word with a slash is a path, any other is looked for along PATH; what is there
/// but can't be executed is remembered for the message.
fn find(program: &OsStr, path: &OsStr) -> Result<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        let file = PathBuf::from(program);
        return match file.metadata() {
            Ok(found) if found.is_dir() => Err(not_executable(&file, "it is a directory")),
            Ok(_) if !executable(&file) => Err(not_executable(&file, "no permission to execute it")),
            Ok(_) => Ok(file),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(not_found(&format!("{} does not exist", file.display())))
            }
            Err(error) => Err(not_executable(&file, &error.to_string())),
        };
    }
    let mut seen = None;
    for directory in std::env::split_paths(path) {
        let file =
            if directory.as_os_str().is_empty() { Path::new(".").join(program) } else { directory.join(program) };
        if !file.is_file() {
            continue;
        }
        if executable(&file) {
            return Ok(file);
        }
        seen = seen.or(Some(file));
    }
    match seen {
        Some(file) => Err(not_executable(&file, "no permission to execute it")),
        None => Err(not_found(&format!("{} was not found in PATH", program.to_string_lossy()))),
    }
}

fn executable(file: &Path) -> bool {
    rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// A program for another architecture would be killed by SystemCallArchitectures=native at its
/// first system call, without a word.
fn refuse_foreign(file: &Path) -> Result<()> {
    let mut interpreter = file.to_owned();
    // The kernel follows at most five interpreters (fs/exec.c).
    for _ in 0..5 {
        let mut head = [0; 256];
        let Ok(length) = std::fs::File::open(&interpreter).and_then(|mut program| program.read(&mut head)) else {
            return Ok(());
        };
        let head = &head[..length];
        if let Some(rest) = head.strip_prefix(b"#!") {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let word = line.split(|byte| *byte == b' ' || *byte == b'\t').find(|word| !word.is_empty());
            interpreter = OsString::from_vec(word.unwrap_or_default().to_vec()).into();
        } else if head.starts_with(b"\x7fELF") && head.get(4..5) != Some(&[native_class()]) {
            return Err(not_executable(
                &interpreter,
                "it is a 32-bit program, whose system calls the wall's filters do not know; use a 64-bit build",
            ));
        } else {
            return Ok(());
        }
    }
    Ok(())
}

/// EI_CLASS of elf(5): 1 for 32 bits, 2 for 64.
fn native_class() -> u8 {
    if cfg!(target_pointer_width = "64") { 2 } else { 1 }
}

fn not_executable(file: &Path, why: &str) -> anyhow::Error {
    let message = format!("{} cannot be executed: {why}", file.display());
    anyhow::Error::new(NotExecuted { code: NOT_EXECUTABLE, message })
}

fn not_found(message: &str) -> anyhow::Error {
    anyhow::Error::new(NotExecuted { code: NOT_FOUND, message: message.to_owned() })
}
