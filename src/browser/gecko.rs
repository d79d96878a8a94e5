//! Firefox and its kin: the profile's lock tells of an instance (toolkit/profile/nsProfileLock.cpp).

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::program::Program;
use super::{Instance, Surroundings, read_ini};

/// Options after which nothing is handed over.
const APART: [&str; 2] = ["no-remote", "new-instance"];
/// Variables to the same effect, which Firefox sets for itself when it starts anew.
const APART_BY_ENVIRONMENT: [&str; 2] = ["MOZ_NO_REMOTE", "MOZ_NEW_INSTANCE"];

/// The instance that holds the profile which the program would use.
pub(super) fn running(program: &Program, surroundings: &Surroundings) -> Option<Instance> {
    let is_apart = APART.iter().any(|option| flag(program, option))
        || APART_BY_ENVIRONMENT.iter().any(|name| surroundings.variable(name).is_some());
    if is_apart {
        return None;
    }
    profiles(program, surroundings).into_iter().find_map(|profile| holder(&profile))
}

/// The profiles that may be the program's: the one it is told to use, else those that are the default of some
/// installation and were last used by this one.
fn profiles(program: &Program, surroundings: &Surroundings) -> Vec<PathBuf> {
    if let Some(directory) =
        option(program, "profile").or_else(|| surroundings.variable("XRE_PROFILE_PATH").map(OsStr::to_owned))
    {
        return vec![surroundings.directory.join(directory)];
    }
    let named = option(program, "p");
    let bases = data_directories(program, surroundings);
    let found = bases.iter().flat_map(|base| listed(base, named.as_deref()));
    found.filter(|profile| named.is_some() || is_of(profile, program)).collect()
}

/// Where a program keeps its profiles, from its application.ini (toolkit/xre/nsXREDirProvider.cpp): below
/// the home directory, or from Firefox 147 on where XDG's configuration is.
fn data_directories(program: &Program, surroundings: &Surroundings) -> Vec<PathBuf> {
    let entries = read_ini(&program.file.with_file_name("application.ini"));
    let get = |key: &str| {
        let found = entries.iter().find(|(section, found, _)| section == "App" && found == key);
        found.map(|(.., value)| value.to_lowercase()).filter(|value| !value.is_empty())
    };
    let own = get("Profile").or_else(|| {
        let name = get("Name")?;
        Some(get("Vendor").map_or_else(|| name.clone(), |vendor| format!("{vendor}/{name}")))
    });
    let Some(own) = own else { return Vec::new() };
    let configuration = surroundings.base_directory("XDG_CONFIG_HOME", ".config");
    vec![surroundings.home().join(format!(".{own}")), configuration.join(own)]
}

/// The profile called `named` in profiles.ini; without a name those that are somebody's default.
fn listed(base: &Path, named: Option<&OsStr>) -> Vec<PathBuf> {
    let entries = read_ini(&base.join("profiles.ini"));
    let is_default = |path: &str, section: &str| {
        entries.iter().any(|(at, key, value)| match key.as_str() {
            "Default" if at.starts_with("Install") => value == path,
            "Default" => at == section && value == "1",
            _ => false,
        })
    };
    let is_asked = |section: &str, path: &str| match named {
        Some(name) => entries.iter().any(|(at, key, value)| at == section && key == "Name" && name == value.as_str()),
        None => is_default(path, section),
    };
    let paths = entries.iter().filter(|(section, key, _)| key == "Path" && section.starts_with("Profile"));
    // A path that is not relative replaces the base.
    paths.filter(|(section, _, path)| is_asked(section, path)).map(|(.., path)| base.join(path)).collect()
}

/// Whether the installation that used the profile last is the program's, or none is known.
fn is_of(profile: &Path, program: &Program) -> bool {
    let entries = read_ini(&profile.join("compatibility.ini"));
    let last = entries.iter().find(|(_, key, _)| key == "LastPlatformDir");
    last.is_none_or(|(.., directory)| program.file.parent() == Some(Path::new(directory)))
}

/// Who holds a profile: by a record lock, which ends with its process; where the file system has none, by a
/// link that names a process.
pub(super) fn holder(profile: &Path) -> Option<Instance> {
    let instance = |process: Option<u32>| Instance { process, profile: profile.to_owned() };
    if let Some(process) = locked_by(&profile.join(".parentlock")) {
        return Some(instance(u32::try_from(process).ok().filter(|process| *process > 0)));
    }
    let link = fs::read_link(profile.join("lock")).ok()?;
    // "ADDRESS:PID"; a plus before the number says that there is a record lock as well.
    let (_, process) = link.to_str()?.rsplit_once(':')?;
    let process: u32 = process.starts_with(|c: char| c.is_ascii_digit()).then(|| process.parse().ok())??;
    Path::new("/proc").join(process.to_string()).exists().then(|| instance(Some(process)))
}

/// The process that would keep others from locking the file; 0 or less if it is not seen from here.
fn locked_by(file: &Path) -> Option<i32> {
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let opened = fs::OpenOptions::new().read(true).custom_flags(nonblocking).open(file).ok()?;
    // The whole file, as fcntl(2) has it.
    let mut lock =
        libc::flock { l_type: whence(libc::F_WRLCK), l_whence: whence(libc::SEEK_SET), l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&opened, FcntlArg::F_GETLK(&mut lock)).ok()?;
    (lock.l_type != whence(libc::F_UNLCK)).then_some(lock.l_pid)
}

fn whence(constant: i32) -> i16 {
    i16::try_from(constant).unwrap_or_default()
}

/// Whether an option is given: Firefox takes one or two dashes, in any case.
fn flag(program: &Program, name: &str) -> bool {
    program.arguments.iter().any(|word| option_name(word).is_some_and(|found| found.eq_ignore_ascii_case(name)))
}

/// The word after an option, the first one counts.
fn option(program: &Program, name: &str) -> Option<OsString> {
    let mut words = program.arguments.iter();
    words.find(|word| option_name(word).is_some_and(|found| found.eq_ignore_ascii_case(name)))?;
    words.next().cloned()
}

fn option_name(word: &OsStr) -> Option<&str> {
    let rest = word.as_bytes().strip_prefix(b"-")?;
    std::str::from_utf8(rest.strip_prefix(b"-").unwrap_or(rest)).ok()
}

/// The options that select a profile.
pub(super) fn selects_profile(program: &Program) -> Option<&'static str> {
    [("profile", "--profile"), ("p", "-P"), ("profilemanager", "--ProfileManager")]
        .into_iter()
        .find_map(|(name, written)| flag(program, name).then_some(written))
}
