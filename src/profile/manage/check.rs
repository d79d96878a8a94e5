//! All that is wrong with files, not only the first of it.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::super::vias::Named;
use super::super::{Applied, Mistake, Places, Sheet, keys, parse, sound, vias};
use crate::cli::LaunchArgs;
use crate::host::Host;
use crate::plan::Plan;
use crate::say;
use crate::via::Via;

/// Checks `files`, or all that launches read.
pub(super) fn check(files: &[PathBuf], places: &Places, host: &mut Host) -> Result<String> {
    let sentences = match files {
        [] => {
            let configuration = places.configuration();
            let groups: Vec<_> =
                reachable(places).into_iter().chain(configuration.iter().cloned().map(|sheet| vec![sheet])).collect();
            mistakes(&groups, configuration, host)
        }
        files => {
            let groups: Vec<_> = files.iter().map(|file| vec![places.named(file)]).collect();
            mistakes(&groups, places.configuration(), host)
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

/// The files of each profile, and what cannot be one.
fn reachable(places: &Places) -> Vec<Vec<Sheet>> {
    let (names, unreadable) = places.names();
    let profiles = names.iter().map(|name| places.profile(name));
    profiles.chain(unreadable.into_iter().map(|sheet| vec![sheet])).collect()
}

/// All that is wrong in profiles, of which each is a group of files, or by what the configuration adds to one.
pub(super) fn mistakes(groups: &[Vec<Sheet>], configuration: Vec<Sheet>, host: &mut Host) -> Vec<String> {
    let mut sentences: Vec<String> =
        groups.iter().flatten().flat_map(|sheet| &sheet.mistakes).map(Mistake::to_string).collect();
    let Ok(configuration) = sound(configuration) else { return sentences };
    for group in groups.iter().filter_map(|group| sound(group.clone()).ok()) {
        // What the configuration says by itself is wrong with every profile.
        let new = contradiction(&group, &configuration, host).filter(|sentence| !sentences.contains(sentence));
        sentences.extend(new);
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
        let is_file = |word: &String| {
            word.starts_with('@') || matches!(names.get(word), Some(Named::File(_) | Named::Credential(_)))
        };
        if args.via.is_empty() || args.via.iter().any(is_file) {
            return Ok(());
        }
        let via = vias::resolve(&args.via, &names, Path::new("/"), host)?;
        Plan::new(args, Via::parse(&via)?, host).map(drop)
    };
    let by_caller = planned(host).err()?;
    // A profile of /etc may be for root, whose launches take what an ordinary user's don't.
    let (uid, booted) = (host.caller.uid, host.booted);
    (host.caller.uid, host.booted) = (0, true);
    let by_root = planned(host).err();
    (host.caller.uid, host.booted) = (uid, booted);
    by_root.map(|_| format!("{:#}", applied.explain(by_caller)))
}
