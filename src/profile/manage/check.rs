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
pub(super) fn check(files: &[PathBuf], places: &Places, host: &mut Host) -> Result<String> {
    let (groups, configuration) = match files {
        [] => (reachable(places), places.configuration()),
        files => (files.iter().map(|file| vec![places.named(file)]).collect(), Vec::new()),
    };
    let sentences = mistakes(&groups, configuration, host);
    for sentence in &sentences {
        say::complaint("appfw", sentence);
    }
    match sentences.len() {
        0 => Ok("nothing is wrong\n".to_owned()),
        1 => bail!("there is a mistake: programs that it is about are not started"),
        many => bail!("there are {many} mistakes: programs that they are about are not started"),
    }
}

/// The files of each profile, and what cannot be one.
fn reachable(places: &Places) -> Vec<Vec<Sheet>> {
    let (names, unreadable) = places.names();
    let profiles = names.iter().map(|name| places.profile(name));
    profiles.chain(unreadable.into_iter().map(|sheet| vec![sheet])).collect()
}

/// All that is wrong in profiles, of which each is a group of files, and in the configuration.
pub(super) fn mistakes(groups: &[Vec<Sheet>], configuration: Vec<Sheet>, host: &mut Host) -> Vec<String> {
    let all = groups.iter().flatten().chain(&configuration);
    let mut sentences: Vec<String> = all.flat_map(|sheet| &sheet.mistakes).map(Mistake::to_string).collect();
    let Ok(configuration) = sound(configuration) else { return sentences };
    for group in groups.iter().filter_map(|group| sound(group.clone()).ok()) {
        sentences.extend(contradiction(&group, &configuration, host));
    }
    sentences
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
