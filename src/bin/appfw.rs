//! Parse, one match, exit: the only place of `appfw` that prints an error.

use std::process::ExitCode;

use anyhow::Result;
use appfw::cli::{self, Appfw, Parsed, Part, Subcommand};
use appfw::{confine, exit, forward, inside, lifeline, permanent, profile, publish, ready, say, stop};

fn main() -> ExitCode {
    // Most of what follows waits for children: the app, systemctl(1).
    if let Err(error) = appfw_kernel::expect_children() {
        return ended(Err(error.into()));
    }
    match cli::part() {
        Some(Parsed::Run(part)) => return be(part),
        Some(Parsed::Exit(code)) => return ExitCode::from(code),
        None => {}
    }
    let args = match cli::parse::<Appfw>() {
        Parsed::Run(args) => args,
        Parsed::Exit(code) => return ExitCode::from(code),
    };
    ended(match args.subcommand {
        Subcommand::Forward(args) => forward::run(*args),
        Subcommand::Profile(command) => profile::manage::run(&command),
        Subcommand::Unit(command) => permanent::run(*command),
        Subcommand::Confine(args) => confine::run(*args),
        Subcommand::Unconfine(args) => confine::undo(&args),
        Subcommand::Stop { name } => stop::run(&name),
        Subcommand::Other(words) => cli::refuse_other(&words),
    })
}

/// Most parts answer by themselves: to a launcher, or as a unit's own.
fn be(part: Part) -> ExitCode {
    match part {
        Part::Inside(args) => inside::run(&args),
        Part::Ready(args) => ready::run(&args),
        Part::Network(args) => inside::make_network(&args),
        Part::Lifeline(_) => lifeline::run(),
        Part::Publish(args) => ended(publish::run(&args)),
    }
}

fn ended(outcome: Result<()>) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say::failure("appfw", &error);
            ExitCode::from(exit::code_of(&error))
        }
    }
}
