//! `--own-profile`: a profile for this program and this way out, apart from the user's own.

use std::ffi::OsString;
use std::path::PathBuf;

use anyhow::{Result, bail};
use ring::digest::{SHA256, digest};

use super::program::{Engine, Program, is_installed};
use super::{Surroundings, chromium, electron, gecko};
use crate::exit::{NOT_FOUND, NotExecuted};
use crate::host::Host;
use crate::plan::Plan;
use crate::via::Via;

/// Has the plan's program use a profile of its own, kept for the next launch by the same via. `inside` makes
/// the directory, as the program's user.
///
/// # Errors
/// It is none of the programs that can be told to; the command line selects a profile itself; another launch
/// uses it.
pub fn own_profile(plan: &mut Plan, host: &Host) -> Result<()> {
    let surroundings = Surroundings::of(plan, host);
    let Some(program) = Program::find(&plan.command, &surroundings) else {
        if !is_installed(&plan.command[0], &surroundings) {
            let message = format!("{} was not found, so it has no profile", plan.program());
            return Err(anyhow::Error::new(NotExecuted { code: NOT_FOUND, message }));
        }
        bail!(
            "--own-profile works with Firefox, Thunderbird, Chromium, Chrome, Electron programs and their kin, and {} is none of them; leave it out",
            plan.program()
        );
    };
    if let Some(option) = selects_profile(&program) {
        bail!("--own-profile and {option} exclude one another: both name a profile; leave one of them out");
    }
    let directory = directory(&program, &plan.via, &surroundings);
    let holder = match program.engine {
        Engine::Gecko => gecko::holder(&directory),
        Engine::Chromium => chromium::holder(&directory),
        Engine::Electron => {
            let inner = electron::names(&program).into_iter().map(|name| directory.join(name));
            chromium::holder(&directory).or_else(|| inner.into_iter().find_map(|inner| chromium::holder(&inner)))
        }
    };
    if let Some(instance) = holder {
        let process = instance.process.map(|process| format!(" by process {process}")).unwrap_or_default();
        bail!(
            "{}'s own profile for --via {} is in use{process}, which would take this over; close it first, or end its launch with appfw stop",
            program.name(),
            plan.via
        );
    }
    let switch = |name: &str| {
        let mut word = OsString::from(name);
        word.push(&directory);
        word
    };
    let added = match program.engine {
        Engine::Gecko => vec!["--no-remote".into(), "--profile".into(), directory.clone().into()],
        Engine::Chromium => vec![switch("--user-data-dir=")],
        Engine::Electron => {
            // Not every program heeds the switch; Electron itself keeps its data below this.
            plan.env.insert(0, ("XDG_CONFIG_HOME".into(), directory.clone().into()));
            vec![switch("--user-data-dir=")]
        }
    };
    let place = program.word + 1;
    plan.command.splice(place..place, added);
    plan.own_directory = Some(directory);
    Ok(())
}

fn selects_profile(program: &Program) -> Option<&'static str> {
    match program.engine {
        Engine::Gecko => gecko::selects_profile(program),
        Engine::Chromium | Engine::Electron => {
            [("user-data-dir", "--user-data-dir"), ("temp-profile", "--temp-profile")]
                .into_iter()
                .find_map(|(name, written)| program.switch(name).map(|_| written))
        }
    }
}

/// Below the XDG state directory, by the program and a short hash of the via, in which credentials are masked:
/// what stands in a name is seen in process lists.
fn directory(program: &Program, via: &Via, surroundings: &Surroundings) -> PathBuf {
    let state = surroundings.base_directory("XDG_STATE_HOME", ".local/state");
    let hash = digest(&SHA256, via.to_string().as_bytes());
    let hash: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name: String = program.name().chars().map(|c| if is_plain(c) { c } else { '_' }).collect();
    state.join("appfw/profiles").join(format!("{name}-{hash}"))
}
