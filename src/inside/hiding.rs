//! Puts something unusable over what the app is not to use.

use std::fs::{self, DirBuilder, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::mount_bind;
use rustix::process::geteuid;

use super::pinned::Ways;
use super::table::Table;
use crate::view::View;

/// Sessions' sockets that are hidden one by one: far more than sessions, fewer than mounts cost time.
const MAX_SESSIONS: usize = 4096;

/// What is not to be seen.
#[derive(Debug, PartialEq, Eq)]
pub struct Places {
    /// To be hidden one by one.
    pub hidden: Vec<PathBuf>,
    /// Directories of which nothing is to be seen, as somebody has filled them with more than can be hidden so.
    pub covered: Vec<PathBuf>,
}

/// The places to hide. Asked for before anything is covered: a link in what is sealed is not seen
/// afterwards, and what it leads to would stay.
#[must_use]
pub fn places(view: &View, table: &Table, ways: &mut Ways) -> Places {
    let mut named = view.hidden.clone();
    let mut covered = Vec::new();
    let mut directories: Vec<_> = view.sessions.iter().filter_map(|stem| stem.parent()).collect();
    directories.dedup();
    for directory in directories {
        let stems = view.sessions.iter().filter(|stem| stem.parent() == Some(directory));
        let stems: Vec<_> = stems.filter_map(|stem| stem.file_name()?.to_str()).collect();
        for directory in elsewhere(directory, table, ways).into_iter().chain([directory.to_owned()]) {
            let found = sessions(&directory, &stems);
            if found.len() > MAX_SESSIONS {
                covered.push(directory);
            } else {
                named.extend(found);
            }
        }
    }
    named.extend(view.sessions.iter().flat_map(|stem| table.elsewhere_called(stem)));
    let is_socket = |path: &&PathBuf| path.metadata().is_ok_and(|found| found.file_type().is_socket());
    named.extend(view.sockets.iter().filter(is_socket).cloned());
    named.extend(view.made.iter().cloned());
    // In what anybody may have made there is no link that launches follow.
    let read = view.made.iter().filter(|directory| !is_anybodys(directory, view));
    read.for_each(|directory| links(directory, DEPTH, &mut named));
    named.retain(|path| !misleads(path, view));
    let again: Vec<PathBuf> = named.iter().chain(&view.empty).flat_map(|path| elsewhere(path, table, ways)).collect();
    // What is made empty anyway shows nothing, and is not to be closed: ProtectHome= has a node of /run/systemd there.
    named.extend(again.into_iter().filter(|seen| !view.empty.iter().any(|empty| seen.starts_with(empty))));
    let behind: Vec<PathBuf> = named.iter().chain(&view.empty).filter_map(|path| behind(path, ways)).collect();
    Places { hidden: named.into_iter().chain(behind).collect(), covered }
}

/// Where else what `path` leads to is seen, by further mounts of its file system, as far as it is there. Containers mask
/// files by /dev/null, which is not to be hidden with them.
#[must_use]
pub fn elsewhere(path: &Path, table: &Table, ways: &mut Ways) -> Vec<PathBuf> {
    let mut found = ways.to(path).map(|way| table.elsewhere(&way.end)).unwrap_or_default();
    found.retain(|seen| match seen.metadata() {
        Ok(there) => !there.file_type().is_char_device(),
        Err(error) => error.kind() == ErrorKind::PermissionDenied,
    });
    found
}

/// `profiles/NAME.toml` is as deep as there is something that is read.
const DEPTH: usize = 2;

/// Links in a directory to files elsewhere, as who keeps their configuration in a repository has them.
fn links(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().take(MAX_SESSIONS);
    for path in entries.map(|entry| entry.path()) {
        // One that leads up would hide all that is there.
        let leads_up =
            || directory.canonicalize().is_ok_and(|own| path.canonicalize().is_ok_and(|to| own.starts_with(to)));
        if path.is_symlink() && !leads_up() {
            found.push(path.clone());
        }
        if depth > 1 {
            links(&path, depth - 1, found);
        }
    }
}

/// What `path` leads to by links, if it is another place. A way that ends at a directory which the app's own
/// user has closed, and could open again, is followed up to there by its names.
fn behind(path: &Path, ways: &mut Ways) -> Option<PathBuf> {
    ways.to(path).map(|way| &way.end).filter(|end| *end != path).cloned()
}

/// What is called one of `stems` and a word, in `directory`, which anybody may have filled: sockets, and what may hold
/// or lead to some. What belongs to another ordinary user is none that this one can use; and a link of somebody
/// else's could make root's app miss anything that it leads to.
fn sessions(directory: &Path, stems: &[&str]) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let own = geteuid();
    let is_one = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| stems.iter().find_map(|stem| name.strip_prefix(stem)));
        let is_our_concern = |found: Metadata| {
            let is_anybodys = own.is_root() && !found.file_type().is_symlink();
            let is_ours = is_anybodys || found.uid() == 0 || found.uid() == own.as_raw();
            is_ours && !found.is_file()
        };
        rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_alphanumeric()))
            && entry.metadata().is_ok_and(is_our_concern)
    };
    entries.flatten().filter(is_one).map(|entry| entry.path()).collect()
}

/// Whether anybody can have a thing of that name: it is called as sessions' sockets are.
fn is_anybodys(path: &Path, view: &View) -> bool {
    let begins_so = |stem: &PathBuf| path.as_os_str().as_bytes().starts_with(stem.as_os_str().as_bytes());
    view.sessions.iter().any(|stem| begins_so(stem) && path.parent() == stem.parent())
}

/// Whether `path` is another user's link at such a name: it leads to nothing of ours, and the app would miss whatever it
/// does lead to.
fn misleads(path: &Path, view: &View) -> bool {
    let is_anothers = |found: Metadata| found.uid() != 0 && found.uid() != geteuid().as_raw();
    let is_anothers_link = |found: Metadata| found.is_symlink() && is_anothers(found);
    is_anybodys(path, view) && fs::symlink_metadata(path).is_ok_and(is_anothers_link)
}

/// Mounts an empty file or an empty directory, with no mode, over each of the places that is there.
/// They are made in what is sealed, a directory of the app's.
///
/// # Errors
/// One of them can't be hidden.
pub fn hide(places: &[PathBuf], view: &View) -> Result<()> {
    let (file, directory) = (view.sealed.join("hidden-file"), view.sealed.join("hidden-directory"));
    let failed = "cannot make what hides files";
    OpenOptions::new().write(true).create_new(true).mode(0o000).open(&file).context(failed)?;
    DirBuilder::new().mode(0o000).create(&directory).context(failed)?;
    fs::set_permissions(&directory, Permissions::from_mode(0o000)).context(failed)?;
    let identity = |found: &Metadata| (found.dev(), found.ino());
    let ours = [identity(&file.metadata().context(failed)?), identity(&directory.metadata().context(failed)?)];
    // Asked again: its owner can exchange a directory for a link at any time.
    for place in places.iter().filter(|place| !misleads(place, view)) {
        let failed = || format!("cannot hide {}", place.display());
        // What is hidden already, by another name or with the directory it lies in, must not be so twice:
        // a mount on a mount is one on what was mounted, which then could not be removed.
        if let Some((place, found)) = seen(place).with_context(failed)?
            && !ours.contains(&identity(&found))
            && !is_empty(place, &found, view)
        {
            mount_bind(if found.is_dir() { &directory } else { &file }, place).with_context(failed)?;
        }
    }
    fs::remove_file(&file).and_then(|()| fs::remove_dir(&directory)).context(failed)
}

/// Whether it is, by another name, a directory that holds nothing of the host's: the app's own one may be there, as for
/// who calls their runtime directory /var/run/user/UID.
fn is_empty(place: &Path, found: &Metadata, view: &View) -> bool {
    let is_below = |end: PathBuf| view.empty.iter().any(|empty| end.starts_with(empty));
    found.is_dir() && place.canonicalize().is_ok_and(is_below)
}

/// What there is to hide for `place`: itself; or, where a directory of the app's own user bars the
/// way, that directory, as the app could open it. `None` where nothing is there, or to be reached.
fn seen(place: &Path) -> io::Result<Option<(&Path, Metadata)>> {
    let error = match fs::metadata(place) {
        Ok(found) => return Ok(Some((place, found))),
        Err(error) => error,
    };
    if error.raw_os_error() == Some(nix::libc::ELOOP) {
        return Ok(None);
    }
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::NotADirectory => Ok(None),
        ErrorKind::PermissionDenied => {
            let bars = place.ancestors().skip(1).find_map(|path| Some((path, fs::metadata(path).ok()?)));
            Ok(bars.filter(|(_, found)| found.uid() == geteuid().as_raw()))
        }
        _ => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn what_is_made_empty_is_not_hidden_as_a_second_place_of_something() {
        let place = tempfile::tempdir().unwrap();
        let at = place.path().canonicalize().unwrap();
        let lines = format!("1 0 0:9 / / rw - tmpfs x rw\n2 1 0:9 /gone {} rw - tmpfs x rw\n", at.display());
        let table = Table::of(lines.as_bytes());
        let mut view = View { empty: vec!["/gone".into()], ..View::default() };
        assert_eq!(places(&view, &table, &mut Ways::default()).hidden, std::slice::from_ref(&at));
        view.empty.push(at);
        assert!(places(&view, &table, &mut Ways::default()).hidden.is_empty());
    }

    #[test]
    fn links_are_hidden_with_what_they_lead_to() {
        let place = tempfile::tempdir().unwrap();
        let (link, socket, other) = (place.path().join("link"), place.path().join("socket"), place.path().join("file"));
        let _listener = UnixListener::bind(&socket).unwrap();
        fs::write(&other, "").unwrap();
        symlink(&socket, &link).unwrap();
        let view = View { hidden: vec![link.clone()], sockets: vec![socket.clone(), other], ..View::default() };
        let real = socket.canonicalize().unwrap();
        assert_eq!(places(&view, &Table::default(), &mut Ways::default()).hidden, [link, socket, real]);
    }

    #[test]
    fn what_is_linked_into_a_directory_of_ours_is_hidden_where_it_is() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let at = |name: &str| place.join(name);
        fs::create_dir_all(at("dot/profiles")).unwrap();
        fs::create_dir(at("appfw")).unwrap();
        for (link, to) in [("appfw/config.toml", "dot/a"), ("appfw/profiles", "dot/profiles"), ("appfw/up", "")] {
            symlink(at(to), at(link)).unwrap();
        }
        fs::write(at("dot/a"), "").unwrap();
        fs::write(at("dot/b"), "").unwrap();
        symlink(at("dot/b"), at("dot/profiles/ssh.toml")).unwrap();
        let hidden =
            places(&View { made: vec![at("appfw")], ..View::default() }, &Table::default(), &mut Ways::default())
                .hidden;
        for path in ["appfw", "dot/a", "dot/b", "dot/profiles"] {
            assert!(hidden.contains(&at(path)), "{path}: {hidden:?}");
        }
        assert!(!hidden.contains(&place));
    }

    #[test]
    fn a_way_through_a_closed_directory_is_followed_by_its_names() {
        // Only who isn't root is kept out: the lab's tests show that; here the names.
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("closed/deep")).unwrap();
        symlink("closed/deep/../socket", at("link")).unwrap();
        symlink(at("link"), at("second")).unwrap();
        fs::write(at("closed/socket"), "").unwrap();
        for name in ["link", "second"] {
            assert_eq!(behind(&at(name), &mut Ways::default()).unwrap(), at("closed/socket").canonicalize().unwrap());
        }
        assert_eq!(behind(&at("closed/socket").canonicalize().unwrap(), &mut Ways::default()), None);
        assert_eq!(behind(&at("absent"), &mut Ways::default()), None);
    }

    #[test]
    fn sessions_are_found_by_their_names() {
        let place = tempfile::tempdir().unwrap();
        for name in ["ssh-aB9", "ssh-", "ssh-a.b", "tmux-0", "other"] {
            fs::create_dir(place.path().join(name)).unwrap();
        }
        fs::write(place.path().join("ssh-file"), "").unwrap();
        let view = View { sessions: vec![place.path().join("ssh-")], ..View::default() };
        let mut found = places(&view, &Table::default(), &mut Ways::default()).hidden;
        found.sort();
        assert_eq!(found, [place.path().join("ssh-"), place.path().join("ssh-aB9")]);
    }

    #[test]
    fn a_directory_with_more_than_can_be_hidden_is_not_seen_at_all() {
        let place = tempfile::tempdir().unwrap();
        for number in 0..=MAX_SESSIONS {
            fs::create_dir(place.path().join(format!("ssh-{number}"))).unwrap();
        }
        let view = View { sessions: vec![place.path().join("ssh-")], ..View::default() };
        let expected = Places { hidden: Vec::new(), covered: vec![place.path().to_owned()] };
        assert_eq!(places(&view, &Table::default(), &mut Ways::default()), expected);
    }

    #[test]
    fn what_bars_the_way_and_is_the_users_own_is_hidden_itself() {
        let place = tempfile::tempdir().unwrap();
        assert!(seen(&place.path().join("absent/socket")).unwrap().is_none());
        let there = place.path().join("there");
        fs::write(&there, "").unwrap();
        assert_eq!(seen(&there).unwrap().unwrap().0, there);
        assert!(seen(&there.join("below")).unwrap().is_none());
    }
}
