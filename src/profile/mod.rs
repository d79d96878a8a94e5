//! What `appfw-run firefox` knows of firefox: profiles and the configuration, which complete a command line, key by
//! key. Higher places come first: the command line, the profile's files, then each `config.toml`.

mod applied;
mod fixed;
mod keys;
pub mod manage;
mod origin;
mod places;
mod plain;
mod sheet;
mod shipped;
pub(crate) mod vias;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::browser::{self, Surroundings};
use crate::cli::{Given, LaunchArgs};
use crate::host::Host;
use crate::nearest::nearest;
use crate::plan::Supervisor;

pub use applied::Applied;
pub use origin::{Mistake, Origin, Source};
pub use places::Places;
pub use sheet::{Entry, Sheet, Value};

const MAX_NAME: usize = 64;

/// A profile: its files, the highest first.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name.
    pub name: String,
    /// The files of that name.
    pub sheets: Vec<Sheet>,
}

impl Profile {
    /// Its keys, merged.
    #[must_use]
    pub fn entries(&self) -> BTreeMap<String, Entry> {
        keys::merged(self.sheets.iter().flat_map(|sheet| &sheet.entries))
    }

    /// The commands that it is for, and in which file that stands.
    fn commands(&self) -> Option<(Vec<String>, usize)> {
        let place = self.sheets.iter().position(|sheet| sheet.entries.contains_key("commands"))?;
        match &self.sheets[place].entries["commands"].value {
            Value::Words(commands) => Some((commands.clone(), place)),
            _ => None,
        }
    }
}

/// Completes a command line by what profiles and the configuration say; says what was taken of them.
///
/// # Errors
/// A file is wrong, or could have been changed by others; no profile has that name; several are for the command; what
/// they add would open a network where none is asked for.
pub fn complete(args: &LaunchArgs, root: &Path, host: &Host) -> Result<(LaunchArgs, Applied)> {
    complete_without(args, root, host, &|_, _| false)
}

/// As [`complete`], for a command other than a launch: it knows nothing of some keys, which are left out. Its own command
/// line is refused what it doesn't know.
///
/// # Errors
/// Those of [`complete`].
pub fn complete_without(
    args: &LaunchArgs,
    root: &Path,
    host: &Host,
    is_unknown: &dyn Fn(&str, &Value) -> bool,
) -> Result<(LaunchArgs, Applied)> {
    let places = Places::of(root, host);
    let configuration = sound(places.configuration())?;
    let profile = match (&args.profile, args.no_profile) {
        (Some(name), _) => Some(named(name, &places)?),
        (None, true) => None,
        (None, false) => of_command(&args.command, &places, host)?,
    };
    let (completed, applied) = filled(args, profile.as_ref(), &configuration, root, host, is_unknown)?;
    refuse_opened(&completed, profile.as_ref(), &configuration, &applied, host)?;
    Ok((completed, applied))
}

/// A command line with what these files add to it.
fn filled(
    args: &LaunchArgs,
    profile: Option<&Profile>,
    configuration: &[Sheet],
    root: &Path,
    host: &Host,
    is_unknown: &dyn Fn(&str, &Value) -> bool,
) -> Result<(LaunchArgs, Applied)> {
    let sheets = profile.iter().flat_map(|profile| &profile.sheets);
    let mut taken = keys::merged(sheets.clone().chain(configuration).flat_map(|sheet| &sheet.entries));
    // What is compiled in gives way to rules that need another wall.
    let by_rules = ["allow", "deny"].iter().any(|rule| taken.contains_key(*rule) || args.given.get(rule).is_some());
    taken.retain(|key, entry| is_taken(key, &args.given) && !(by_rules && key == "wall" && entry.is_built_in()));
    let (left_out, taken) = taken.into_iter().partition(|(key, entry)| is_unknown(key, &entry.value));
    let sources = sheets.map(|sheet| (*sheet.source).clone()).collect();
    let mut applied = Applied { profile: profile.map(|profile| profile.name.clone()), sources, taken, left_out };
    let mut completed = parse(args, &applied.taken)?;
    let resolved = vias::resolve(&completed.via, &vias::merged(configuration), root, host);
    completed.via = resolved.map_err(|error| applied.explain(error))?;
    if completed.via == ["none"] {
        applied.taken.retain(|key, _| keys::is_given(key, &args.given) || !plain::is_moot(key, &completed));
        completed = LaunchArgs { via: completed.via, ..parse(args, &applied.taken)? };
    }
    completed.profile = applied.profile.clone();
    Ok((completed, applied))
}

/// # Errors
/// A lower place's rules would open a network where none is asked for.
fn refuse_opened(
    completed: &LaunchArgs,
    profile: Option<&Profile>,
    configuration: &[Sheet],
    applied: &Applied,
    host: &Host,
) -> Result<()> {
    let is_by_rules = Supervisor::choose(completed, host).is_ok_and(|by| by == Supervisor::System);
    if completed.via != ["none"] || !is_by_rules {
        return Ok(());
    }
    let sheets: Vec<&Sheet> = profile.iter().flat_map(|profile| &profile.sheets).chain(configuration).collect();
    plain::refuse_opened(completed, &sheets, applied)
}

/// Whether a key completes a command line.
fn is_taken(key: &str, given: &Given) -> bool {
    !keys::options(key).is_empty() && (keys::adds_up(key) || !keys::is_given(key, given))
}

/// The command line with what was taken, by the parser that it came from itself.
fn parse(args: &LaunchArgs, taken: &BTreeMap<String, Entry>) -> Result<LaunchArgs> {
    // The parser of all options is built for nothing else, at each launch.
    if taken.is_empty() {
        return Ok(args.clone());
    }
    let mut words = vec![OsString::from("appfw-run")];
    for (option, values) in &args.given.0 {
        if values.is_empty() {
            words.push(format!("--{option}").into());
        }
        for value in values {
            let mut word = OsString::from(format!("--{option}="));
            word.push(value);
            words.push(word);
        }
    }
    words.extend(taken.iter().flat_map(|(key, entry)| keys::words(key, &entry.value)).map(OsString::from));
    words.push("--".into());
    words.extend(args.command.iter().cloned());
    let parsed = LaunchArgs::try_parse_from(words).context("what the configuration adds is no command line")?;
    Ok(LaunchArgs { given: args.given.clone(), ..parsed })
}

/// The profile of that name.
fn named(name: &str, places: &Places) -> Result<Profile> {
    // The name becomes part of a path.
    let sheets = if is_profile_name(name) { sound(places.profile(name))? } else { Vec::new() };
    if !sheets.is_empty() {
        return Ok(Profile { name: name.to_owned(), sheets });
    }
    let (names, _) = places.names();
    match nearest(name, names.iter().map(String::as_str)) {
        Some(near) => bail!("there is no profile {name:?}; did you mean {near}? appfw profile list shows all"),
        None => bail!("there is no profile {name:?}; appfw profile list shows those that there are"),
    }
}

/// The profile for a command: by the name that it is called by, else by that of the file that this leads to.
fn of_command(command: &[OsString], places: &Places, host: &Host) -> Result<Option<Profile>> {
    let names = names_of(command, host);
    let profiles = all(&names, places)?;
    for name in names {
        if let Some(chosen) = chosen(&name, &profiles, places)? {
            return Ok(Some(Profile { name: chosen.name.clone(), sheets: sound(chosen.sheets.clone())? }));
        }
    }
    Ok(None)
}

/// The profile for what is called so.
fn chosen<'a>(name: &str, profiles: &'a [Profile], places: &Places) -> Result<Option<&'a Profile>> {
    // The highest place that has one decides.
    let mut candidates = Vec::new();
    for profile in profiles {
        if let Some((commands, place)) = profile.commands()
            && commands.iter().any(|command| command == name)
        {
            candidates.push((places.rank(&profile.sheets[place].source), profile));
        }
    }
    let Some(highest) = candidates.iter().map(|(rank, _)| *rank).min() else { return Ok(None) };
    candidates.retain(|(rank, _)| *rank == highest);
    let candidates: Vec<&Profile> = candidates.into_iter().map(|(_, profile)| profile).collect();
    if let [only] = candidates[..] {
        return Ok(Some(only));
    }
    match candidates.iter().find(|profile| profile.name == name) {
        Some(namesake) => Ok(Some(*namesake)),
        None => {
            let names: Vec<&str> = candidates.iter().map(|profile| profile.name.as_str()).collect();
            bail!(
                "the profiles {} are all for {name}; choose one by --profile, or take {name} out of the commands of the others",
                names.join(" and ")
            )
        }
    }
}

/// Every profile, but for those built in that no file changes and that are for none of the `commands`: each launch would
/// read them all. What is wrong within one is for whoever uses it, but one whose commands can't be told may be meant.
fn all(commands: &[String], places: &Places) -> Result<Vec<Profile>> {
    let (mut names, nameless) = places.names_of_files();
    names.extend(commands.iter().flat_map(|command| shipped::that_name(command)).map(str::to_owned));
    let named = names.into_iter().map(|name| (places.profile(&name), name));
    let file_name = |sheet: Sheet| (vec![sheet.clone()], sheet.source.to_string());
    let profile = |(sheets, name): (Vec<Sheet>, String)| {
        let unclear = |sheet: &&Sheet| !sheet.mistakes.is_empty() && !sheet.tells_commands;
        match sheets.iter().find(unclear) {
            Some(sheet) => Err(complaint(sheet)
                .context("a profile cannot be read, and may be for this command; correct it, or say --no-profile")),
            None => Ok(Profile { name, sheets }),
        }
    };
    named.chain(nameless.into_iter().map(file_name)).map(profile).collect()
}

/// What a command may be called by in profiles: its own name, and that of the file which it leads to by root's links.
fn names_of(command: &[OsString], host: &Host) -> Vec<String> {
    let Some(word) = command.first() else { return Vec::new() };
    let file_name = |path: &Path| path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
    let directory = host.directory.clone().unwrap_or_else(|| "/".into());
    let surroundings = Surroundings { environment: host.environment.clone(), directory };
    let real = browser::find(word, &surroundings).and_then(|path| fixed::leads_to(&path));
    let names = [file_name(Path::new(word)), real.as_deref().and_then(file_name)];
    names.into_iter().flatten().collect()
}

/// Files in which nothing is wrong.
fn sound(sheets: Vec<Sheet>) -> Result<Vec<Sheet>> {
    match sheets.iter().find(|sheet| !sheet.mistakes.is_empty()) {
        Some(sheet) => Err(complaint(sheet)),
        None => Ok(sheets),
    }
}

fn complaint(sheet: &Sheet) -> anyhow::Error {
    let first = sheet.mistakes.first().map(ToString::to_string).unwrap_or_default();
    match sheet.mistakes.len().saturating_sub(1) {
        0 => anyhow::anyhow!("{first}"),
        more => anyhow::anyhow!("{first} (and {more} more: appfw profile check)"),
    }
}

/// Whether a profile can be called so.
fn is_profile_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.len() <= MAX_NAME && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(allowed)
}

#[cfg(test)]
mod tests;
