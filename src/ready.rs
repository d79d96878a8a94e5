//! `appfw ready FILE`: the first command of a permanent unit, at every start of it. It runs as root in the unit's
//! cgroup and network namespace, with the host's files, and does what a launcher does before a launch: it makes the plan
//! anew, compares it with what systemd holds, and prepares what the app needs. Where it fails nothing else of the unit
//! is started.

use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Parser;

use crate::cli::{Appfw, ReadyArgs, Subcommand, UnitCommand};
use crate::installed::{self, Mark};
use crate::manager::{self, Kind, Manager, block_on};
use crate::name::unified_cgroup;
use crate::{confine, exit, inside, permanent, say};

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
    let Err(error) = without_environment().and_then(|()| ready(args)) else { return ExitCode::SUCCESS };
    say::failure(NAME, &error);
    tell_journal(&error);
    // As a condition any other code is no failure, but "not now" (systemd.service(5), ExecCondition=).
    let usual = if args.as_condition { u8::MAX } else { exit::OURS };
    failing(usual)
}

/// A failure, as systemd sees it. Where it holds each code as a success, or does not tell, as without a bus, there is none:
/// then the start takes too long (`TimeoutStartSec=`), unless that changes.
fn failing(usual: u8) -> ExitCode {
    loop {
        if let Some(code) = successes().ok().and_then(|held| exit::failing(usual, &held)) {
            return ExitCode::from(code);
        }
        std::thread::sleep(PAUSE);
    }
}

/// The exit codes that systemd counts as a success of this unit's: a drop-in that comes after ours may have added any.
fn successes() -> Result<Vec<i32>> {
    let unit = unit().context("this is in no unit's cgroup")?;
    let mut codes = Vec::new();
    block_on(async {
        let bus = manager::connect().await?;
        let held = Manager::new(&bus).await?.property(&unit, Kind::Service, "SuccessExitStatus").await?;
        codes = confine::service::successes(&held)?.0;
        Ok(())
    })?;
    Ok(codes)
}

/// The unit that this is a command of. Where its name could be a file's of the kernel's, systemd puts a line before it; and
/// where the unit's cgroup is the service's to divide (Delegate=), what is none of the service's is in one of its own below.
fn unit() -> Option<String> {
    let cgroup = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let name = unified_cgroup(&cgroup)?.rsplit('/').find(|name| *name != ".control")?;
    Some(name.strip_prefix('_').unwrap_or(name).to_owned())
}

/// How it is called where it speaks.
const NAME: &str = "appfw ready";

/// Between two questions of what systemd holds.
const PAUSE: Duration = Duration::from_secs(1);

/// Executes this program again, if it has an environment: that is the service's, which its user may write
/// (`EnvironmentFile=`), and says where the bus is, among much else.
fn without_environment() -> Result<()> {
    if std::env::vars_os().next().is_none() {
        return Ok(());
    }
    let words = std::env::args_os().skip(1);
    let error = Command::new("/proc/self/exe").arg0(NAME).args(words).env_clear().exec();
    Err(error).context("cannot leave the unit's environment")
}

/// The unit's output may go elsewhere (`StandardOutput=null`), and who looks for the reason looks at its journal.
fn tell_journal(error: &anyhow::Error) {
    const JOURNAL: &str = "/run/systemd/journal/socket";
    if inside::is_journal(std::io::stderr()) {
        return;
    }
    let unit = unit().unwrap_or_default();
    let sentence = say::harmless(&format!("{error:#}"));
    // By its process journald may not find the unit any more, once this has ended (systemd.journal-fields(7)).
    let entry =
        format!("PRIORITY=3\nSYSLOG_IDENTIFIER=appfw\nOBJECT_SYSTEMD_UNIT={unit}\nMESSAGE={NAME}: {sentence}\n");
    // A journal that isn't there isn't looked at.
    let _ = UnixDatagram::unbound().and_then(|socket| socket.send_to(entry.as_bytes(), JOURNAL));
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
