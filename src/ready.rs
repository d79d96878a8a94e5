//! `appfw ready FILE`: the first command of a permanent unit, at every start of it. It runs as root in the unit's
//! cgroup and network namespace, with the host's files, and does what a launcher does before a launch: it makes the plan
//! anew, compares it with what systemd holds, and prepares what the app needs. Where it fails nothing else of the unit
//! is started.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::cli::{Appfw, ReadyArgs, Subcommand, UnitCommand};
use crate::installed::{self, Mark};
use crate::manager::block_on;
use crate::{confine, exit, permanent, say};

/// A file of ours, and how it was made.
#[derive(Debug)]
pub struct Made<'a> {
    /// The file.
    pub args: &'a ReadyArgs,
    /// What stands in it, less the mark.
    pub text: String,
    /// Its mark.
    pub mark: Mark,
}

/// Makes ready what the file is of. Otherwise the journal hears why the unit must not start, and what to do.
#[must_use]
pub fn run(args: &ReadyArgs) -> ExitCode {
    let Err(error) = ready(args) else { return ExitCode::SUCCESS };
    say::failure("appfw ready", &error);
    // As a condition any other code is no failure, but "not now" (systemd.service(5), ExecCondition=).
    ExitCode::from(if args.as_condition { u8::MAX } else { exit::OURS })
}

fn ready(args: &ReadyArgs) -> Result<()> {
    let path = args.file.display();
    let (text, mark) = installed::find(&args.file)?
        .with_context(|| format!("{path} is gone, though systemd starts a unit by it: systemctl daemon-reload"))?;
    let made = Made { args, text: Mark::body(&text).to_owned(), mark };
    let words = std::iter::once("appfw").chain(made.mark.command.iter().map(String::as_str));
    let parsed = Appfw::try_parse_from(words).map_err(|error| {
        anyhow::anyhow!(
            "{path} was made by a command that this version does not know ({}): install it again",
            error.kind()
        )
    })?;
    match parsed.subcommand {
        Subcommand::Confine(by) => return block_on(confine::ready(&made, *by)),
        Subcommand::Unit(command) => {
            if let UnitCommand::Install(install) = *command {
                return block_on(permanent::ready(&made, install));
            }
        }
        _ => {}
    }
    bail!("{path} was made by appfw {}, which makes no units", made.mark.command.join(" "))
}
