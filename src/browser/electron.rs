//! Programs on Electron: Chromium's socket in a directory called as the program calls itself.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::chromium::{answers, holder};
use super::program::Program;
use super::{Instance, Surroundings, read};

/// Bounds on what is read of a program's archive, and on sockets looked at.
const MAX_HEADER: usize = 32 << 20;
const MAX_DESCRIPTION: usize = 1 << 20;
const MAX_ENTRIES: usize = 1024;

/// The instance that answers in one of the program's directories.
pub(super) fn running(program: &Program, surroundings: &Surroundings) -> Option<Instance> {
    let directories = match program.switch("user-data-dir") {
        Some(told) => vec![surroundings.directory.join(told)],
        None => {
            let base = surroundings.base_directory("XDG_CONFIG_HOME", ".config");
            names(program).into_iter().map(|name| base.join(name)).collect()
        }
    };
    directories.iter().find_map(|directory| holder(directory).or_else(|| editor(directory)))
}

/// VS Code and its kin have a socket of their own there, if they have no runtime directory.
fn editor(directory: &Path) -> Option<Instance> {
    let entries = fs::read_dir(directory).ok()?.take(MAX_ENTRIES).flatten().map(|entry| entry.path());
    let mut sockets = entries.filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
    sockets.any(|socket| answers(&socket)).then(|| Instance { process: None, profile: directory.to_owned() })
}

/// What the program may call itself: Electron takes `productName`, else `name` of its package.json; VS Code
/// has a product.json; some make it what their file is called.
pub(super) fn names(program: &Program) -> Vec<String> {
    let resources = program.file.with_file_name("resources");
    let description =
        |path: PathBuf| -> Option<Value> { serde_json::from_slice(&read(&path, MAX_DESCRIPTION as u64)?).ok() };
    let unpacked = ["app/product.json", "app/package.json"].map(|file| description(resources.join(file)));
    let packed = packed(&resources.join("app.asar"));
    let name = |description: Value| {
        let keys = ["nameShort", "productName", "name"];
        keys.iter().find_map(|key| description.get(key)?.as_str().map(str::to_owned))
    };
    let told = unpacked.into_iter().chain([packed]).flatten().filter_map(name);
    // A name is one directory, not a way to another one.
    told.chain([program.name()]).filter(|name| !name.contains('/') && name != "..").collect()
}

/// package.json of an asar archive (github.com/electron/asar, "Format"): four numbers, of which the second
/// is the header's length and the fourth that of its JSON, then the files.
fn packed(archive: &Path) -> Option<Value> {
    let numbers = read(archive, 16)?;
    let number = |at: usize| Some(u32::from_le_bytes(numbers.get(at..at + 4)?.try_into().ok()?) as usize);
    let (header, json) = (number(4)?, number(12)?);
    if json > header || header > MAX_HEADER {
        return None;
    }
    let bytes = read(archive, header as u64 + 8)?;
    let files: Value = serde_json::from_slice(bytes.get(16..16 + json)?).ok()?;
    let entry = files.get("files")?.get("package.json")?;
    let size = usize::try_from(entry.get("size")?.as_u64()?).ok().filter(|size| *size <= MAX_DESCRIPTION)?;
    let offset: u64 = entry.get("offset")?.as_str()?.parse().ok()?;
    serde_json::from_slice(&read_at(archive, header as u64 + 8 + offset, size)?).ok()
}

fn read_at(archive: &Path, offset: u64, size: usize) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let mut bytes = vec![0; size];
    fs::File::open(archive).ok()?.read_exact_at(&mut bytes, offset).ok()?;
    Some(bytes)
}
