//! `appfw`.

use std::ffi::OsString;

use clap::Parser;

use super::{
    ConfineArgs, ForwardArgs, InsideArgs, LifelineArgs, NetworkArgs, ProfileCommand, PublishArgs, ReadyArgs,
    UnconfineArgs, UnitCommand,
};

/// Manage confined programs started by appfw-run
#[derive(Debug, Parser)]
#[command(name = "appfw", version, subcommand_required = true, arg_required_else_help = true)]
pub struct Appfw {
    /// What to do
    #[command(subcommand)]
    pub subcommand: Subcommand,
}

/// The subcommands of this version.
#[derive(Debug, clap::Subcommand)]
pub enum Subcommand {
    /// End a launch and all its processes
    Stop {
        /// The launch's name, as --unit gave it or --verbose shows it
        name: String,
    },
    /// Show, check and write profiles: what a program's launch takes where the command line says nothing
    #[command(subcommand)]
    Profile(ProfileCommand),
    /// Confine programs by units that last
    #[command(subcommand)]
    Unit(Box<UnitCommand>),
    /// Put a service that is installed behind a wall, by a drop-in
    #[command(
        override_usage = "appfw confine SERVICE [OPTIONS] [--dry-run] [--now]\n       appfw confine --list [--json]"
    )]
    #[command(after_help = "\
Examples:
  appfw confine myservice --via tor --now
  appfw confine nginx --via socks5h://192.0.2.7:1080 --wall namespace --publish 0.0.0.0:80
  appfw confine fileserver --via none --deny any --allow localhost --allow 10.0.0.0/24")]
    Confine(Box<ConfineArgs>),
    /// Take away what appfw confine wrote
    Unconfine(UnconfineArgs),
    /// Run the forwarder by hand, as a plain proxy (units start it themselves)
    Forward(Box<ForwardArgs>),
    /// Subcommands that later versions bring.
    #[command(external_subcommand)]
    Other(Vec<OsString>),
}

/// The inner parts, which units and the launcher start. They have a parser of their own: to build the one of all that
/// is for people, with several hundred options, would take each launch half a millisecond, and twice where `inside`
/// builds the wall.
#[derive(Debug, Parser)]
#[command(name = "appfw", version)]
pub enum Part {
    /// Prove the wall, then become the app
    Inside(InsideArgs),
    /// Make the network of the app's namespace
    Network(NetworkArgs),
    /// The first command of a permanent unit
    Ready(ReadyArgs),
    /// Lead published ports into the app's namespace
    Publish(PublishArgs),
    /// End a launch when its launcher dies
    Lifeline(LifelineArgs),
}

/// Subcommands of the contract that this version does not have yet.
pub const LATER: [&str; 9] = ["check", "doctor", "list", "status", "log", "desktop", "connect", "completions", "man"];
