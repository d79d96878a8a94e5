//! Parse, one match, exit: the only place of `appfw` that prints an error.

use std::process::ExitCode;

use appfw::cli::{self, Appfw, Parsed, Subcommand};
use appfw::{confine, exit, forward, inside, lifeline, permanent, profile, publish, ready, say, stop};

fn main() -> ExitCode {
    let args = match cli::parse::<Appfw>() {
        Parsed::Run(args) => args,
        Parsed::Exit(code) => return ExitCode::from(code),
    };
    let outcome = match args.subcommand {
        Subcommand::Inside(args) => return inside::run(&args),
        Subcommand::Ready(args) => return ready::run(&args),
        Subcommand::Network(args) => return inside::make_network(&args),
        Subcommand::Lifeline(_) => return lifeline::run(),
        Subcommand::Forward(args) => forward::run(args),
        Subcommand::Publish(args) => publish::run(&args),
        Subcommand::Profile(command) => profile::manage::run(&command),
        Subcommand::Unit(command) => permanent::run(*command),
        Subcommand::Confine(args) => confine::run(*args),
        Subcommand::Unconfine(args) => confine::undo(&args),
        Subcommand::Stop { name } => stop::run(&name),
        Subcommand::Other(words) => cli::refuse_other(&words),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::failure("appfw", &error);
            ExitCode::from(exit::code_of(&error))
        }
    }
}
