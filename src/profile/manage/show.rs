//! What there is, and what of it applies.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde_json::json;

use super::super::{Entry, Places, Profile, Value, is_profile_name, keys, named, of_command, sound};
use crate::host::Host;
use crate::nearest::nearest;
use crate::say::harmless;
use crate::via::Via;

/// Every profile, a line each.
pub(super) fn list(places: &Places, json: bool) -> Result<String> {
    let (names, unreadable) = places.names();
    let profiles: Vec<Profile> =
        names.into_iter().map(|name| Profile { sheets: places.profile(&name), name }).collect();
    if json {
        let all: Vec<_> = profiles.iter().map(described).collect();
        return Ok(serde_json::to_string_pretty(&all)? + "\n");
    }
    let rows: Vec<[String; 4]> = profiles.iter().map(row).collect();
    let mut text = String::new();
    let widths: [usize; 3] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default());
    for [name, commands, from, description] in &rows {
        let line = format!("{name:0$}  {commands:1$}  {from:2$}  {description}", widths[0], widths[1], widths[2]);
        text += &(line.trim_end().to_owned() + "\n");
    }
    for mistake in unreadable.iter().flat_map(|sheet| &sheet.mistakes) {
        text += &(harmless(&mistake.to_string()) + "\n");
    }
    Ok(text)
}

fn row(profile: &Profile) -> [String; 4] {
    /// A list of browsers would push the rest off the screen.
    const SHOWN: usize = 3;
    let commands = profile.commands().map(|(commands, _)| commands).unwrap_or_default();
    let rest = if commands.len() > SHOWN { ", …" } else { "" };
    let commands = commands.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ") + rest;
    let from = profile.sheets.first().map(|sheet| harmless(&sheet.source.to_string())).unwrap_or_default();
    let is_sound = profile.sheets.iter().all(|sheet| sheet.mistakes.is_empty());
    let description = if is_sound { text_of(profile, "description") } else { "wrong: appfw profile check".to_owned() };
    [profile.name.clone(), if commands.is_empty() { "-".to_owned() } else { commands }, from, description]
}

fn described(profile: &Profile) -> serde_json::Value {
    let mistakes: Vec<String> =
        profile.sheets.iter().flat_map(|sheet| &sheet.mistakes).map(ToString::to_string).collect();
    json!({
        "name": profile.name,
        "commands": profile.commands().map(|(commands, _)| commands).unwrap_or_default(),
        "description": text_of(profile, "description"),
        "from": profile.sheets.iter().map(|sheet| sheet.source.to_string()).collect::<Vec<_>>(),
        "mistakes": mistakes,
    })
}

fn text_of(profile: &Profile, key: &str) -> String {
    match profile.entries().get(key).map(|entry| &entry.value) {
        Some(Value::Word(text)) => text.clone(),
        _ => String::new(),
    }
}

/// What a launch takes, and where each value is from.
pub(super) fn show(word: &str, places: &Places, host: &Host, json: bool) -> Result<String> {
    let configuration = sound(places.configuration())?;
    let is_profile = is_profile_name(word) && !places.profile(word).is_empty();
    // A launch of that command first: a profile of its name may not be the one that it takes.
    let profile = match of_command(&[word.into()], places, host)? {
        None if is_profile => Some(named(word, places)?),
        profile => profile,
    };
    if profile.is_none() && configuration.is_empty() {
        let (names, _) = places.names();
        match nearest(word, names.iter().map(String::as_str)) {
            Some(near) => bail!("there is no profile {word:?}, and none is for such a command; did you mean {near}?"),
            None => bail!("there is no profile {word:?}, and none is for such a command; appfw profile list shows all"),
        }
    }
    let sheets = profile.iter().flat_map(|profile| &profile.sheets).chain(&configuration);
    let entries = keys::merged(sheets.flat_map(|sheet| &sheet.entries));
    let name = profile.map(|profile| profile.name);
    if json { as_json(name.as_deref(), &entries) } else { Ok(as_toml(name.as_deref(), &entries)) }
}

fn as_toml(name: Option<&str>, entries: &BTreeMap<String, Entry>) -> String {
    let title = match name {
        Some(name) => format!("# profile {name}\n"),
        None => "# no profile, the configuration alone\n".to_owned(),
    };
    let lines = entries
        .iter()
        .map(|(key, entry)| format!("{key} = {}  # {}\n", masked(key, &entry.value), from(entry).join(", ")));
    title + &lines.collect::<String>()
}

fn as_json(name: Option<&str>, entries: &BTreeMap<String, Entry>) -> Result<String> {
    let value = |key: &str, value: &Value| match masked(key, value) {
        Value::Switch(on) => json!(on),
        Value::Word(word) => json!(word),
        Value::Words(words) => json!(words),
    };
    let keys: serde_json::Map<String, serde_json::Value> = entries
        .iter()
        .map(|(key, entry)| (key.clone(), json!({ "value": value(key, &entry.value), "from": from(entry) })))
        .collect();
    Ok(serde_json::to_string_pretty(&json!({ "profile": name, "keys": keys }))? + "\n")
}

fn from(entry: &Entry) -> Vec<String> {
    entry.origins.iter().map(|origin| harmless(&origin.to_string())).collect()
}

/// Without passwords.
fn masked(key: &str, value: &Value) -> Value {
    let mask = |spec: &String| match Via::parse(std::slice::from_ref(spec)) {
        Ok(via) if via.has_secret() => via.to_string(),
        _ => spec.clone(),
    };
    match value {
        Value::Words(specs) if key == "via" => Value::Words(specs.iter().map(mask).collect()),
        other => other.clone(),
    }
}

/// Where files are looked for, or where those of a profile are.
pub(super) fn path(name: Option<&str>, places: &Places) -> Result<String> {
    let Some(name) = name else {
        return Ok(places.directories().iter().map(|directory| format!("{}\n", directory.display())).collect());
    };
    // A file that is wrong is just what one looks for.
    let sheets = if is_profile_name(name) { places.profile(name) } else { Vec::new() };
    if sheets.is_empty() {
        named(name, places)?;
    }
    Ok(sheets.iter().map(|sheet| format!("{}\n", sheet.source)).collect())
}
