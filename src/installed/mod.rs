//! Files that outlive a command: unit files, drop-ins, and what these name. Each carries a [`Mark`], and is written
//! as a whole or not at all. What has no mark of ours is never replaced and never removed.

mod mark;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, bail};
use rustix::fs::{CWD, RenameFlags, renameat_with};

pub use mark::Mark;

use crate::say::Say;

/// A file as it shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub path: PathBuf,
    /// All of it but the mark.
    pub text: String,
    /// Its permissions.
    pub mode: u32,
}

/// What becomes of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which.
    pub path: PathBuf,
    /// What stands there now, with its mark.
    pub before: Option<String>,
    /// What shall stand there, with its mark; `None` if it shall go.
    pub after: Option<String>,
    /// The permissions of what shall stand there.
    mode: u32,
    /// The directory that was made for what stands there now, and goes with it.
    directory: Option<PathBuf>,
    /// Whether it is what a killed writer has left: no program reads it, so that it goes at once, and for good.
    is_left: bool,
}

impl Change {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.before == self.after
    }

    /// What undoes it.
    fn reversed(&self) -> Self {
        Self { before: self.after.clone(), after: self.before.clone(), ..self.clone() }
    }

    /// The change as a unified diff, without a final word on missing line ends.
    #[must_use]
    pub fn diff(&self) -> String {
        let (before, after) = (self.before.as_deref().unwrap_or_default(), self.after.as_deref().unwrap_or_default());
        let path = self.path.display().to_string();
        let none = "/dev/null";
        let names = (self.before.as_ref().map_or(none, |_| &path), self.after.as_ref().map_or(none, |_| &path));
        similar::TextDiff::from_lines(before, after).unified_diff().header(names.0, names.1).to_string()
    }
}

/// A file of ours as it is: its text and its mark. `None` if there is none.
///
/// # Errors
/// Something that isn't ours is there, or it can't be read.
pub fn find(path: &Path) -> Result<Option<(String, Mark)>> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot look at {}", path.display())),
    };
    let foreign = |what: &str| {
        anyhow::anyhow!(
            "{} is not ours ({what}), so it is left as it is: move it away, or choose another name",
            path.display()
        )
    };
    if !found.is_file() {
        return Err(foreign(if found.is_symlink() { "a symbolic link" } else { "no regular file" }));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(foreign("another user's"));
    }
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|_| foreign("no mark of appfw in it"))?;
    match Mark::read(&text) {
        Some(mark) => Ok(Some((text, mark))),
        None => Err(foreign("no mark of appfw in it")),
    }
}

/// What has to be done for these files to be there, as made by `command`.
///
/// # Errors
/// Something that isn't ours is in the way: then nothing may be changed.
pub fn changes(wanted: &[Wanted], command: &[String]) -> Result<Vec<Change>> {
    let change = |Wanted { path, text, mode }: &Wanted| {
        let found = find(path)?;
        if let Some((_, mark)) = &found
            && Mark::subject(&mark.command) != Mark::subject(command)
        {
            bail!("{} belongs to what `appfw {}` made: remove that first", path.display(), mark.command.join(" "));
        }
        let made_directory = match &found {
            Some((_, mark)) => mark.made_directory,
            None => !path.parent().is_some_and(Path::is_dir) || was_left(path),
        };
        let mark = Mark { made_directory, ..Mark::new(command) };
        let lines = mark.lines().with_context(|| format!("cannot mark {}", path.display()))?;
        let (before, directory) = (found.map(|(text, _)| text), made_for(path, made_directory));
        Ok(Change { path: path.clone(), before, after: Some(lines + text), mode: *mode, directory, is_left: false })
    };
    wanted.iter().map(change).collect()
}

/// When the last of these was written; the beginning of time for what isn't there.
#[must_use]
pub fn written(wanted: &[Wanted]) -> SystemTime {
    let times = wanted.iter().filter_map(|wanted| wanted.path.metadata().and_then(|found| found.modified()).ok());
    times.max().unwrap_or(SystemTime::UNIX_EPOCH)
}

/// What has to be done for these files of `subject` ([`Mark::subject`]) to be gone. Those that are gone already, and
/// those of other commands, are left out.
///
/// # Errors
/// One isn't ours.
pub fn removals(paths: &[PathBuf], subject: &[String]) -> Result<Vec<Change>> {
    let removal = |path: &PathBuf| {
        let found = find(path)?.filter(|(_, mark)| Mark::subject(&mark.command) == subject);
        Ok(found.map(|(text, mark)| gone(path.clone(), text, made_for(path, mark.made_directory))))
    };
    paths.iter().filter_map(|path| removal(path).transpose()).collect()
}

/// What has to be done for that to be gone which a writer of these files that was killed has left beside them, and
/// beside their directories: they carry the mark of `subject`, or were not written as far as that.
#[must_use]
pub fn leftovers(paths: &[PathBuf], subject: &[String]) -> Vec<Change> {
    let left = |place: PathBuf, directory: &Path| {
        let (text, directory) = match find(&place) {
            Ok(found) => {
                let (text, mark) = found.filter(|(_, mark)| Mark::subject(&mark.command) == subject)?;
                (text, mark.made_directory.then(|| directory.to_owned()))
            }
            // It is written to its end before a directory is made for it.
            Err(_) => (begun(&place)?, None),
        };
        Some(Change { is_left: true, ..gone(place, text, directory) })
    };
    let places = paths.iter().filter_map(|path| Some((path, path.parent()?)));
    let mut all: Vec<Change> = places
        .flat_map(|(path, directory)| [beside(path), claim(directory)].map(|place| left(place, directory)))
        .flatten()
        .collect();
    all.sort_by(|one, other| (one.directory.is_some(), &one.path).cmp(&(other.directory.is_some(), &other.path)));
    all.dedup_by(|one, other| one.path == other.path);
    all
}

/// What stands in a file of ours of which not even the mark was written.
fn begun(place: &Path) -> Option<String> {
    let found = fs::symlink_metadata(place).ok()?;
    let is_own = found.is_file() && found.uid() == rustix::process::geteuid().as_raw();
    // Half a letter may be its last.
    let bytes = if is_own { fs::read(place).ok()? } else { return None };
    Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| Mark::has_begun(text))
}

/// All that there is of these files of `subject`, with what a killed writer has left of them, to be gone.
///
/// # Errors
/// Those of [`removals`].
pub fn sweep(paths: &[PathBuf], subject: &[String]) -> Result<Vec<Change>> {
    let removals = removals(paths, subject)?;
    Ok([leftovers(paths, subject), removals].concat())
}

fn gone(path: PathBuf, text: String, directory: Option<PathBuf>) -> Change {
    // For who takes that back.
    let mode = path.symlink_metadata().map_or(0o600, |found| found.mode() & 0o777);
    Change { path, before: Some(text), after: None, mode, directory, is_left: false }
}

fn made_for(path: &Path, made_directory: bool) -> Option<PathBuf> {
    path.parent().filter(|_| made_directory).map(Path::to_owned)
}

/// Undoes changes that were applied, and turned out not to hold.
///
/// # Errors
/// A file could not be written; then all are as `apply` has left them.
pub fn take_back(changes: &[Change]) -> Result<()> {
    let reversed: Vec<Change> = changes.iter().rev().map(Change::reversed).collect();
    apply(&reversed).context("what was written cannot be taken back")
}

/// Removes those of these directories, which files of several commands are in, that one of the changes was of, once they are
/// empty: no mark tells any more who made them. What has other permissions than we give was not made by us.
pub fn remove_empty(directories: &[PathBuf], changes: &[Change]) {
    let is_as_made = |directory: &PathBuf| {
        let is_roots = rustix::process::geteuid().is_root();
        // A user's have what the umask leaves.
        fs::symlink_metadata(directory).is_ok_and(|found| !is_roots || found.mode() & 0o7777 == DIRECTORY)
    };
    let has_held = |directory: &PathBuf| changes.iter().any(|change| change.path.starts_with(directory));
    for directory in directories.iter().filter(|directory| has_held(directory) && is_as_made(directory)) {
        let _ = fs::remove_dir(directory);
    }
}

/// Says what was changed, and how where that is asked for; a file that wasn't there is called `new`.
pub fn tell(changes: &[Change], new: &str, say: &Say) {
    for change in changes.iter().filter(|change| !change.is_none()) {
        let what = match (&change.before, &change.after) {
            (None, _) => new,
            (_, None) => "removed",
            _ => "changed",
        };
        say.plain(&format!("{what}: {}", change.path.display()));
        // What has no ending holds a password.
        if change.path.extension().is_some() {
            change.diff().lines().for_each(|line| say.detail(line));
        }
    }
}

/// Does all changes in this order, or none: what was done before a failure is undone. Who is killed half-way leaves
/// whole files, old or new, and others that no program reads.
///
/// # Errors
/// A file could not be written; then all are as they were.
pub fn apply(changes: &[Change]) -> Result<()> {
    let changes: Vec<&Change> = changes.iter().filter(|change| !change.is_none()).collect();
    let (left, changes): (Vec<&Change>, Vec<&Change>) = changes.into_iter().partition(|change| change.is_left);
    for change in &changes {
        // Each of them is written, or kept, there for a while.
        let claim = change.path.parent().filter(|directory| !directory.is_dir()).map(claim);
        for place in [Some(beside(&change.path)), claim].into_iter().flatten() {
            if begun(&place).is_none() {
                find(&place).context("nothing was changed")?;
            }
        }
    }
    left.iter().for_each(|change| remove(&change.path, change.directory.as_deref()));
    let mut made = Vec::new();
    let mut done = 0;
    let outcome = prepare(&changes, &mut made).and_then(|()| put_in_place(&changes, &mut done));
    if outcome.is_err() {
        let (put, waiting) = changes.split_at(done);
        let made_for =
            |change: &Change| made_for(&change.path, made.iter().any(|made| change.path.parent() == Some(made)));
        put.iter().rev().for_each(|change| undo(change, made_for(change).as_deref()));
        waiting.iter().for_each(|change| remove(&beside(&change.path), made_for(change).as_deref()));
        // Those above them. Only what is empty goes.
        for directory in made.iter().rev() {
            let _ = fs::remove_dir(directory);
        }
    }
    outcome
}

/// Whether a writer that was killed has made the directory of `path`, where nothing else is by now.
fn was_left(path: &Path) -> bool {
    let Some(directory) = path.parent() else { return false };
    let is_claim = |place: PathBuf| find(&place).is_ok_and(|found| found.is_some_and(|(_, mark)| mark.made_directory));
    let is_begun = |path: PathBuf| path.extension().is_some_and(|kind| kind == BEGUN);
    let is_empty =
        || directory.read_dir().is_ok_and(|mut all| all.all(|entry| entry.is_ok_and(|one| is_begun(one.path()))));
    (is_claim(beside(path)) || is_claim(claim(directory))) && is_empty()
}

/// Writes what is new beside what it replaces: a full disk is met before anything is changed.
fn prepare(changes: &[&Change], made: &mut Vec<PathBuf>) -> Result<()> {
    for change in changes {
        let Some(after) = &change.after else { continue };
        let failed = || format!("cannot write {}, so nothing was changed", change.path.display());
        let directory = change.path.parent().with_context(failed)?;
        let place = beside(&change.path);
        if directory.is_dir() {
            make_directory(directory, made)?;
            write(&place, after, change.mode).with_context(failed)?;
            continue;
        }
        let claim = claim(directory);
        directory.parent().map_or(Ok(()), |above| make_directory(above, made))?;
        let written = write(&claim, after, change.mode).with_context(failed);
        let claimed = written.and_then(|()| make_directory(directory, made));
        let outcome = claimed.and_then(|()| rustix::fs::rename(&claim, place).with_context(failed));
        if outcome.is_err() {
            remove(&claim, made_for(&change.path, made.contains(&directory.to_owned())).as_deref());
            return outcome;
        }
    }
    Ok(())
}

fn write(place: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    match fs::remove_file(place) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(place)?;
    // The caller's umask may have made it narrower.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all())
}

/// Each change by one rename(2), which leaves what was there before beside it until all are done. Counts those that
/// are `done`.
fn put_in_place(changes: &[&Change], done: &mut usize) -> Result<()> {
    for change in changes {
        put(change).with_context(|| format!("cannot change {}, so nothing was changed", change.path.display()))?;
        *done += 1;
    }
    // What keeps a directory goes before what it was made for.
    let (last, first): (Vec<&Change>, Vec<&Change>) =
        changes.iter().copied().partition(|change| change.directory.is_some());
    for change in first.iter().chain(&last) {
        remove(&beside(&change.path), change.directory.as_deref().filter(|_| change.after.is_none()));
        let Some(directory) = change.path.parent() else { continue };
        // What is in place counts; that it survives a power cut is tried.
        let _ = File::open(directory).and_then(|directory| directory.sync_all());
    }
    Ok(())
}

fn put(change: &Change) -> rustix::io::Result<()> {
    let (path, place) = (&change.path, beside(&change.path));
    match (&change.before, &change.after) {
        (_, None) => rustix::fs::rename(path, place),
        // Nobody's file that has come meanwhile is replaced.
        (None, Some(_)) => renameat_with(CWD, place, CWD, path, RenameFlags::NOREPLACE),
        (Some(_), Some(_)) => renameat_with(CWD, place, CWD, path, RenameFlags::EXCHANGE),
    }
}

/// Needs no room on the disk. What cannot be undone stays beside, as the only copy there is.
fn undo(change: &Change, made: Option<&Path>) {
    let (path, place) = (&change.path, beside(&change.path));
    let undone = match (&change.before, &change.after) {
        (_, None) => {
            let _ = rustix::fs::rename(place, path);
            return;
        }
        (None, Some(_)) => rustix::fs::rename(path, &place),
        (Some(_), Some(_)) => renameat_with(CWD, &place, CWD, path, RenameFlags::EXCHANGE),
    };
    if undone.is_ok() {
        remove(&place, made);
    }
}

/// Removes what is in no place, and a directory that was made for it if nothing else is there. As long as that is there,
/// something says that it is ours.
fn remove(place: &Path, directory: Option<&Path>) {
    let Some(directory) = directory else { return drop(fs::remove_file(place)) };
    let claim = claim(directory);
    let is_claimed = place == claim || renameat_with(CWD, place, CWD, &claim, RenameFlags::NOREPLACE).is_ok();
    if !is_claimed {
        let _ = fs::remove_file(place);
    }
    // Others' files keep it.
    let _ = fs::remove_dir(directory);
    if is_claimed {
        let _ = fs::remove_file(claim);
    }
}

/// The permissions of the directories that we make.
const DIRECTORY: u32 = 0o755;

/// How the names of files end that are not in their places.
const BEGUN: &str = "appfw-new";

/// Where a file is before it takes its place, and what it has replaced: no name that systemd reads.
fn beside(path: &Path) -> PathBuf {
    hidden(path, BEGUN)
}

/// How the names of files end that claim a directory.
pub(crate) const CLAIM: &str = "appfw-directory";

/// Where a file is before its directory is made, and until that is gone: who finds it there, and the directory empty,
/// knows whose that is.
fn claim(directory: &Path) -> PathBuf {
    hidden(directory, CLAIM)
}

fn hidden(path: &Path, kind: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{kind}"))
}

/// Whether a directory is as /tmp is. It has to be, so nobody is to be told to change that.
pub(crate) fn is_everybodys(found: &fs::Metadata) -> bool {
    const STICKY: u32 = 0o1000;
    found.is_dir() && found.uid() == 0 && found.mode() & STICKY != 0 && found.mode() & 0o022 != 0
}

/// Makes a directory and those above it. Who else may write there could put another file in a file's place.
pub(crate) fn make_directory(directory: &Path, made: &mut Vec<PathBuf>) -> Result<()> {
    match fs::metadata(directory) {
        Ok(found) if !found.is_dir() => bail!("{} is no directory: move it away", directory.display()),
        Ok(found) => {
            if is_everybodys(&found) {
                bail!(
                    "{} is where everybody puts files, who could change what is put there: choose a directory of your own",
                    directory.display()
                );
            }
            let own = rustix::process::geteuid().as_raw();
            if (found.uid() != own && found.uid() != 0) || found.mode() & 0o022 != 0 {
                bail!(
                    "{} can be written by others, who could change what is put there: chmod go-w {0}",
                    directory.display()
                );
            }
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            if let Some(above) = directory.parent() {
                make_directory(above, made)?;
            }
            if directory.is_symlink() {
                bail!(
                    "{} is a symbolic link that leads nowhere: put back what it leads to, or remove it",
                    directory.display()
                );
            }
            let failed = || format!("cannot make {}, so nothing was changed", directory.display());
            DirBuilder::new().mode(DIRECTORY).create(directory).with_context(failed)?;
            made.push(directory.to_owned());
            // Everybody reads the system's configuration and units, whatever umask root had when they were made.
            if rustix::process::geteuid().is_root() {
                fs::set_permissions(directory, fs::Permissions::from_mode(DIRECTORY)).with_context(failed)?;
            }
            Ok(())
        }
        Err(error) => Err(error).with_context(|| format!("cannot look at {}", directory.display())),
    }
}

#[cfg(test)]
mod tests;
