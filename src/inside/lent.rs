//! What is shown of the caller's session, and of the launch's own directory. An earlier program of the same user may have
//! been there, by which a link of its making would lead this one to what is kept from both: the session's bus, for one.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::io::Errno;

use super::held::Held;
use super::mounts::present;
use super::pinned::{Ways, is_apps_to_change};

/// A mount of the file at `source`; `None` if none is there, for this user, or if a link that the app's user could have made
/// leads to what is in one of the `unseen` places.
///
/// # Errors
/// It cannot be looked at.
pub fn file(source: &Path, unseen: &[&[PathBuf]], ways: &mut Ways) -> Result<Option<OwnedFd>> {
    let failed = || format!("cannot take {} along", source.display());
    // What is opened is judged, and no other thing that has come to be in its place.
    let looked = Held::followed(source).and_then(Held::look);
    let looked = if matches!(looked, Err(Errno::LOOP)) { Ok(None) } else { present(looked) };
    let Some((held, found)) = looked.with_context(failed)? else { return Ok(None) };
    if found.kind().is_dir() {
        return Ok(None);
    }
    let place = held.place().with_context(failed)?;
    let is_unseen = || unseen.iter().copied().flatten().any(|unseen| place.starts_with(unseen));
    if !leads_to(source, &place, ways) && is_unseen() {
        return Ok(None);
    }
    held.tree().map(Some).with_context(failed)
}

/// Whether `place` is where `source` is, by no link that the app's user could have made.
fn leads_to(source: &Path, place: &Path, ways: &mut Ways) -> bool {
    let Some(way) = ways.to(source) else { return false };
    let is_planted = |link: &PathBuf| link.parent().is_some_and(is_apps_to_change);
    way.end == place && !way.links.iter().any(is_planted)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_link_of_the_users_leads_to_nothing_that_is_kept_from_the_app() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let at = |name: &str| place.join(name);
        for directory in ["hidden/pulse", "seen", "runtime"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        let _sockets = ["hidden/bus", "hidden/pulse/native", "seen/wayland-0", "runtime/pipewire-0"]
            .map(|socket| UnixListener::bind(at(socket)).unwrap());
        for (link, to) in [("bus", "hidden/bus"), ("pulse", "hidden/pulse"), ("wayland-0", "seen/wayland-0")] {
            symlink(at(to), at("runtime").join(link)).unwrap();
        }
        let unseen = [at("hidden"), at("runtime")];
        // A mount takes privileges: without, what would be shown is refused by the kernel.
        let shown = |name: &str| !matches!(file(&at(name), &[&unseen], &mut Ways::default()), Ok(None));
        for name in ["hidden/bus", "hidden/pulse/native", "runtime/pipewire-0", "runtime/wayland-0"] {
            assert!(shown(name), "{name}");
        }
        for name in ["runtime/bus", "runtime/pulse/native", "runtime/none", "runtime"] {
            assert!(!shown(name), "{name}");
        }
    }

    #[test]
    fn what_was_exchanged_after_the_look_at_it_is_not_where_it_was() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        fs::write(place.join("bus"), "").unwrap();
        let mut ways = Ways::default();
        assert!(leads_to(&place.join("bus"), &place.join("bus"), &mut ways));
        assert!(!leads_to(&place.join("bus"), &place.join("other"), &mut ways));
        symlink(place.join("bus"), place.join("link")).unwrap();
        assert!(!leads_to(&place.join("link"), &place.join("bus"), &mut ways));
    }
}
