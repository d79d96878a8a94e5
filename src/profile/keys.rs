//! The keys of profiles and of the configuration: each is an option of the launcher under its own name, so none is
//! forgotten, and each value is judged by the parser that the option has. Pure.

use std::sync::LazyLock;

use anyhow::{Context, Result, bail, ensure};
use clap::{Arg, ArgAction, CommandFactory};

use super::sheet::{Entry, Value};
use crate::cli::{Given, LaunchArgs, WallKind};
use crate::confinement::property;
use crate::destination::Pattern;
use crate::dns::Dns;
use crate::plan::{self, Supervisor};
use crate::publish::Published;
use crate::via::Via;
use crate::{network, profile};

/// Options that are about one launch, or about profiles themselves.
const NO_KEYS: [&str; 10] =
    ["profile", "no-profile", "unit", "dry-run", "quiet", "verbose", "help", "version", "background", "settled"];
/// Who runs it: one key with the option's name as its value.
const MANAGER: (&str, [&str; 3]) = ("manager", ["system", "user", "standalone"]);
/// Two options that are one key.
const CAPTURE: (&str, [&str; 2]) = ("capture", ["capture", "no-capture"]);
/// Keys of profiles that are no options.
const OF_PROFILES: [(&str, Takes); 2] = [("commands", Takes::Words), ("description", Takes::Word)];
/// A list of a higher place replaces that of a lower one, but what was closed stays closed.
const ADDED_UP: [&str; 4] = ["block", "deny", "ingress-filter", "egress-filter"];
/// Without a value of these there is less of what they give. No value of any other list would be no wall, or no key.
const MAY_BE_EMPTY: [&str; 6] = ["commands", "allow", "allow-destination", "publish", "env", "property"];
/// What is as well written as a number.
const NUMBERS: [&str; 2] = ["publish", "uid"];

/// What a key takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takes {
    /// true or false.
    Switch,
    /// One string.
    Word,
    /// One of these strings.
    OneOf(Vec<String>),
    /// A list of strings, or a single one.
    Words,
}

/// A key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// What it takes.
    pub takes: Takes,
}

/// Every key of `config.toml`; with `of_profile`, of a profile. They are made once: a launch reads some fifteen files, and
/// clap's command is the dear part of each.
#[must_use]
pub fn all(of_profile: bool) -> &'static [Key] {
    static KEYS: LazyLock<Vec<Key>> = LazyLock::new(of_options);
    let own = if of_profile { 0 } else { OF_PROFILES.len() };
    &KEYS[..KEYS.len() - own]
}

/// Those of profiles alone come last.
fn of_options() -> Vec<Key> {
    let key = |name: &str, takes| Key { name: name.to_owned(), takes };
    let command = LaunchArgs::command();
    let options = command.get_arguments().filter_map(|arg| Some((arg.get_long()?, arg)));
    let single = |name: &str| ![&NO_KEYS[..], &MANAGER.1, &CAPTURE.1].concat().contains(&name);
    let mut keys: Vec<_> = options.filter(|(name, _)| single(name)).map(|(name, arg)| key(name, takes(arg))).collect();
    keys.push(key(MANAGER.0, Takes::OneOf(MANAGER.1.map(str::to_owned).to_vec())));
    keys.push(key(CAPTURE.0, Takes::Switch));
    keys.extend(OF_PROFILES.map(|(name, takes)| key(name, takes)));
    keys
}

fn takes(arg: &Arg) -> Takes {
    let choices: Vec<String> = arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match arg.get_action() {
        ArgAction::SetTrue => Takes::Switch,
        ArgAction::Append => Takes::Words,
        _ if choices.is_empty() => Takes::Word,
        _ => Takes::OneOf(choices),
    }
}

impl Takes {
    /// For a message.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Switch => "true or false".to_owned(),
            Self::Word => "a string".to_owned(),
            Self::OneOf(choices) => {
                let quoted: Vec<String> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
                match quoted.split_last() {
                    Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
                    _ => quoted.concat(),
                }
            }
            Self::Words => "a string or a list of strings".to_owned(),
        }
    }
}

/// Whether the lists of all places are one.
#[must_use]
pub fn adds_up(key: &str) -> bool {
    ADDED_UP.contains(&key)
}

/// Whether a number is a value as well.
#[must_use]
pub fn takes_number(key: &str) -> bool {
    NUMBERS.contains(&key)
}

/// Whether an option is about one launch, and so no key.
#[must_use]
pub fn is_of_one_launch(option: &str) -> bool {
    const INNER: [&str; 2] = ["background", "settled"];
    NO_KEYS.contains(&option) && !INNER.contains(&option)
}

fn is_of_profiles(key: &str) -> bool {
    OF_PROFILES.iter().any(|(name, _)| *name == key)
}

/// The options that a key stands for.
#[must_use]
pub fn options(key: &str) -> Vec<&str> {
    match key {
        _ if key == MANAGER.0 => MANAGER.1.to_vec(),
        _ if key == CAPTURE.0 => CAPTURE.1.to_vec(),
        _ if is_of_profiles(key) => Vec::new(),
        _ => vec![key],
    }
}

/// Whether a command line says itself what a key would.
#[must_use]
pub fn is_given(key: &str, given: &Given) -> bool {
    options(key).iter().any(|option| given.get(option).is_some())
}

/// An entry as words of a command line.
#[must_use]
pub fn words(key: &str, value: &Value) -> Vec<String> {
    match value {
        _ if is_of_profiles(key) => Vec::new(),
        Value::Switch(true) => vec![format!("--{key}")],
        Value::Switch(false) if key == CAPTURE.0 => vec!["--no-capture".to_owned()],
        Value::Switch(false) => Vec::new(),
        Value::Word(word) if key == MANAGER.0 => vec![format!("--{word}")],
        Value::Word(word) => vec![format!("--{key}={word}")],
        Value::Words(words) => words.iter().map(|word| format!("--{key}={word}")).collect(),
    }
}

/// The entries that a command line says, for a profile that is made of it.
///
/// # Errors
/// An option that is no key, or a value that is not UTF-8, which TOML is.
pub fn entries_of(given: &Given) -> Result<Vec<(String, Value)>> {
    let mut entries = Vec::new();
    for (option, values) in &given.0 {
        if NO_KEYS.contains(&option.as_str()) {
            bail!("--{option} is about one launch, and goes into no profile: leave it out");
        }
        let text = |value: &std::ffi::OsString| value.to_str().map(str::to_owned);
        let words: Option<Vec<String>> = values.iter().map(text).collect();
        let words = words.with_context(|| format!("the value of --{option} is not UTF-8, as a profile must be"))?;
        entries.push(if MANAGER.1.contains(&option.as_str()) {
            (MANAGER.0.to_owned(), Value::Word(option.clone()))
        } else if CAPTURE.1.contains(&option.as_str()) {
            (CAPTURE.0.to_owned(), Value::Switch(option == CAPTURE.1[0]))
        } else if words.is_empty() {
            (option.clone(), Value::Switch(true))
        } else if all(false).iter().any(|key| key.name == *option && key.takes == Takes::Words) {
            (option.clone(), Value::Words(words))
        } else {
            (option.clone(), Value::Word(words.concat()))
        });
    }
    Ok(entries)
}

/// Judges the words of a key as its option would; `words` are one of a list, or all of it.
///
/// # Errors
/// What the option would say.
pub fn check(key: &str, words: &[String]) -> Result<()> {
    let is_none = words.is_empty() && !MAY_BE_EMPTY.contains(&key);
    ensure!(!is_none, "{key} is an empty list: leave the key out, or give it a value");
    for word in words {
        let is_control = |c: char| c.is_control() && !(key == "env" && matches!(c, '\n' | '\t'));
        ensure!(!word.contains(is_control), "{key} has a control character in it: leave it out");
        ensure!(!word.is_empty(), "{key} is empty: leave the key out, or give it a value");
    }
    let judged = match key {
        "via" => check_via(words),
        "only" | "block" | "allow-destination" => Pattern::parse_list(key, words).map(drop),
        "allow" | "deny" => network::parse_list(key, words).map(drop),
        "dns" => each(words, |word| word.parse::<Dns>().map(drop)),
        "publish" => Published::parse_list(words, WallKind::Namespace).map(drop),
        "property" => property::parse(words, Supervisor::System, true).map(drop),
        "address" => each(words, |word| plan::parse_address(word).map(drop)),
        "env" => each(words, |word| plan::split_variable(word).map(drop)),
        "commands" => each(words, check_command),
        "workdir" | "ingress-filter" | "egress-filter" => each(words, |word| {
            ensure!(word.starts_with('/'), "{key} {word:?}: a file is used from anywhere, so write an absolute path");
            Ok(())
        }),
        _ => Ok(()),
    };
    // The parsers name the option.
    judged.map_err(|error| {
        let sentence = format!("{error:#}");
        anyhow::anyhow!("{}", sentence.strip_prefix("--").filter(|rest| rest.starts_with(key)).unwrap_or(&sentence))
    })
}

fn each(words: &[String], check: impl Fn(&str) -> Result<()>) -> Result<()> {
    words.iter().try_for_each(|word| check(word))
}

/// Names of the configuration are looked up when all of it is known, files read when a launch needs them.
fn check_via(words: &[String]) -> Result<()> {
    let is_plain = |word: &&String| !word.starts_with('@') && !profile::vias::is_name(word);
    if let Some(path) = words.iter().find_map(|word| word.strip_prefix('@').filter(|path| !path.starts_with('/'))) {
        bail!("via `@{path}`: a file is used from anywhere, so write an absolute path");
    }
    let plain: Vec<String> = words.iter().filter(is_plain).cloned().collect();
    if plain.is_empty() { Ok(()) } else { Via::parse(&plain).map(drop) }
}

fn check_command(word: &str) -> Result<()> {
    ensure!(!word.contains('/'), "commands {word:?}: takes a program's file name, without the directory");
    Ok(())
}

/// Puts the entries of lower places beneath those of higher ones, which come first.
#[must_use]
pub fn merged<'a>(places: impl Iterator<Item = (&'a String, &'a Entry)>) -> std::collections::BTreeMap<String, Entry> {
    let mut merged = std::collections::BTreeMap::<String, Entry>::new();
    for (key, entry) in places {
        match merged.get_mut(key) {
            None => {
                merged.insert(key.clone(), entry.clone());
            }
            Some(higher) if adds_up(key) => higher.add(entry),
            Some(higher) => higher.replace(entry),
        }
    }
    merged
}
