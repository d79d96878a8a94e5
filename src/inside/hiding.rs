//! Puts something unusable over what the app is not to use.

use std::fs::{self, DirBuilder, OpenOptions, Permissions};
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::geteuid;

use super::held::{Found, Held, insist};
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
    ways.distrust(&view.sessions);
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
    let read = view.made.iter().filter(|directory| !is_anybodys(directory, &view.sessions));
    read.for_each(|directory| links(directory, DEPTH, &mut named));
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
    let is_root = geteuid().is_root();
    let is_our_concern = |found: &Found| match found.kind() {
        FileType::RegularFile => false,
        FileType::Symlink => found.is_trusted(),
        _ => is_root || found.is_trusted(),
    };
    let is_one = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        let rest = name.to_str().and_then(|name| stems.iter().find_map(|stem| name.strip_prefix(stem)));
        rest.is_some_and(|rest| rest.chars().all(|c| c.is_ascii_alphanumeric()))
            && Held::itself(&entry.path()).and_then(Held::look).is_ok_and(|(_, found)| is_our_concern(&found))
    };
    entries.flatten().filter(is_one).map(|entry| entry.path()).collect()
}

/// Whether anybody can have a thing of that name: it is called as the `sessions`' sockets are, in the directory where those
/// are, by whichever of its mounts.
pub fn is_anybodys(path: &Path, sessions: &[PathBuf]) -> bool {
    let number = |directory: &Path| directory.metadata().ok().map(|found| (found.dev(), found.ino()));
    let is_called_so = |stem: &Path| {
        let (Some(name), Some(stem)) = (path.file_name(), stem.file_name()) else { return false };
        name.as_bytes().starts_with(stem.as_bytes())
    };
    let is_there = |stem: &Path| {
        let (Some(here), Some(there)) = (path.parent(), stem.parent()) else { return false };
        here == there || number(here).is_some_and(|here| number(there) == Some(here))
    };
    sessions.iter().any(|stem| is_called_so(stem) && is_there(stem))
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
    let held = |path| Held::itself(path).and_then(Held::look).context(failed);
    let ((over_file, one), (over_directory, other)) = (held(&file)?, held(&directory)?);
    let ours = [one.identity(), other.identity()];
    let hide_one = |place: &Path| {
        let Some((place, held, found)) = seen(place, view)? else { return Ok(()) };
        let is_directory = found.kind().is_dir();
        // What is hidden already, by another name or with the directory it lies in, must not be so twice:
        // a mount on a mount is one on what was mounted, which then could not be removed.
        if ours.contains(&found.identity()) || is_directory && is_empty(place, view) {
            return Ok(());
        }
        held.cover(if is_directory { &over_directory } else { &over_file })
    };
    for place in places {
        insist(|| hide_one(place)).with_context(|| format!("cannot hide {}", place.display()))?;
    }
    fs::remove_file(&file).and_then(|()| fs::remove_dir(&directory)).context(failed)
}

/// Whether it is, by another name, a directory that holds nothing of the host's: the app's own one may be there, as for
/// who calls their runtime directory /var/run/user/UID.
fn is_empty(place: &Path, view: &View) -> bool {
    let is_below = |end: PathBuf| view.empty.iter().any(|empty| end.starts_with(empty));
    place.canonicalize().is_ok_and(is_below)
}

/// What there is to hide for `place`: itself; or, where a directory of the app's own user bars the
/// way, that directory, as the app could open it. `None` where nothing is there, or to be reached; and for a link at a
/// name that anybody can have, as what ours lead to is a place by itself.
fn seen<'a>(place: &'a Path, view: &View) -> rustix::io::Result<Option<(&'a Path, Held, Found)>> {
    let is_anybodys = is_anybodys(place, &view.sessions);
    let opened = if is_anybodys { Held::itself(place) } else { Held::followed(place) };
    // Another user's FUSE mount, which is not for this one to look at, bars no way.
    let is_anothers = is_anybodys && opened.is_ok();
    let error = match opened.and_then(Held::look) {
        Ok((held, found)) => {
            let is_to_hide = !found.kind().is_symlink();
            return Ok(is_to_hide.then_some((place, held, found)));
        }
        Err(error) => error,
    };
    let looked = |path| Held::followed(path).and_then(Held::look).map(|(held, found)| (path, held, found)).ok();
    let above = || place.ancestors().skip(1).find_map(looked);
    match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP => Ok(None),
        Errno::ACCESS | Errno::PERM if is_anothers => Ok(None),
        Errno::ACCESS | Errno::PERM => Ok(above().filter(|(_, _, found)| found.is_own())),
        // In a FUSE mount without its server, which may be mounted anew.
        Errno::NOTCONN => Ok(above()),
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
    fn names_of_sessions_are_anybodys_where_their_directory_is_seen_again() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("tmp")).unwrap();
        fs::create_dir(at("other")).unwrap();
        symlink("tmp", at("again")).unwrap();
        let sessions = [at("tmp/ssh-")];
        for (name, expected) in [("tmp/ssh-x", true), ("again/ssh-x", true), ("tmp/x", false), ("other/ssh-x", false)] {
            assert_eq!(is_anybodys(&at(name), &sessions), expected, "{name}");
        }
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
        let view = View::default();
        assert!(seen(&place.path().join("absent/socket"), &view).unwrap().is_none());
        let there = place.path().join("there");
        fs::write(&there, "").unwrap();
        assert_eq!(seen(&there, &view).unwrap().unwrap().0, there);
        assert!(seen(&there.join("below"), &view).unwrap().is_none());
    }
}
