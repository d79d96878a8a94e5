//! The command lines of the two programs, as clap sees them. No decisions here.

mod appfw;
mod confine;
mod forward;
mod given;
mod inside;
mod launch;
mod profile;
mod unit;
mod usage;
mod words;

pub use appfw::{Appfw, Part, Subcommand};
pub use confine::{ConfineArgs, UnconfineArgs};
pub use forward::ForwardArgs;
pub use given::{Given, Options};
pub use inside::{Capture, InsideArgs, LifelineArgs, NetworkArgs, PublishArgs, ReadyArgs, WallKind};
pub use launch::{Bus, EnvScheme, Isolate, LaunchArgs, LogDestinations};
pub use profile::ProfileCommand;
pub use unit::{UnitCommand, UnitInstallArgs, UnitListArgs, UnitRemoveArgs, UnitShowArgs, UnitUpdateArgs};

use std::ffi::OsString;

use anyhow::{Result, bail};
use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches};

use crate::nearest::nearest;
use crate::{exit, say};

/// What a command line asks for.
pub enum Parsed<T> {
    /// Go on with this.
    Run(T),
    /// All was said (help, version, a usage error): exit with this code.
    Exit(u8),
}

/// Parses this process's arguments. Usage errors exit with 125, never with clap's 2, which could
/// be the app's own code.
#[must_use]
pub fn parse<T: CommandFactory + FromArgMatches>() -> Parsed<T> {
    parse_by(T::command())
}

/// The inner part that this process is to be, if its first word is the name of one.
#[must_use]
pub fn part() -> Option<Parsed<Part>> {
    let (command, word) = (Part::command(), std::env::args_os().nth(1)?);
    command.find_subcommand(word).is_some().then(|| parse_by(command))
}

fn parse_by<T: CommandFactory + FromArgMatches>(command: clap::Command) -> Parsed<T> {
    let words: Vec<OsString> = std::env::args_os().collect();
    if let Some(sentence) = usage::nameless(&command, &words) {
        return Parsed::Exit(refuse(&command, sentence));
    }
    let matches = command.try_get_matches_from(&words);
    match matches.and_then(|matches| T::from_arg_matches(&matches)) {
        Ok(args) => Parsed::Run(args),
        Err(error) => Parsed::Exit(answer(&T::command(), &words, &error)),
    }
}

/// Prints what was asked for, or what is wrong; returns the exit code.
fn answer(command: &clap::Command, words: &[OsString], error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            // A closed stdout leaves nobody to tell.
            let _ = error.print();
            0
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            exit::OURS
        }
        _ => refuse(command, usage::sentence(command, words, error)),
    }
}

fn refuse(command: &clap::Command, sentence: String) -> u8 {
    say::failure(command.get_name(), &anyhow::Error::msg(sentence));
    exit::OURS
}

/// Whether `appfw` has a subcommand of this name, now or in a later version.
#[must_use]
pub fn is_subcommand(word: &str) -> bool {
    let has = |command: clap::Command| command.find_subcommand(word).is_some();
    appfw::LATER.contains(&word) || has(Appfw::command()) || has(Part::command())
}

/// Answers a subcommand that is none of this version's.
///
/// # Errors
/// Always: says whether it comes later, or which one is near.
pub fn refuse_other(words: &[OsString]) -> Result<()> {
    let word = words.first().map(|word| word.to_string_lossy()).unwrap_or_default();
    if appfw::LATER.contains(&&*word) {
        bail!("appfw {word} is not there yet: it comes with a later version");
    }
    let known = ["stop", "forward", "profile", "unit", "confine", "unconfine"];
    match nearest(&word, appfw::LATER.into_iter().chain(known)) {
        Some(name) => bail!("there is no appfw {word}; did you mean appfw {name}?"),
        None => bail!("there is no appfw {word}; appfw --help lists what there is, and appfw-run starts programs"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_hold_together() {
        LaunchArgs::command().debug_assert();
        Appfw::command().debug_assert();
        Part::command().debug_assert();
    }

    #[test]
    fn help_fits_a_screen() {
        let help = LaunchArgs::command().term_width(100).render_help().to_string();
        assert!(help.lines().count() <= 60, "{} lines:\n{help}", help.lines().count());
    }
}
