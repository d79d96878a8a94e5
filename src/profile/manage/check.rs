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

/// A way out of each kind.
const STAND_INS: [&str; 4] = ["tor", "socks5h://192.0.2.1:1080", "direct", "none"];

/// Checks `files`, or all that launches read.
pub(super) fn check(files: &[PathBuf], places: &Places, host: &mut Host) -> Result<String> {
    let sentences = match files {
        [] => {
            let configuration = places.configuration().into_iter().map(|sheet| vec![sheet]);
            let groups: Vec<_> = reachable(places).into_iter().chain(configuration).collect();
            mistakes(&groups, places, host)
        }
        files => {
            let groups: Vec<_> = files.iter().map(|file| vec![places.named(file)]).collect();
            mistakes(&groups, places, host)
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
pub(super) fn mistakes(groups: &[Vec<Sheet>], places: &Places, host: &mut Host) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    for said in groups.iter().flatten().flat_map(|sheet| &sheet.mistakes).map(Mistake::to_string) {
        // What is wrong with a whole place is with each of its files.
        if !sentences.contains(&said) {
            sentences.push(said);
        }
    }
    let Ok(configuration) = sound(places.configuration()) else { return sentences };
    for group in groups.iter().filter_map(|group| sound(group.clone()).ok()) {
        // What the configuration says by itself is wrong with every profile.
        let new = contradiction(&group, &configuration, places, host).filter(|new| !sentences.contains(new));
        sentences.extend(new);
    }
    sentences
}

/// What every launch by these files would be refused for, whoever's it is.
fn contradiction(group: &[Sheet], configuration: &[Sheet], places: &Places, host: &mut Host) -> Option<String> {
    let by_caller = refusal(group, configuration, host)?;
    let is_callers =
        |sheet: &Sheet| places.is_own(&sheet.source) || configuration.iter().any(|other| other.source == sheet.source);
    if group.iter().any(is_callers) {
        return Some(by_caller);
    }
    // A profile of /etc may be for root, whose launches take what an ordinary user's don't.
    let roots: Vec<Sheet> = configuration.iter().filter(|sheet| !places.is_own(&sheet.source)).cloned().collect();
    let (uid, booted) = (host.caller.uid, host.booted);
    (host.caller.uid, host.booted) = (0, true);
    let by_root = refusal(group, &roots, host);
    (host.caller.uid, host.booted) = (uid, booted);
    by_root.map(|_| by_caller)
}

/// What a launch by these files is refused for, wherever it may go.
fn refusal(profile: &[Sheet], configuration: &[Sheet], host: &Host) -> Option<String> {
    let sheets = profile.iter().chain(configuration);
    let mut taken = keys::merged(sheets.flat_map(|sheet| &sheet.entries));
    // As it gives way to rules of a command line, which would have to say some here.
    if ["allow", "deny"].iter().any(|rule| taken.contains_key(*rule)) {
        taken.retain(|key, entry| key != "wall" || !entry.is_built_in());
    }
    let applied = Applied { profile: None, sources: Vec::new(), taken };
    let nothing = <LaunchArgs as clap::Parser>::try_parse_from(["appfw-run", "--", "true"]).ok()?;
    let args = match parse(&nothing, &applied.taken) {
        Ok(args) => args,
        Err(error) => return Some(format!("{error:#}")),
    };
    let names = vias::merged(configuration);
    // What a file holds is looked at when it is used.
    let is_file =
        |word: &String| word.starts_with('@') || matches!(names.get(word), Some(Named::File(_) | Named::Credential(_)));
    let planned = |via: &[String]| -> Result<()> {
        let via = vias::resolve(via, &names, Path::new("/"), host)?;
        Plan::new(&LaunchArgs { via: via.clone(), ..args.clone() }, Via::parse(&via)?, host).map(drop)
    };
    // Where it may go is the command line's to say, if they don't.
    let vias = match args.via.is_empty() || args.via.iter().any(is_file) {
        true => STAND_INS.map(|via| vec![via.to_owned()]).to_vec(),
        false => vec![args.via.clone()],
    };
    let refusals: Option<Vec<anyhow::Error>> = vias.iter().map(|via| planned(via).err()).collect();
    refusals?.into_iter().next().map(|error| format!("{:#}", applied.explain(error)))
}
