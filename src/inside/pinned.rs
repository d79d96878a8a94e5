//! Keeps at its place what is hidden or read-only. A mount goes along with a directory above it that is renamed, and
//! where a link has led to it another one can stand: so each directory and each link on the way there is mounted on
//! itself, as the kernel neither renames nor removes what something is mounted on (EBUSY).

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, DirBuilder, Metadata};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::io::Errno;
use rustix::process::geteuid;

use super::held::{Held, insist};
use super::hiding::is_anybodys;
use super::mounts::present;
use crate::walk::Walk;

/// Root's programs are not kept from replacing these, as they could write them as well, and packages have files there
/// that are one by several names (rename(2) and link(2) end at a mount).
const NOT_FROM_ROOT: &str = "/usr";

/// How a path is walked, by its names alone: what is closed for the moment can be opened again.
pub struct Way {
    /// The directories and links on it, from above.
    pub steps: Vec<PathBuf>,
    /// Those of them that were links when it was walked.
    pub links: Vec<PathBuf>,
    /// Where it ends, links followed.
    pub end: PathBuf,
}

/// The ways looked at so far: each launch asks for a hundred, three times, and most have a beginning in common. Kept by
/// the bytes of paths, whose parts need not be taken apart for that.
#[derive(Default)]
pub struct Ways {
    known: HashMap<OsString, Option<Way>>,
    links: HashMap<OsString, Option<PathBuf>>,
    sessions: Vec<PathBuf>,
}

impl Ways {
    /// From here on no way ends with another user's link that is called as one of these: it leads to nothing of ours, and
    /// the app would miss whatever it does lead to.
    pub fn distrust(&mut self, sessions: &[PathBuf]) {
        self.sessions = sessions.to_vec();
    }

    /// The way of an absolute path; `None` if its links have no end.
    pub fn to(&mut self, path: &Path) -> Option<&Way> {
        if !self.known.contains_key(path.as_os_str()) {
            let way = self.walk(path);
            self.known.insert(path.as_os_str().to_owned(), way);
        }
        self.known.get(path.as_os_str())?.as_ref()
    }

    fn walk(&mut self, path: &Path) -> Option<Way> {
        let (mut walk, mut steps, mut links) = (Walk::to(path), Vec::new(), Vec::new());
        while let Some(next) = walk.step() {
            let is_anybodys = !walk.goes_on() && is_anybodys(&next, &self.sessions);
            match if is_anybodys { trusted_target(&next) } else { self.target(&next) } {
                Some(target) => {
                    steps.push(next.clone());
                    links.push(next);
                    walk.follow(&target)?;
                }
                None => {
                    if walk.goes_on() {
                        steps.push(next.clone());
                    }
                    walk.enter(next);
                }
            }
        }
        Some(Way { steps, links, end: walk.here().to_owned() })
    }

    fn target(&mut self, place: &Path) -> Option<PathBuf> {
        if let Some(known) = self.links.get(place.as_os_str()) {
            return known.clone();
        }
        let found = fs::read_link(place).ok();
        self.links.insert(place.as_os_str().to_owned(), found.clone());
        found
    }
}

/// What the link at `place` leads to, if it is ours. Its owner and its text are those of one link, whatever is there later.
fn trusted_target(place: &Path) -> Option<PathBuf> {
    let (link, found) = Held::itself(place).and_then(Held::look).ok()?;
    if found.is_trusted() { link.target() } else { None }
}

/// Mounts on itself what is on the way to one of the places, where the app could replace it, but for what is below
/// `sealed`, which is the app's own.
///
/// # Errors
/// The kernel refuses one of the mounts.
pub fn pin<'a>(places: impl Iterator<Item = &'a PathBuf>, sealed: &Path, ways: &mut Ways) -> Result<()> {
    let is_root = geteuid().is_root();
    let is_left = |step: &Path| step.starts_with(sealed) || is_root && step.starts_with(NOT_FROM_ROOT);
    let mut steps = BTreeSet::new();
    for place in places {
        steps.extend(ways.to(place).into_iter().flat_map(|way| way.steps.iter().cloned()));
    }
    for step in steps.iter().filter(|step| !is_left(step)) {
        if step.parent().is_some_and(is_apps_to_change) {
            mount_on_itself(step)
                .with_context(|| format!("cannot keep the program from replacing {}", step.display()))?;
        }
    }
    Ok(())
}

/// What is mounted below is seen still.
fn mount_on_itself(step: &Path) -> rustix::io::Result<()> {
    insist(|| present(Held::itself(step))?.map_or(Ok(()), |held| held.cover(&held)))
}

/// Whether who runs this could put something else into a directory: it is writable, or could be made so.
pub(super) fn is_apps_to_change(directory: &Path) -> bool {
    /// Who a user namespace does not know (user_namespaces(7), overflowuid): nobody's files look like root's there.
    const NOBODY: u32 = 65534;
    let user = geteuid().as_raw();
    let Some(found) = directory.metadata().ok().filter(Metadata::is_dir) else { return false };
    user != NOBODY && found.uid() == user || accessat(CWD, directory, Access::WRITE_OK, AtFlags::empty()).is_ok()
}

/// Whether the app cannot remove what was found by that name: it is another user's, in a sticky directory, as /tmp is.
fn stays(name: &Path, found: &Metadata) -> bool {
    const STICKY: u32 = 0o1000;
    let user = geteuid().as_raw();
    let is_sticky = |found: Metadata| found.mode() & STICKY != 0 && found.uid() != user;
    found.uid() != user && name.parent().and_then(|parent| parent.metadata().ok()).is_some_and(is_sticky)
}

/// Whether the app could make a directory in what is there, or put one in its place.
fn is_apps_to_fill(above: &Path) -> bool {
    let is_to_replace = |place: &Path| {
        let stays = fs::symlink_metadata(place).is_ok_and(|found| stays(place, &found));
        !stays && place.parent().is_some_and(is_apps_to_change)
    };
    if above.is_dir() {
        return is_apps_to_change(above);
    }
    is_to_replace(above) || above.canonicalize().is_ok_and(|end| is_to_replace(&end))
}

/// Makes a directory that is to be hidden: where nothing is, nothing can be mounted.
///
/// # Errors
/// It can't be made now, and the app could make it later.
pub fn make(directory: &Path) -> Result<()> {
    let mut refused = None;
    let attempt = || {
        refused = None;
        if directory.exists() {
            return Ok(());
        }
        let Err(error) = DirBuilder::new().recursive(true).mode(0o700).create(directory) else { return Ok(()) };
        let there = fs::symlink_metadata(directory).ok();
        // Another user's in /tmp comes and goes as that one likes.
        let has_gone = error.kind() == ErrorKind::AlreadyExists && there.is_none();
        refused = Some((error, there));
        if has_gone { Err(Errno::NOENT) } else { Ok(()) }
    };
    // What is wrong is known better than that.
    let _ = insist(attempt);
    let Some((error, there)) = refused else { return Ok(()) };
    let above = directory.ancestors().skip(1).find(|above| above.exists());
    match error.kind() {
        ErrorKind::ReadOnlyFilesystem => Ok(()),
        // Hidden with the directory that its own user has closed, or another's.
        _ if directory.metadata().is_err_and(|error| error.kind() == ErrorKind::PermissionDenied) => Ok(()),
        _ if !above.is_some_and(is_apps_to_fill) || there.is_some_and(|found| stays(directory, &found)) => Ok(()),
        _ => bail!(
            "{0} cannot be made ({error}), and the program could make it later, for what is run outside to read: make it a directory of yours",
            directory.display()
        ),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_way_has_each_directory_and_each_link_that_could_be_replaced() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let at = |name: &str| place.join(name);
        fs::create_dir_all(at("dot/files/appfw")).unwrap();
        fs::create_dir(at("home")).unwrap();
        symlink("../dot/files", at("home/.config")).unwrap();
        symlink(at("home/.config/appfw"), at("home/own")).unwrap();
        let mut ways = Ways::default();
        let way = ways.to(&at("home/own")).unwrap();
        let below: Vec<_> = way.steps.iter().filter_map(|step| step.strip_prefix(&place).ok()).collect();
        let expected = ["", "home", "home/own", "", "home", "home/.config", "dot", "dot/files"];
        assert_eq!(below, expected.map(Path::new));
        assert_eq!(way.end, at("dot/files/appfw"));
        // What isn't there yet has its place as well.
        assert_eq!(ways.to(&at("home/.config/x/y")).unwrap().end, at("dot/files/x/y"));
        symlink("loop", at("loop")).unwrap();
        assert!(ways.to(&at("loop")).is_none());
    }

    #[test]
    fn a_way_ends_with_a_link_at_a_name_that_anybody_can_have_if_that_is_another_users() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let at = |name: &str| place.join(name);
        for name in ["ssh-own", "ssh-anothers", "other"] {
            symlink("/usr", at(name)).unwrap();
        }
        // Only root gives something away.
        let is_given = std::os::unix::fs::lchown(at("ssh-anothers"), Some(4242), None).is_ok();
        let mut ways = Ways::default();
        ways.distrust(&[at("ssh-")]);
        assert_eq!(ways.to(&at("ssh-own")).unwrap().end, Path::new("/usr"));
        assert_eq!(ways.to(&at("other")).unwrap().end, Path::new("/usr"));
        assert_eq!(ways.to(&at("ssh-anothers")).unwrap().end == at("ssh-anothers"), is_given);
    }

    #[test]
    fn a_directory_is_made_or_it_is_said_that_the_program_could() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        make(&at("a/b")).unwrap();
        assert_eq!(at("a/b").metadata().unwrap().mode() & 0o777, 0o700);
        make(&at("a/b")).unwrap();
        symlink("nowhere", at("link")).unwrap();
        let message = make(&at("link")).unwrap_err().to_string();
        assert!(message.contains("link cannot be made (File exists"), "{message}");
        // A file of the app's could make way for one.
        fs::write(at("file"), "").unwrap();
        let message = make(&at("file/below")).unwrap_err().to_string();
        assert!(message.contains("file/below cannot be made (Not a directory"), "{message}");
    }
}
