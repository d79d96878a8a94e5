//! The last step: find the program, start where it shall start, execute it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use nix::unistd::Pid;
use rustix::fs::OFlags;

use crate::control::Order;
use crate::exit::{NOT_EXECUTABLE, NOT_FOUND, NotExecuted};
use crate::say::shown;

/// Enters the order's directory and finds its program.
///
/// # Errors
/// [`NotExecuted`] with 126 or 127 as shells have them; a directory that cannot be entered.
pub fn prepare(order: &Order) -> Result<Command> {
    enter(&order.directories)?;
    let Some((program, arguments)) = order.command.split_first() else { bail!("the command is empty") };
    let path = order.environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.as_os_str());
    let file = find(program, path.unwrap_or_default())?;
    refuse_unfit(&file)?;
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
    match command.spawn().or_else(|error| spawn_script(command, error)) {
        Ok(child) => Ok(Pid::from_raw(i32::try_from(child.id())?)),
        Err(error) => Err(not_executable(command.get_program().as_ref(), &error.to_string())),
    }
}

/// A file without a format of its own is the shell's, as execvp(3) has it, which [`become_it`] uses.
fn spawn_script(command: &Command, error: std::io::Error) -> std::io::Result<std::process::Child> {
    if error.raw_os_error() != Some(nix::libc::ENOEXEC) {
        return Err(error);
    }
    let mut shell = Command::new("/bin/sh");
    shell.arg(command.get_program()).args(command.get_args()).env_clear();
    shell.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    shell.spawn()
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
        Some((directory, error)) => bail!(
            "cannot start in {}, which is hidden from the program or closed to it: {error}; --workdir names another directory",
            directory.display()
        ),
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
            Ok(found) if !found.is_file() => Err(not_executable(&file, "it is no regular file")),
            Ok(_) if !executable(&file) => Err(not_executable(&file, "no permission to execute it")),
            Ok(_) => Ok(file),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(not_found(&format!("{} does not exist", shown(program))))
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
        None => Err(not_found(&format!("{} was not found in PATH", shown(program)))),
    }
}

/// What of a file the kernel looks at (BINPRM_BUF_SIZE).
const HEAD: usize = 256;

fn executable(file: &Path) -> bool {
    rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok()
}

/// What would fail without a word: a 32-bit program would be killed by SystemCallArchitectures=native at its
/// first system call; of a script whose interpreter is missing the kernel says that the script is; and what the
/// kernel knows as damaged is run by the shell (execvp(3)).
fn refuse_unfit(file: &Path) -> Result<()> {
    let mut interpreter = file.to_owned();
    // The kernel follows at most five interpreters (fs/exec.c).
    for _ in 0..5 {
        let mut head = [0; HEAD];
        // Non-blocking, as an interpreter may be a FIFO: execve(2) refuses that.
        let mut options = File::options();
        let file = options.read(true).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(&interpreter);
        let Ok(length) = file.and_then(|mut program| program.read(&mut head)) else { return Ok(()) };
        let head = &head[..length];
        if let Some(rest) = head.strip_prefix(b"#!") {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let word = line.split(|byte| *byte == b' ' || *byte == b'\t').find(|word| !word.is_empty());
            let named = PathBuf::from(OsString::from_vec(word.unwrap_or_default().to_vec()));
            // A line that does not end within what the kernel reads is cut off here.
            let is_whole = head.contains(&b'\n') || length < HEAD;
            if is_whole && !named.as_os_str().is_empty() && matches!(named.try_exists(), Ok(false)) {
                return Err(not_executable(&interpreter, &without_interpreter(&named)));
            }
            interpreter = named;
        } else if head.starts_with(b"\x7fELF") && head.get(4..5) != Some(&[native_class()]) {
            return Err(not_executable(
                &interpreter,
                "it is a 32-bit program, whose system calls the wall's filters do not know; use a 64-bit build",
            ));
        } else if head.starts_with(b"\x7fELF\x02") && !is_whole_elf(head) {
            return Err(not_executable(&interpreter, "its ELF header is damaged; install it anew"));
        } else {
            return Ok(());
        }
    }
    Ok(())
}

/// Why a script cannot be executed whose interpreter is not there.
fn without_interpreter(named: &Path) -> String {
    match named.as_os_str().as_bytes().strip_suffix(b"\r") {
        Some(_) => {
            "its first line ends in a carriage return, as on Windows: make it a Unix text with dos2unix".to_owned()
        }
        None => format!("its interpreter {} does not exist; install it, or change the first line", named.display()),
    }
}

/// What the kernel looks at in a 64-bit program of any machine (load_elf_binary() in fs/binfmt_elf.c): the size of
/// a program header, and that there are some.
fn is_whole_elf(head: &[u8]) -> bool {
    let half = |at: usize| head.get(at..at + 2).map(|bytes| u16::from_ne_bytes([bytes[0], bytes[1]]));
    head.len() >= 64 && half(54) == Some(56) && half(56) != Some(0)
}

/// EI_CLASS of elf(5): 1 for 32 bits, 2 for 64.
fn native_class() -> u8 {
    if cfg!(target_pointer_width = "64") { 2 } else { 1 }
}

fn not_executable(file: &Path, why: &str) -> anyhow::Error {
    let message = format!("{} cannot be executed: {why}", shown(file.as_ref()));
    anyhow::Error::new(NotExecuted { code: NOT_EXECUTABLE, message })
}

fn not_found(message: &str) -> anyhow::Error {
    anyhow::Error::new(NotExecuted { code: NOT_FOUND, message: message.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, create_dir, set_permissions, write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::exit;

    /// A directory of programs: `good`, `plain` without permission to execute, a directory `sub`, a FIFO `pipe`.
    fn programs() -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for (name, mode) in [("good", 0o755), ("plain", 0o644)] {
            write(place.path().join(name), "#!/bin/sh\n").unwrap();
            set_permissions(place.path().join(name), Permissions::from_mode(mode)).unwrap();
        }
        create_dir(place.path().join("sub")).unwrap();
        nix::unistd::mkfifo(&place.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        place
    }

    #[test]
    fn programs_are_found_and_refused_as_shells_do() {
        let place = programs();
        let path = OsString::from(format!("/nowhere:{}:", place.path().display()));
        let at = |name: &str| place.path().join(name).into_os_string();
        for (word, expected) in [
            ("good".into(), None),
            (at("good"), None),
            ("plain".into(), Some((exit::NOT_EXECUTABLE, "no permission to execute it"))),
            (at("plain"), Some((exit::NOT_EXECUTABLE, "no permission to execute it"))),
            (at("sub"), Some((exit::NOT_EXECUTABLE, "it is a directory"))),
            (at("pipe"), Some((exit::NOT_EXECUTABLE, "it is no regular file"))),
            ("pipe".into(), Some((exit::NOT_FOUND, "pipe was not found in PATH"))),
            (at("good/x"), Some((exit::NOT_EXECUTABLE, "Not a directory"))),
            ("sub".into(), Some((exit::NOT_FOUND, "sub was not found in PATH"))),
            ("absent".into(), Some((exit::NOT_FOUND, "absent was not found in PATH"))),
            (at("absent"), Some((exit::NOT_FOUND, "does not exist"))),
        ] {
            match (find(&word, &path), expected) {
                (Ok(file), None) => assert_eq!(file, place.path().join("good")),
                (Err(error), Some((code, phrase))) => {
                    assert_eq!(exit::code_of(&error), code, "{word:?}");
                    assert!(error.to_string().contains(phrase), "{word:?}: {error}");
                }
                (found, _) => panic!("{word:?}: {found:?}"),
            }
        }
    }

    #[test]
    fn a_32_bit_program_is_refused_also_as_the_interpreter_of_a_script() {
        let place = tempfile::tempdir().unwrap();
        let file = |name: &str, content: &[u8]| {
            write(place.path().join(name), content).unwrap();
            place.path().join(name)
        };
        let foreign = file("foreign", b"\x7fELF\x01\x01\x01");
        let script = file("script", format!("#! {} -x\n", foreign.display()).as_bytes());
        for program in [&foreign, &script] {
            let error = refuse_unfit(program).unwrap_err();
            assert_eq!(exit::code_of(&error), exit::NOT_EXECUTABLE);
            assert!(
                error.to_string().starts_with(&format!("{} cannot be executed: it is a 32-bit", foreign.display()))
            );
        }
        let endless = place.path().join("endless");
        let pipe = place.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        for program in [
            std::env::current_exe().unwrap(),
            file("text", b"#!/bin/sh\n"),
            file("endless", format!("#!{}\n", endless.display()).as_bytes()),
            file("bare", b"#!"),
            file("piped", format!("#!{}\n", pipe.display()).as_bytes()),
            file("long", format!("#!/{}", "x".repeat(300)).as_bytes()),
            place.path().join("absent"),
        ] {
            refuse_unfit(&program).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
        }
    }

    #[test]
    fn what_the_kernel_would_refuse_without_saying_why_is_named() {
        let place = tempfile::tempdir().unwrap();
        let cut_off = [&std::fs::read(std::env::current_exe().unwrap()).unwrap()[..40], &[0; 200]].concat();
        for (content, why) in [
            (&b"#!/absent/python3 -u\n"[..], "its interpreter /absent/python3 does not exist; install it, or change"),
            (b"#!/bin/sh\r\necho\r\n", "its first line ends in a carriage return"),
            (b"\x7fELF\x02\x01\x01", "its ELF header is damaged"),
            (&cut_off, "its ELF header is damaged"),
        ] {
            let file = place.path().join("program");
            write(&file, content).unwrap();
            let error = refuse_unfit(&file).expect_err(why);
            assert_eq!(exit::code_of(&error), exit::NOT_EXECUTABLE, "{why}");
            assert!(error.to_string().starts_with(&format!("{} cannot be executed: {why}", file.display())), "{error}");
        }
    }

    #[test]
    fn a_word_of_any_length_is_refused_by_a_sentence() {
        for word in ["x".repeat(100_000), format!("/{}", "x/".repeat(50_000))] {
            let message = find(word.as_ref(), "/usr/bin".as_ref()).unwrap_err().to_string();
            assert!(message.len() < 400, "{message}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_entered_is_named() {
        let message = enter(&["/absent/one".into(), "/absent/two".into()]).unwrap_err().to_string();
        assert!(message.starts_with("cannot start in /absent/one, "), "{message}");
    }
}
