//! Programs that hand what they are asked for to an instance of theirs that runs already: browsers and
//! what is built on them. Such an instance, outside the wall, would open the address there; so it is
//! looked for before anything is started, where the program itself would look. It keeps accidents out,
//! not a user who hides an instance from himself.

mod chromium;
mod electron;
mod gecko;
mod own_profile;
mod program;
mod script;

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::environment::app_environment;
use crate::host::Host;
use crate::plan::{Directory, Plan};
use crate::via::Via;

pub use own_profile::own_profile;
pub use program::Program;
pub(crate) use program::{find, trace};
pub(crate) use script::assignment;

/// What a program is started with, as far as it decides which profile it uses.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Its environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it is started.
    pub directory: PathBuf,
}

impl Surroundings {
    /// Those of a plan's app.
    #[must_use]
    pub fn of(plan: &Plan, host: &Host) -> Self {
        let environment = app_environment(plan, &host.environment);
        let directory = match &plan.directory {
            Directory::Asked(directory) | Directory::Caller(Some(directory)) => directory.clone(),
            Directory::Caller(None) => plan.app.user().home.clone(),
        };
        Self { environment, directory }
    }

    pub(crate) fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.environment.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
    }

    fn home(&self) -> PathBuf {
        self.variable("HOME").map(PathBuf::from).unwrap_or_default()
    }

    /// A directory of the XDG Base Directory Specification, which wants relative ones ignored.
    pub(crate) fn base_directory(&self, variable: &str, default: &str) -> PathBuf {
        let set = self.variable(variable).map(PathBuf::from).filter(|path| path.is_absolute());
        set.unwrap_or_else(|| self.home().join(default))
    }
}

/// An instance that runs already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instance {
    /// Its process, if that can be told from here.
    pub process: Option<u32>,
    /// The directory that it holds.
    pub profile: PathBuf,
}

/// Refuses a launch of which an instance outside would take over. `words` is the whole command line.
///
/// # Errors
/// There is such an instance; the command line that keeps clear of it is named.
pub fn refuse_running(plan: &Plan, host: &Host, words: &[OsString]) -> Result<()> {
    let surroundings = Surroundings::of(plan, host);
    let Some(program) = Program::find(&plan.command, &surroundings) else { return Ok(()) };
    let Some(instance) = program.running(&surroundings) else { return Ok(()) };
    let process = instance.process.map(|process| format!("process {process}, ")).unwrap_or_default();
    bail!(
        "{} is running already ({process}profile {}) and would open this outside the wall; give it a profile of its own: {}",
        program.name(),
        instance.profile.display(),
        with_own_profile(plan, words)
    )
}

/// The command line with `--own-profile`, for a shell. A password that stands in it is left out.
fn with_own_profile(plan: &Plan, words: &[OsString]) -> String {
    let options = words.len().saturating_sub(plan.command.len());
    let (options, command) = words.split_at(options);
    let (options, dashes) = match options.split_last() {
        Some((last, options)) if last == "--" => (options, Some(last)),
        _ => (options, None),
    };
    let mut line = vec!["appfw-run".to_owned()];
    if matches!(plan.via, Via::Chain(_)) && plan.via.has_secret() {
        line.push("…".to_owned());
    } else {
        line.extend(options.iter().map(quoted));
    }
    line.push("--own-profile".to_owned());
    line.extend(dashes.into_iter().chain(command).map(quoted));
    line.join(" ")
}

/// A word as a POSIX shell takes it for itself.
fn quoted(word: &OsString) -> String {
    let word = word.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-+=./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.into_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// The start of a file of the user's, which may be anything: a pipe is not waited for, a link to a device
/// not read without end.
fn read(file: &Path, most: u64) -> Option<Vec<u8>> {
    use std::io::Read;
    use std::os::unix::fs::OpenOptionsExt;
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = std::fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(file).ok()?;
    if !opened.metadata().is_ok_and(|found| found.is_file()) {
        return None;
    }
    let mut bytes = Vec::new();
    opened.take(most).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// A file of sections with keys, as Firefox and desktop files have them: (section, key, value).
pub(crate) fn read_ini(file: &Path) -> Vec<(String, String, String)> {
    const MOST: u64 = 256 << 10;
    let Some(bytes) = read(file, MOST) else { return Vec::new() };
    let mut section = String::new();
    let mut entries = Vec::new();
    for line in String::from_utf8_lossy(&bytes).lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            name.clone_into(&mut section);
        } else if let Some((key, value)) = line.split_once('=') {
            entries.push((section.clone(), key.trim().to_owned(), value.trim().to_owned()));
        }
    }
    entries
}

#[cfg(test)]
mod tests;
