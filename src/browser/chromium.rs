//! Chromium and its kin: the socket in the user data directory tells of an instance
//! (chrome/browser/process_singleton_posix.cc). Whoever answers there gets the command line.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::program::Program;
use super::{Instance, Surroundings};

/// User data directories below ~/.config by the directory or the name of the program, the longest first.
const DIRECTORIES: [(&str, &str); 17] = [
    ("google/chrome-beta", "google-chrome-beta"),
    ("google/chrome-unstable", "google-chrome-unstable"),
    ("google/chrome", "google-chrome"),
    ("brave.com/brave-beta", "BraveSoftware/Brave-Browser-Beta"),
    ("brave.com/brave-nightly", "BraveSoftware/Brave-Browser-Nightly"),
    ("brave.com/brave", "BraveSoftware/Brave-Browser"),
    ("microsoft/msedge-beta", "microsoft-edge-beta"),
    ("microsoft/msedge-dev", "microsoft-edge-dev"),
    ("microsoft/msedge", "microsoft-edge"),
    ("vivaldi-snapshot", "vivaldi-snapshot"),
    ("vivaldi", "vivaldi"),
    ("opera-beta", "opera-beta"),
    ("opera", "opera"),
    ("yandex/browser-beta", "yandex-browser-beta"),
    ("yandex/browser", "yandex-browser"),
    ("chromium-browser", "chromium"),
    ("chromium", "chromium"),
];

/// The instance that answers in the program's user data directory.
pub(super) fn running(program: &Program, surroundings: &Surroundings) -> Option<Instance> {
    holder(&data_directory(program, surroundings)?)
}

/// The directory that the program is told to use, else its own.
fn data_directory(program: &Program, surroundings: &Surroundings) -> Option<PathBuf> {
    if let Some(told) = program.switch("user-data-dir").or_else(|| surroundings.variable("CHROME_USER_DATA_DIR")) {
        return Some(surroundings.directory.join(told));
    }
    // Without a window it makes a directory for each run (seen with 156).
    if program.switch("headless").is_some() || program.switch("temp-profile").is_some() {
        return None;
    }
    let base = match surroundings.variable("CHROME_CONFIG_HOME") {
        Some(base) => base.into(),
        None => surroundings.base_directory("XDG_CONFIG_HOME", ".config"),
    };
    let directory = program.file.parent()?;
    let known = DIRECTORIES.iter().find(|(place, _)| directory.ends_with(place));
    Some(match known {
        Some((_, name)) => base.join(name),
        None => base.join(program.file.file_name()?),
    })
}

/// Who answers at a user data directory's socket. A lock whose process has gone, or whose number another one
/// has, is none: nobody answers.
pub(super) fn holder(directory: &Path) -> Option<Instance> {
    if !answers(&directory.join("SingletonSocket")) {
        return None;
    }
    // "HOST-PID"
    let lock = fs::read_link(directory.join("SingletonLock")).ok();
    let process = lock.as_ref().and_then(|lock| lock.to_str()?.rsplit_once('-')?.1.parse().ok());
    Some(Instance { process, profile: directory.to_owned() })
}

/// Whether somebody listens at a socket.
pub(super) fn answers(socket: &Path) -> bool {
    // The link is what keeps the path short enough for an address.
    let Ok(address) = socket.canonicalize().and_then(|path| Ok(SocketAddrUnix::new(path)?)) else { return false };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let Ok(own) = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None) else { return false };
    // A full queue has somebody who listens, if slowly.
    matches!(connect(&own, &address), Ok(()) | Err(Errno::AGAIN))
}
