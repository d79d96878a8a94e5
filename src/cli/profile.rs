//! `appfw profile`.

use std::ffi::OsString;
use std::path::PathBuf;

/// What to do with profiles.
#[derive(Debug, clap::Subcommand)]
pub enum ProfileCommand {
    /// Show every profile, the commands that it is for, and where it is from
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show what a launch takes from a profile and the configuration, and where each value is from
    Show {
        /// The profile, or a command that one is for
        #[arg(value_name = "NAME|COMMAND")]
        name: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Say all that is wrong in files: in all that launches read, or in these
    Check {
        /// config.toml, or profiles
        files: Vec<PathBuf>,
    },
    /// Print where files are looked for, the first place first; with NAME, the files of that profile
    Path {
        /// The profile
        name: Option<String>,
    },
    /// Change your own file of a profile by $VISUAL or $EDITOR; a copy of the shipped one if you have none
    Edit {
        /// The profile
        name: String,
    },
    /// Write a profile from options: new work --command firefox --via tor --own-profile
    New {
        /// The profile
        name: String,
        /// --command CMD, a command that it is for, any number of times; and options of appfw-run
        #[arg(value_name = "OPTION", trailing_var_arg = true, allow_hyphen_values = true)]
        options: Vec<OsString>,
    },
}
