//! Where profiles and the configuration are: the user's place, the machine's, the distribution's, and what is built
//! in. Whoever can write there decides how programs are confined, so each is checked to be the caller's or root's.

use std::collections::BTreeSet;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};

use super::origin::Source;
use super::sheet::{Kind, Sheet};
use super::{is_profile_name, shipped};
use crate::host::Host;
use crate::installed;

/// More than anybody writes, and read in no time.
const MAX_FILE: u64 = 1 << 20;
/// Profiles of one place.
const MAX_PROFILES: usize = 4096;

/// The directories of the machine, below its root.
const MACHINES: [&str; 2] = ["etc/appfw", "usr/share/appfw"];

/// The directories, the highest first.
#[derive(Debug, Clone)]
pub struct Places {
    directories: Vec<PathBuf>,
    /// Whose the files may be, beside root's.
    caller: u32,
}

/// Where an ordinary caller's programs keep their configuration.
pub(super) fn configuration(host: &Host) -> PathBuf {
    // XDG Base Directory Specification: a relative path is to be ignored.
    let absolute = |name: &str| host.variable(name).map(PathBuf::from).filter(|path| path.is_absolute());
    // `su` and setpriv(1) leave the home of who called them.
    let home = absolute("HOME").filter(|home| is_of(home, host.caller.uid));
    let home = home.unwrap_or_else(|| host.caller.home.clone());
    absolute("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"))
}

impl Places {
    /// Those of a caller. Root reads what is root's alone, whatever sudo has left of the environment.
    #[must_use]
    pub fn of(root: &Path, host: &Host) -> Self {
        let user = (!host.caller.is_root()).then(|| configuration(host).join("appfw"));
        let machines = MACHINES.map(|place| root.join(place));
        Self { directories: user.into_iter().chain(machines).collect(), caller: host.caller.uid }
    }

    /// The directories, the highest first.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// How low a file's place is.
    #[must_use]
    pub fn rank(&self, source: &Source) -> usize {
        let is_above = |directory: &PathBuf| matches!(source, Source::File(path) if path.starts_with(directory));
        self.directories.iter().position(is_above).unwrap_or(self.directories.len())
    }

    /// Where the caller's own files belong.
    #[must_use]
    pub fn own(&self) -> &Path {
        self.directories.first().map(PathBuf::as_path).unwrap_or(Path::new("/"))
    }

    /// Each `config.toml` that is there, the highest first.
    #[must_use]
    pub fn configuration(&self) -> Vec<Sheet> {
        self.directories
            .iter()
            .filter_map(|directory| self.sheet(Kind::Config, &directory.join("config.toml")))
            .collect()
    }

    /// Each file of the profile `name`, the highest first.
    #[must_use]
    pub fn profile(&self, name: &str) -> Vec<Sheet> {
        let files = self.directories.iter().map(|directory| directory.join("profiles").join(format!("{name}.toml")));
        let mut sheets: Vec<Sheet> = files.filter_map(|file| self.sheet(Kind::Profile, &file)).collect();
        sheets.extend(shipped::sheet(name));
        sheets
    }

    /// Whether a file is the caller's own, which root never reads.
    #[must_use]
    pub fn is_own(&self, source: &Source) -> bool {
        self.caller != 0 && self.directories.len() > MACHINES.len() && self.rank(source) == 0
    }

    /// The names of all profiles, and the files that can be none, or are in the way of finding more.
    #[must_use]
    pub fn names(&self) -> (BTreeSet<String>, Vec<Sheet>) {
        let (mut names, unreadable) = self.names_of_files();
        names.extend(shipped::names().map(str::to_owned));
        (names, unreadable)
    }

    /// As [`Self::names`], but for those that are built in alone.
    #[must_use]
    pub fn names_of_files(&self) -> (BTreeSet<String>, Vec<Sheet>) {
        let (mut names, mut unreadable) = (BTreeSet::new(), Vec::new());
        for place in &self.directories {
            let directory = place.join("profiles");
            if let Some(sheet) = self.obstacle(place, &directory) {
                unreadable.push(sheet);
                continue;
            }
            match self.list(&directory) {
                Ok(files) => {
                    for file in files {
                        match file.file_stem().and_then(|stem| stem.to_str()).filter(|name| is_profile_name(name)) {
                            Some(name) => drop(names.insert(name.to_owned())),
                            None => unreadable.push(self.nameless(file)),
                        }
                    }
                }
                Err(error) => unreadable.push(Sheet::unreadable(Source::File(directory), format!("{error:#}"))),
            }
        }
        (names, unreadable)
    }

    /// A profile that no `--profile` could name: what it says of commands counts as in any that is wrong.
    fn nameless(&self, file: PathBuf) -> Sheet {
        let source = Source::File(file.clone());
        let mut sheet = self.sheet(Kind::Profile, &file).unwrap_or_else(|| Sheet::empty(source));
        sheet.mistake(None, NO_NAME.to_owned());
        sheet
    }

    /// The profiles of one directory. Other files are none of ours.
    fn list(&self, directory: &Path) -> Result<Vec<PathBuf>> {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return expect_absent(directory).map(|()| Vec::new()),
            Err(error) => return Err(error).context("cannot be read, so that nobody knows which profiles apply"),
        };
        let mut files = Vec::new();
        for entry in entries.take(MAX_PROFILES) {
            let path = entry.context("cannot be read to its end")?.path();
            let is_hidden = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
            if path.extension().is_some_and(|extension| extension == "toml") && !is_hidden {
                files.push(path);
            }
        }
        ensure!(files.len() < MAX_PROFILES, "holds more than {MAX_PROFILES} profiles: remove some");
        files.sort();
        Ok(files)
    }

    /// A file, if it is there.
    fn sheet(&self, kind: Kind, path: &Path) -> Option<Sheet> {
        let place = self.directories.iter().find(|directory| path.starts_with(directory));
        if let (Some(place), Some(directory)) = (place, path.parent())
            && let Some(obstacle) = self.obstacle(place, directory)
        {
            return Some(obstacle);
        }
        let source = Source::File(path.to_owned());
        match self.read(path) {
            Ok(None) => None,
            Ok(Some((text, private))) => Some(Sheet::parse(kind, source, &text, private)),
            Err(error) => Some(Sheet::unreadable(source, format!("{error:#}"))),
        }
    }

    /// A file that somebody names. Who could change it matters where launches read it.
    #[must_use]
    pub fn named(&self, path: &Path) -> Sheet {
        let kind =
            if path.file_name().is_some_and(|name| name == "config.toml") { Kind::Config } else { Kind::Profile };
        let absent = || Sheet::unreadable(Source::File(path.to_owned()), "there is no such file".to_owned());
        self.sheet(kind, path).unwrap_or_else(absent)
    }

    /// What keeps a place, or a directory in it, from being looked at: its files may hold rules. It is the same for all of
    /// them.
    fn obstacle(&self, place: &Path, directory: &Path) -> Option<Sheet> {
        let refused = |directory: &Path| match self.enter(directory) {
            Ok(()) => None,
            Err(error) => Some(Sheet::unreadable(Source::File(directory.to_owned()), format!("{error:#}"))),
        };
        refused(place).or_else(|| refused(directory))
    }

    fn enter(&self, directory: &Path) -> Result<()> {
        if directory == self.own() {
            self.trust_own()?;
        }
        match directory.metadata() {
            Ok(_) => Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                expect_absent(directory)
            }
            Err(error) => bail!("may hold rules, and {}", closed(directory, &error)),
        }
    }

    /// Who can write the directory that a user's place is in can take that away, with the rules in it.
    ///
    /// # Errors
    /// Others can, or could.
    pub fn trust_own(&self) -> Result<()> {
        /// As /tmp is: what is in it is moved by its owner alone.
        const STICKY: u32 = 0o1000;
        let Some(above) = self.own().parent().filter(|_| self.directories.len() > MACHINES.len()) else {
            return Ok(());
        };
        let Ok(found) = above.metadata() else { return Ok(()) };
        if found.uid() != 0 && found.uid() != self.caller {
            bail!("{} belongs to another user: set XDG_CONFIG_HOME to a directory of your own", above.display());
        }
        if found.mode() & 0o022 != 0 && found.mode() & STICKY == 0 {
            bail!("{0} can be changed by other users, who could take the rules away: chmod go-w {0}", above.display());
        }
        Ok(())
    }

    /// The text, and whether nobody else can read it. A link is followed: what it leads to is checked.
    fn read(&self, path: &Path) -> Result<Option<(String, bool)>> {
        // Non-blocking, so that a FIFO in its place holds nobody up before it is refused.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(rustix::io::Errno::NOENT) => return expect_absent(path).map(|()| None),
            Err(rustix::io::Errno::NOTDIR) => return Ok(None),
            Err(error) => bail!("{}", closed(path, &error.into())),
        };
        let metadata = file.metadata().context("cannot be examined")?;
        ensure!(metadata.is_file(), "is no regular file: move it away");
        if self.directories.iter().any(|directory| path.starts_with(directory)) {
            self.trust(path, &metadata)?;
            self.trust_directories(path)?;
        }
        let mut bytes = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).context("cannot be read")?;
        ensure!(bytes.len() as u64 <= MAX_FILE, "is larger than such a file can be ({} KiB)", MAX_FILE >> 10);
        let text = String::from_utf8(bytes).map_err(|error| {
            let line =
                error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|byte| **byte == b'\n').count();
            anyhow::anyhow!("is not UTF-8 from line {} on, as TOML must be", line + 1)
        })?;
        ensure!(!text.starts_with('\u{feff}'), "begins with a byte order mark: save it as UTF-8 without one");
        Ok(Some((text, metadata.mode() & 0o077 == 0)))
    }

    /// Who can write a directory can put another file in this one's place.
    fn trust_directories(&self, path: &Path) -> Result<()> {
        let own = self.directories.iter().find(|directory| path.starts_with(directory));
        let written = path.parent().map(Path::to_owned);
        let real = path.canonicalize().ok().and_then(|real| real.parent().map(Path::to_owned));
        for directory in own.cloned().into_iter().chain(written).chain(real) {
            let metadata =
                directory.metadata().with_context(|| format!("{} cannot be examined", directory.display()))?;
            self.trust(&directory, &metadata)?;
        }
        Ok(())
    }

    fn trust(&self, path: &Path, metadata: &Metadata) -> Result<()> {
        let owner = metadata.uid();
        if owner != 0 && owner != self.caller {
            bail!("{} belongs to another user, who could change how programs are confined: chown it", path.display());
        }
        if installed::is_everybodys(metadata) {
            bail!("{} is where everybody puts files: keep these in a directory of your own", path.display());
        }
        if metadata.mode() & 0o022 != 0 {
            bail!("{0} can be changed by other users: chmod go-w {0}", path.display());
        }
        Ok(())
    }
}

/// Whether a directory is that user's. What cannot be looked at is whose it is that closes the way there, or who could
/// make it: a program may have closed its user's home, and the rules count all the same.
fn is_of(directory: &Path, user: u32) -> bool {
    let looked = directory.ancestors().find_map(|above| above.metadata().ok());
    looked.is_some_and(|found| found.uid() == user)
}

fn closed(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::PermissionDenied => format!(
            "cannot be opened ({error}): `namei -l {}` shows the directory that is closed; chmod u+rx opens one of yours",
            path.display()
        ),
        _ => format!("cannot be opened: {error}"),
    }
}

/// What a link leads to may be away for a while, with the rules that stand there.
fn expect_absent(path: &Path) -> Result<()> {
    match path.ancestors().find(|above| above.symlink_metadata().is_ok()) {
        Some(link) if link.metadata().is_ok() => Ok(()),
        Some(link) if link == path => {
            bail!("is a symbolic link that leads nowhere: put back what it leads to, or remove it")
        }
        Some(link) => bail!(
            "may hold rules, and {} is a symbolic link that leads nowhere: put back what it leads to, or remove it",
            link.display()
        ),
        None => Ok(()),
    }
}

const NO_NAME: &str = "its name is none that a profile can have, 1 to 64 of A-Z a-z 0-9 _ . -, beginning with a letter or digit: rename it";
