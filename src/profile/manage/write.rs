//! Writing profiles. They are their user's files, so they carry no mark of ours and are never replaced.

use std::ffi::OsString;
use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::{Arg, ArgAction, CommandFactory, FromArgMatches};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::super::sheet::Kind;
use super::super::{Places, Profile, Sheet, Source, Value, is_profile_name, keys, shipped};
use super::check;
use crate::cli::{Given, LaunchArgs};
use crate::host::Host;
use crate::via::Via;
use crate::{exit, installed, say};

/// Has the user change a profile, and says what is wrong with it then.
pub(super) fn edit(name: &str, places: &Places, host: &mut Host) -> Result<String> {
    let path = own(name, places)?;
    let start = match shipped::text(name) {
        Some(text) => format!(
            "# Your profile {name}, which begins as a copy of the shipped one. A key that you take out is the shipped\n# one's again; docs/profiles.md has all keys.\n{text}"
        ),
        None => {
            format!("# Your profile {name}; docs/profiles.md has all keys.\ncommands = [\"{name}\"]\n# via = \"tor\"\n")
        }
    };
    let is_new = path.symlink_metadata().is_err();
    if is_new {
        create(&path, &start, host)?;
    }
    let edited = open_editor(&path, host);
    // A copy that says what is said anyway would only hide what later versions ship.
    if is_new && fs::read_to_string(&path).is_ok_and(|text| text == start) {
        let _ = fs::remove_file(&path);
        return edited.map(|()| "nothing was changed\n".to_owned());
    }
    edited.with_context(|| format!("{} stays as it is now", path.display()))?;
    let mistakes = check::mistakes(&[Profile { name: name.to_owned(), sheets: places.profile(name) }], places, host);
    for sentence in &mistakes {
        say::complaint("appfw", sentence);
    }
    let path = path.display();
    ensure!(mistakes.is_empty(), "{path} is saved, and wrong: correct it by appfw profile edit {name}");
    Ok(format!("{path} is saved\n"))
}

fn open_editor(path: &Path, host: &Host) -> Result<()> {
    let editor = ["VISUAL", "EDITOR"].iter().find_map(|name| host.variable(name)).map(ToOwned::to_owned);
    let editor = editor.unwrap_or_else(|| "vi".into());
    // The variables hold words for a shell: `code --wait`.
    let mut script = editor.clone();
    script.push(" \"$@\"");
    let status = Command::new("/bin/sh").arg("-c").arg(script).arg("appfw").arg(path).status();
    let status = status.context("cannot run the editor: set VISUAL or EDITOR")?;
    ensure!(
        status.code() != Some(exit::NOT_FOUND.into()),
        "there is no editor {} here: set VISUAL or EDITOR to one",
        editor.display()
    );
    ensure!(status.success(), "{} ended with {}", editor.display(), exit::Ended::from(status).code());
    Ok(())
}

/// Writes a profile from options; says where it is.
pub(super) fn new(name: &str, options: &[OsString], places: &Places, host: &Host) -> Result<String> {
    let path = own(name, places)?;
    let text = text(options)?;
    let private = mode(host) & 0o077 == 0;
    let sheet = Sheet::parse(Kind::Profile, Source::File(path.clone()), &text, private);
    if let Some(mistake) = sheet.mistakes.first() {
        bail!("{}", mistake.sentence);
    }
    create(&path, &text, host)?;
    for sentence in remarks(name, &sheet, places) {
        say::complaint("appfw", sentence);
    }
    Ok(format!("{}\n", path.display()))
}

/// What one may not have meant by a new profile.
fn remarks(name: &str, sheet: &Sheet, places: &Places) -> Vec<&'static str> {
    let entry = |key: &str| sheet.entries.get(key).map(|entry| &entry.value);
    let has_secret = match entry("via") {
        Some(Value::Words(specs)) => Via::parse(specs).is_ok_and(|via| via.has_secret()),
        _ => false,
    };
    let is_found = places.profile(name).iter().any(|sheet| sheet.entries.contains_key("commands"));
    let password = "warning: a password in --via is seen by everyone in the process list; keep the spec in a file of mode 0600 and write --via @FILE";
    let commands = "it is for no command, and --profile alone finds it: --command says which one it is for";
    [(has_secret, password), (!is_found, commands)]
        .into_iter()
        .filter(|(is_so, _)| *is_so)
        .map(|(_, said)| said)
        .collect()
}

fn text(options: &[OsString]) -> Result<String> {
    let command = LaunchArgs::command()
        .no_binary_name(true)
        .mut_arg("command", |arg| arg.required(false))
        .arg(Arg::new("commands").long("command").action(ArgAction::Append));
    let matches = command.try_get_matches_from(options).map_err(|error| {
        let sentence = error.to_string();
        anyhow::anyhow!("{}", sentence.lines().next().unwrap_or_default().trim_start_matches("error: "))
    })?;
    if let Some(word) = matches.get_raw("command").and_then(|mut words| words.next()) {
        bail!("{}: a profile takes options alone; say for which command it is by --command", word.display());
    }
    let commands: Vec<String> = matches.get_many("commands").into_iter().flatten().cloned().collect();
    let mut entries = keys::entries_of(&Given::from_arg_matches(&matches)?)?;
    if !commands.is_empty() {
        entries.insert(0, ("commands".to_owned(), Value::Words(commands)));
    }
    let lines: String = entries.iter().map(|(key, value)| format!("{key} = {value}\n")).collect();
    Ok(format!("# docs/profiles.md has all keys.\n{lines}"))
}

/// Where the caller's own file of a profile is.
fn own(name: &str, places: &Places) -> Result<PathBuf> {
    ensure!(
        is_profile_name(name),
        "{name:?} is no name of a profile: it takes 1 to 64 of A-Z a-z 0-9 _ . -, beginning with a letter or digit"
    );
    places.trust_own()?;
    Ok(places.own().join("profiles").join(format!("{name}.toml")))
}

/// What root writes is for every user of the machine.
fn mode(host: &Host) -> u32 {
    if host.caller.is_root() { 0o644 } else { 0o600 }
}

/// Makes a file, whole or not at all; never in another one's place.
fn create(path: &Path, text: &str, host: &Host) -> Result<()> {
    let failed = || format!("cannot write {}, so nothing was changed", path.display());
    let directory = path.parent().with_context(failed)?;
    let mut made = Vec::new();
    installed::make_directory(directory, &mut made)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let beside = directory.join(format!(".{name}.{:08x}.new", host.random));
    let written = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(Permissions::from_mode(mode(host)))?;
        file.sync_all()?;
        Ok(renameat_with(CWD, &beside, CWD, path, RenameFlags::NOREPLACE)?)
    };
    written().map_err(|error| {
        let _ = fs::remove_file(&beside);
        // Only what is empty goes.
        made.iter().rev().for_each(|directory| drop(fs::remove_dir(directory)));
        match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                anyhow::anyhow!(
                    "{} is there already: change it by appfw profile edit, or choose another name",
                    path.display()
                )
            }
            _ => anyhow::Error::new(error).context(failed()),
        }
    })
}
