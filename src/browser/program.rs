//! Which program a command runs in the end: wrapper scripts and links followed.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::{Instance, Surroundings, chromium, electron, gecko, read, script};

/// Scripts read on the way from a command to its program.
const MAX_SCRIPTS: usize = 8;

/// Programs that run the command after their own options.
const RUNNERS: [&str; 12] = [
    "env",
    "nice",
    "ionice",
    "nohup",
    "setsid",
    "timeout",
    "time",
    "stdbuf",
    "taskset",
    "strace",
    "xvfb-run",
    "dbus-run-session",
];

/// What a program is built on, which decides where its instances are found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Engine {
    /// Firefox, Thunderbird and their kin.
    Gecko,
    /// Chromium, Chrome and their kin.
    Chromium,
    /// A program of its own on Chromium.
    Electron,
}

/// A program that may hand over to a running instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    pub(super) engine: Engine,
    /// The executable itself.
    pub(super) file: PathBuf,
    /// All its arguments as far as they can be told: those that wrappers add come first.
    pub(super) arguments: Vec<OsString>,
    /// Which word of the command starts it.
    pub(super) word: usize,
}

impl Program {
    /// The program of a command, if it is one of these.
    #[must_use]
    pub fn find(command: &[OsString], surroundings: &Surroundings) -> Option<Self> {
        let Traced { what: engine, file, arguments, word } = trace(command, surroundings, &engine)?;
        Some(Self { engine, file, arguments, word })
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> String {
        self.file.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// The instance that would take over from it.
    #[must_use]
    pub fn running(&self, surroundings: &Surroundings) -> Option<Instance> {
        match self.engine {
            Engine::Gecko => gecko::running(self, surroundings),
            Engine::Chromium => chromium::running(self, surroundings),
            Engine::Electron => electron::running(self, surroundings),
        }
    }

    /// The value of an option written `--NAME=VALUE`; Chromium's switches come in no other form, and the
    /// last one counts.
    pub(super) fn switch(&self, name: &str) -> Option<&OsStr> {
        let written = format!("--{name}");
        self.arguments.iter().rev().find_map(|word| match word.as_bytes().strip_prefix(written.as_bytes())? {
            [] => Some(OsStr::new("")),
            [b'=', value @ ..] => Some(OsStr::from_bytes(value)),
            _ => None,
        })
    }
}

/// What a command runs in the end.
#[derive(Debug)]
pub(crate) struct Traced<T> {
    /// What it was found to be.
    pub what: T,
    /// The executable itself.
    pub file: PathBuf,
    /// Its arguments: those that wrappers add come first.
    pub arguments: Vec<OsString>,
    /// Which word of the command starts it.
    pub word: usize,
}

/// The first executable that a command leads to and of which `judge` says something.
pub(crate) fn trace<T>(
    command: &[OsString],
    surroundings: &Surroundings,
    judge: &dyn Fn(&Path) -> Option<T>,
) -> Option<Traced<T>> {
    let mut scripts = MAX_SCRIPTS;
    let first = command.first()?;
    let is_runner = Path::new(first).file_name().is_some_and(|name| RUNNERS.iter().any(|runner| name == *runner));
    let last = if is_runner { command.len() } else { 1 };
    (0..last).find_map(|word| {
        let (what, file, mut arguments) = follow(&command[word], surroundings, judge, &mut scripts)?;
        arguments.extend_from_slice(&command[word + 1..]);
        Some(Traced { what, file, arguments, word })
    })
}

/// What `word` runs, and what wrappers add to its arguments.
fn follow<T>(
    word: &OsStr,
    surroundings: &Surroundings,
    judge: &dyn Fn(&Path) -> Option<T>,
    scripts: &mut usize,
) -> Option<(T, PathBuf, Vec<OsString>)> {
    let called = find(word, surroundings)?;
    let file = called.canonicalize().ok()?;
    let head = read(&file, 4)?;
    if head.starts_with(b"\x7fELF") {
        return Some((judge(&file)?, file, Vec::new()));
    }
    if !head.starts_with(b"#!") || *scripts == 0 {
        return None;
    }
    *scripts -= 1;
    script::commands(&file, surroundings).into_iter().find_map(|(word, added)| {
        let (what, file, mut arguments) = follow(&word, surroundings, judge, scripts)?;
        arguments.extend(added);
        Some((what, file, arguments))
    })
}

/// A word with a slash is a path, any other is looked for along PATH.
pub(crate) fn find(word: &OsStr, surroundings: &Surroundings) -> Option<PathBuf> {
    let is_program =
        |file: &PathBuf| file.metadata().is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0);
    if word.as_bytes().contains(&b'/') {
        return Some(surroundings.directory.join(word)).filter(is_program);
    }
    let path = surroundings.variable("PATH").unwrap_or_default();
    std::env::split_paths(path).map(|directory| surroundings.directory.join(directory).join(word)).find(is_program)
}

/// Whether the word names anything that is there, executable or not.
pub(super) fn is_installed(word: &OsStr, surroundings: &Surroundings) -> bool {
    surroundings.directory.join(word).exists() && word.as_bytes().contains(&b'/') || find(word, surroundings).is_some()
}

/// What stands beside an executable tells what it is built on.
fn engine(file: &Path) -> Option<Engine> {
    let directory = file.parent()?;
    let has = |name: &str| directory.join(name).exists();
    if has("application.ini") && has("libxul.so") {
        return Some(Engine::Gecko);
    }
    // Programs on libcef keep their data where they like, and ask nobody.
    let is_chromium = has("resources.pak") && has("icudtl.dat") && !has("libcef.so");
    if !is_chromium {
        return None;
    }
    let is_electron = fs::metadata(directory.join("resources/app")).is_ok_and(|found| found.is_dir())
        || ["resources/app.asar", "resources/default_app.asar"].iter().any(|archive| has(archive));
    Some(if is_electron { Engine::Electron } else { Engine::Chromium })
}
