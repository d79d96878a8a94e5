//! All that is wrong with files, not only the first of it.

use std::path::PathBuf;

use anyhow::{Result, bail};

use super::super::{Applied, Mistake, Places, Sheet, keys, parse, sound, vias};
use crate::cli::LaunchArgs;
use crate::host::Host;
use crate::plan::Plan;
use crate::say;
use crate::via::Via;

/// Checks `files`, or all that launches read.
pub(super) fn check(files: &[PathBuf], places: &Places, host: Host) -> Result<()> {
    let (groups, configuration) = match files {
        [] => (reachable(places), places.configuration()),
        files => (files.iter().map(|file| vec![places.named(file)]).collect(), Vec::new()),
    };
    complain(groups, configuration, host)
}

/// Checks one profile, whose files these are.
pub(super) fn one(sheets: Vec<Sheet>, places: &Places, host: Host) -> Result<()> {
    complain(vec![sheets], places.configuration(), host)
}

/// The files of each profile, and what cannot be one.
fn reachable(places: &Places) -> Vec<Vec<Sheet>> {
    let (names, unreadable) = places.names();
    let profiles = names.iter().map(|name| places.profile(name));
    profiles.chain(unreadable.into_iter().map(|sheet| vec![sheet])).collect()
}

fn complain(groups: Vec<Vec<Sheet>>, configuration: Vec<Sheet>, mut host: Host) -> Result<()> {
    let mut sentences: Vec<String> = Vec::new();
    let all = groups.iter().flatten().chain(&configuration);
    sentences.extend(all.flat_map(|sheet| &sheet.mistakes).map(Mistake::to_string));
    if let Ok(configuration) = sound(configuration) {
        let sheets = |group: &Vec<Sheet>| sound(group.clone()).ok();
        for group in groups.iter().filter_map(sheets) {
            sentences.extend(contradiction(&group, &configuration, &mut host));
        }
    }
    for sentence in &sentences {
        say::complaint("appfw", sentence);
    }
    match sentences.len() {
        0 => Ok(()),
        1 => bail!("there is a mistake: programs that it is about are not started"),
        many => bail!("there are {many} mistakes: programs that they are about are not started"),
    }
}

/// What a launch by these files would be refused for, whoever's it is.
fn contradiction(profile: &[Sheet], configuration: &[Sheet], host: &mut Host) -> Option<String> {
    let sheets = profile.iter().chain(configuration);
    let taken = keys::merged(sheets.flat_map(|sheet| &sheet.entries));
    let applied = Applied { profile: None, sources: Vec::new(), taken };
    // Where it may go is the command line's to say.
    let nothing = <LaunchArgs as clap::Parser>::try_parse_from(["appfw-run", "--", "true"]).ok()?;
    let args = parse(&nothing, &applied.taken);
    let planned = |host: &Host| -> Result<()> {
        let args = args.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        let names = vias::merged(configuration);
        // What a file holds is looked at when it is used.
        let is_plain = |word: &String| !word.starts_with('@') && !names.contains_key(word);
        if args.via.is_empty() || !args.via.iter().all(is_plain) {
            return Ok(());
        }
        Plan::new(args, Via::parse(&args.via)?, host).map(drop)
    };
    let by_caller = planned(host).err()?;
    // A profile of /etc may be for root, whose launches take what an ordinary user's don't.
    let (uid, booted) = (host.caller.uid, host.booted);
    (host.caller.uid, host.booted) = (0, true);
    let by_root = planned(host).err();
    (host.caller.uid, host.booted) = (uid, booted);
    by_root.map(|_| format!("{:#}", applied.explain(by_caller)))
}
