//! `@FILE`: specifications with credentials, kept out of every command line.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{Mode, OFlags};

use super::Via;

/// For each hop two credentials of 255 bytes, each byte percent-encoded, and a host; some lines of comment.
const MAX_FILE: u64 = 16 * 1024;

/// Parses the values of all `--via` options, reading `@FILE`. `env` looks up an environment variable.
pub(super) fn load(specs: &[String], env: impl Fn(&str) -> Option<OsString>) -> Result<Via> {
    let trusted = env("CREDENTIALS_DIRECTORY").map(PathBuf::from);
    let read = |spec: &String| match spec.strip_prefix('@') {
        // A path becomes part of a unit file, which has no way to write these where it stands.
        Some(path) if path.chars().any(char::is_control) || path.ends_with(['\\', ' ']) => {
            bail!(
                "--via @{path:?}: a line break, or a backslash or blank at the end, is in no path that a unit can name"
            )
        }
        Some(path) => read_spec_file(Path::new(path), trusted.as_deref()),
        None => Ok(vec![spec.clone()]),
    };
    Via::parse(&specs.iter().map(read).collect::<Result<Vec<_>>>()?.concat())
}

/// Where a file is for whoever starts elsewhere, and as systemd writes it (path_simplify()), which takes no path with `..`:
/// what that leads to stands in its place.
///
/// # Errors
/// There is no such place.
pub fn plain(path: &Path) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let parts: Vec<Component<'_>> = absolute.components().collect();
    let above = parts.iter().rposition(|part| *part == Component::ParentDir).map_or(0, |last| last + 1);
    let (above, below) = parts.split_at(above);
    let mut place = if above.is_empty() { PathBuf::new() } else { above.iter().collect::<PathBuf>().canonicalize()? };
    place.extend(below);
    Ok(place)
}

/// Reads the specifications that `path` holds, one a line; lines that begin with `#` are comments.
///
/// The file must be a regular one that only its owner can read, the owner being the caller or root.
/// `credentials` is systemd's `$CREDENTIALS_DIRECTORY`, where files are protected by an ACL that
/// shows as group permissions (0440).
pub fn read_spec_file(path: &Path, credentials: Option<&Path>) -> Result<Vec<String>> {
    let shown = path.display();
    // Non-blocking, so that a FIFO put in its place cannot hold us up before it is refused.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => bail!("{shown} is a symbolic link: name the file itself"),
        Err(error) => return Err(error).with_context(|| format!("cannot open {shown} for --via")),
    };
    let metadata = file.metadata().with_context(|| format!("cannot examine {shown}"))?;
    ensure!(metadata.is_file(), "{shown} is not a regular file, as --via @FILE needs");
    if credentials.is_none_or(|directory| path.parent() != Some(directory)) {
        let owner = metadata.uid();
        ensure!(
            owner == 0 || owner == rustix::process::geteuid().as_raw(),
            "{shown} belongs to another user: --via @FILE takes only a file of yours or root's"
        );
        ensure!(metadata.mode() & 0o077 == 0, "{shown} can be read or changed by other users: chmod 600 {shown}");
    }
    let mut text = String::new();
    file.take(MAX_FILE + 1).read_to_string(&mut text).with_context(|| format!("cannot read {shown}"))?;
    ensure!(text.len() as u64 <= MAX_FILE, "{shown} is larger than a --via file can be ({MAX_FILE} bytes)");
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let specs: Vec<_> = lines.map(str::to_owned).collect();
    ensure!(!specs.is_empty(), "{shown} is empty: write a line into it, such as socks5h://USER:PASSWORD@HOST:PORT");
    Ok(specs)
}
