//! What a launch has from profiles and the configuration, for whoever wonders about it.

use std::collections::BTreeMap;

use anyhow::{Error, anyhow};

use super::keys;
use super::origin::Source;
use super::sheet::Entry;
use crate::cli::{Bus, LaunchArgs, WallKind};
use crate::plan::{Plan, Resolver, Supervisor};
use crate::via::Via;

/// What was taken.
#[derive(Debug, Clone, Default)]
pub struct Applied {
    /// The profile that applies.
    pub profile: Option<String>,
    /// The files of it, the highest first.
    pub sources: Vec<Source>,
    /// Each key that the command line doesn't say, or adds to, with its value and where that stands.
    pub taken: BTreeMap<String, Entry>,
    /// Each key that the command knows nothing of.
    pub left_out: BTreeMap<String, Entry>,
}

impl Applied {
    /// The profile and where it is from, for `--verbose` and `--dry-run`.
    #[must_use]
    pub fn describe(&self) -> Option<String> {
        let sources: Vec<String> = self.sources.iter().map(ToString::to_string).collect();
        Some(format!("profile {} ({})", self.profile.as_ref()?, sources.join(", ")))
    }

    /// A sentence of the plan's with the places of the keys that it is about: its user may never have written them.
    #[must_use]
    pub fn explain(&self, error: Error) -> Error {
        let sentence = format!("{error:#}");
        let about =
            self.taken.iter().filter(|(key, _)| keys::options(key).iter().any(|option| names(&sentence, option)));
        let places: Vec<String> = about.map(|(key, entry)| format!("{key} is from {}", self.places(entry))).collect();
        if places.is_empty() { error } else { anyhow!("{sentence} ({})", places.join("; ")) }
    }

    /// What was left out, for a command that knows nothing of it.
    #[must_use]
    pub fn left_out(&self) -> Option<String> {
        let keys: Vec<String> =
            self.left_out.iter().map(|(key, entry)| format!("{key} ({})", self.places(entry))).collect();
        (!keys.is_empty()).then(|| format!("of launches alone, and left out: {}", keys.join(", ")))
    }

    /// Where a key stands.
    pub(super) fn places(&self, entry: &Entry) -> String {
        let mut places: Vec<String> = entry
            .origins
            .iter()
            .map(|origin| match (&*origin.source, &self.profile) {
                (Source::BuiltIn, Some(name)) => format!("the built-in profile {name}, which --no-profile leaves out"),
                _ => origin.to_string(),
            })
            .collect();
        places.dedup();
        places.join(", ")
    }

    /// What opens the wall wider than a command line that doesn't say it makes one think: a line a file.
    #[must_use]
    pub fn openings(&self, args: &LaunchArgs, plan: &Plan) -> Vec<String> {
        let mut lines = Vec::<(Source, String)>::new();
        for (key, entry) in self.taken.iter().filter(|(key, entry)| is_opening(key, entry, args, plan)) {
            for origin in entry.origins.iter().take(1) {
                let replaced = entry.replaced.first().map(|lower| format!(" in place of {lower}"));
                let said = format!("{key} = {}{}", entry.value, replaced.unwrap_or_default());
                match lines.iter_mut().find(|(source, _)| *source == *origin.source) {
                    Some((_, line)) => line.push_str(&format!(", {said}")),
                    None => lines.push(((*origin.source).clone(), said)),
                }
            }
        }
        let who = |source: &Source| match &self.profile {
            Some(name) if self.sources.contains(source) => format!("profile {name} ({source})"),
            _ => format!("configuration ({source})"),
        };
        lines.iter().map(|(source, said)| format!("{}: {said}", who(source))).collect()
    }
}

/// Whether a sentence names an option: `--allow` is not `--allow-destination`.
fn names(sentence: &str, option: &str) -> bool {
    let option = format!("--{option}");
    sentence.match_indices(&option).any(|(at, _)| {
        let next = sentence[at + option.len()..].chars().next();
        !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-')
    })
}

/// Whether what a key says is less than what there would be without it.
fn is_opening(key: &str, entry: &Entry, args: &LaunchArgs, plan: &Plan) -> bool {
    match key {
        "via" => matches!(plan.via, Via::Direct | Via::None),
        "wall" => match plan.wall {
            WallKind::Strict => false,
            WallKind::Namespace => plan.supervisor == Supervisor::System,
            WallKind::Address => true,
        },
        "capture" => !args.capture && plan.wall == WallKind::Namespace,
        // Where all is denied nobody answers, unless asked.
        "dns" => plan.resolver == Resolver::Host && plan.lists().denies_any(),
        "dbus" => match args.dbus {
            Some(Bus::Session | Bus::System) => true,
            Some(Bus::Filtered) => !entry.replaced.is_empty(),
            _ => false,
        },
        // Whatever they say, what a lower place said is no more.
        "only" | "property" => !entry.replaced.is_empty(),
        "allow" | "allow-destination" | "publish" | "manager" | "uid" => true,
        _ => false,
    }
}
