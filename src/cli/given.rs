//! What stands in a launch's command line itself: what profiles and the configuration complete.

use std::collections::BTreeMap;
use std::ffi::OsString;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory};

use super::LaunchArgs;

/// Each option of a command line that says it, by its name without dashes, and its values: none for a switch.
pub type Options = BTreeMap<String, Vec<OsString>>;

/// The options that a command line says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Given(pub Options);

impl Given {
    /// The values of an option, if it stands there.
    #[must_use]
    pub fn get(&self, option: &str) -> Option<&[OsString]> {
        self.0.get(option).map(Vec::as_slice)
    }
}

impl clap::Args for Given {
    fn augment_args(command: clap::Command) -> clap::Command {
        command
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        command
    }
}

impl clap::FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut given = Options::new();
        for arg in LaunchArgs::command().get_arguments() {
            let id = arg.get_id().as_str();
            let Some(option) = arg.get_long() else { continue };
            if matches.try_contains_id(id).is_err() || matches.value_source(id) != Some(ValueSource::CommandLine) {
                continue;
            }
            let values = match arg.get_action().takes_values() {
                true => matches.get_raw(id).into_iter().flatten().map(Into::into).collect(),
                false => Vec::new(),
            };
            given.insert(option.to_owned(), values);
        }
        Ok(Self(given))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
