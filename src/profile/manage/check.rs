//! All that is wrong with files, not only the first of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::super::vias::Named;
use super::super::{Mistake, Places, Profile, Sheet, Value, chosen, filled, refuse_opened, sound, vias};
use crate::cli::LaunchArgs;
use crate::host::Host;
use crate::plan::Plan;
use crate::say;
use crate::via::Via;

/// A way out of each kind.
const STAND_INS: [&str; 4] = ["tor", "socks5h://192.0.2.1:1080", "direct", "none"];

/// Checks `files`, or all that launches read.
pub(super) fn check(files: &[PathBuf], places: &Places, host: &mut Host) -> Result<String> {
    let sentences = match files {
        [] => {
            let mut profiles = reachable(places);
            let unclear = ambiguous(&profiles, places);
            profiles.extend(places.configuration().into_iter().map(alone));
            let mut sentences = mistakes(&profiles, places, host);
            sentences.extend(unclear);
            sentences
        }
        files => {
            let profiles: Vec<_> = files.iter().map(|file| alone(places.named(file))).collect();
            mistakes(&profiles, places, host)
        }
    };
    for sentence in &sentences {
        say::complaint("appfw", sentence);
    }
    match sentences.len() {
        0 => Ok("nothing is wrong\n".to_owned()),
        1 => bail!("there is a mistake: programs that it is about are not started"),
        many => bail!("there are {many} mistakes: programs that they are about are not started"),
    }
}

/// Each profile, and what cannot be one.
fn reachable(places: &Places) -> Vec<Profile> {
    let (names, unreadable) = places.names();
    let profiles = names.into_iter().map(|name| Profile { sheets: places.profile(&name), name });
    profiles.chain(unreadable.into_iter().map(alone)).collect()
}

/// A file judged by itself.
fn alone(sheet: Sheet) -> Profile {
    Profile { name: sheet.source.to_string(), sheets: vec![sheet] }
}

/// The commands of which nobody can tell by which profile they are started.
fn ambiguous(profiles: &[Profile], places: &Places) -> Vec<String> {
    let commands: BTreeSet<String> =
        profiles.iter().filter_map(|profile| profile.commands()).flat_map(|(commands, _)| commands).collect();
    let refused = |command: &String| chosen(command, profiles, places).err().map(|error| format!("{error:#}"));
    commands.iter().filter_map(refused).collect()
}

/// All that is wrong in profiles, or by what the configuration adds to one.
pub(super) fn mistakes(profiles: &[Profile], places: &Places, host: &mut Host) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    let sheets = profiles.iter().flat_map(|profile| &profile.sheets);
    for said in sheets.flat_map(|sheet| &sheet.mistakes).map(Mistake::to_string) {
        // What is wrong with a whole place is with each of its files.
        if !sentences.contains(&said) {
            sentences.push(said);
        }
    }
    let Ok(configuration) = sound(places.configuration()) else { return sentences };
    for profile in profiles.iter().filter(|profile| profile.sheets.iter().all(|sheet| sheet.mistakes.is_empty())) {
        // What the configuration says by itself is wrong with every profile.
        let new = contradiction(profile, &configuration, places, host).filter(|new| !sentences.contains(new));
        sentences.extend(new);
    }
    sentences
}

/// What every launch by these files would be refused for, whoever's it is.
fn contradiction(profile: &Profile, configuration: &[Sheet], places: &Places, host: &mut Host) -> Option<String> {
    let by_caller = refusal(profile, configuration, host)?;
    let is_callers =
        |sheet: &Sheet| places.is_own(&sheet.source) || configuration.iter().any(|other| other.source == sheet.source);
    if profile.sheets.iter().any(is_callers) {
        return Some(by_caller);
    }
    // A profile of /etc may be for root, whose launches take what an ordinary user's don't.
    let roots: Vec<Sheet> = configuration.iter().filter(|sheet| !places.is_own(&sheet.source)).cloned().collect();
    let (uid, booted) = (host.caller.uid, host.booted);
    (host.caller.uid, host.booted) = (0, true);
    let by_root = refusal(profile, &roots, host);
    (host.caller.uid, host.booted) = (uid, booted);
    by_root.map(|_| by_caller)
}

/// What a launch by these files is refused for, wherever it may go.
fn refusal(profile: &Profile, configuration: &[Sheet], host: &Host) -> Option<String> {
    let names = vias::merged(configuration);
    // What a file holds is looked at when it is used.
    let is_file =
        |word: &String| word.starts_with('@') || matches!(names.get(word), Some(Named::File(_) | Named::Credential(_)));
    let sheets = || profile.sheets.iter().chain(configuration);
    let said = sheets().find_map(|sheet| sheet.entries.get("via")).map(|entry| &entry.value);
    // Where it may go is the command line's to say, if they don't.
    let options = match said {
        Some(Value::Words(words)) if !words.iter().any(is_file) => vec![None],
        _ => STAND_INS.map(|via| Some(format!("--via={via}"))).to_vec(),
    };
    let planned = |option: &Option<String>| -> Result<()> {
        let words = ["appfw-run"].into_iter().chain(option.as_deref()).chain(["--", "true"]);
        let args = <LaunchArgs as clap::Parser>::try_parse_from(words)?;
        let (args, applied) = filled(&args, Some(profile), configuration, Path::new("/"), host, &|_, _| false)?;
        if option.is_none() {
            refuse_opened(&args, Some(profile), configuration, &applied, host)?;
        }
        let plan = Via::parse(&args.via).and_then(|via| Plan::new(&args, via, host));
        plan.map(drop).map_err(|error| applied.explain(error))
    };
    let refusals: Option<Vec<anyhow::Error>> = options.iter().map(|option| planned(option).err()).collect();
    refusals?.into_iter().next().map(|error| format!("{error:#}"))
}
