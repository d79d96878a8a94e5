//! The story of a launch.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::address::{self, Reservation};
use crate::cli::{LaunchArgs, WallKind};
use crate::confinement;
use crate::control::Order;
use crate::environment::app_environment;
use crate::exit::{self, NotExecuted};
use crate::host::Host;
use crate::manager::{self, Manager};
use crate::plan::{Directory, Plan, program_of};
use crate::reception::{self, Reached};
use crate::say::Say;
use crate::state::{self, Sockets, State};
use crate::stdio::Streams;
use crate::terminal::{Settings, Terminal};
use crate::units::{Places, Units, text};
use crate::via::Via;
use crate::wait::{Attendance, Signals, Watch};
use crate::{lifeline, tor, verify};

/// Runs the command of `args` behind its wall; returns the exit code.
///
/// # Errors
/// The app was not run: nothing was started, or all of it was taken back.
pub async fn launch(args: &LaunchArgs) -> Result<u8> {
    let say = Say::new(args.quiet, args.verbose);
    let mut host = Host::read(Path::new("/"))?;
    let via = way_out(args, &say)?;
    let mut plan = Plan::new(args, via, &host)?; // the last point where the user's input can be wrong
    if let Some(warning) = plan.warning() {
        say.warning(&warning);
    }
    let reservation = settle(&mut plan, &host)?;
    let base = state::base(Path::new("/"), &host)?;
    if !args.dry_run {
        manager::expect_cgroups();
    }
    let bus = manager::connect().await;
    // The version decides on a PID namespace, which root's apps alone get.
    if let (Ok(bus), true) = (&bus, plan.app.user().is_root()) {
        host.systemd = manager::version(bus).await;
    }
    let units = Units::new(&plan, &host, &Places::new(&base, &plan));
    if args.dry_run {
        std::io::stdout().write_all(text::all(&units).as_bytes()).context("cannot print the units")?;
        return Ok(0);
    }
    say.detail(&format!("launch {} in the {} wall, via {}", plan.name, plan.wall.as_str(), plan.via));
    let bus = bus?;
    let manager = Manager::new(&bus).await?;
    let mut signals = Signals::new()?;
    let streams = Streams::open(&plan)?;
    let (state, sockets) = State::create(&base, &plan, &host)?;
    let lifeline = streams.lifeline.try_clone().context("cannot duplicate a pipe")?;
    let launch = Launch { plan: &plan, units: &units, host: &host, say: &say };
    let outcome = launch.run(&manager, &mut signals, streams, sockets, reservation).await;
    lifeline::release(&lifeline);
    drop(lifeline);
    if !(plan.detach && outcome.is_ok()) {
        // What is over in order goes by itself in a moment; that is only waited for where the name
        // may be used again at once.
        if outcome.is_err() || args.unit.is_some() {
            manager.take_back(&units, outcome.is_ok()).await;
        }
        state.remove();
    }
    outcome
}

/// `--via`, with files read and a word on passwords that the process list shows.
fn way_out(args: &LaunchArgs, say: &Say) -> Result<Via> {
    if args.via.is_empty() {
        bail!(
            "where may {} go? --via tor, --via socks5h://HOST:PORT, --via direct with --only, or --via none",
            program_of(&args.command)
        );
    }
    let via = Via::from_args(&args.via)?;
    if via.has_secret() && !args.via.iter().any(|spec| spec.starts_with('@')) {
        say.warning("a password in --via is seen by everyone in the process list; keep the spec in a file of mode 0600 and write --via @FILE");
    }
    Ok(via)
}

/// What stands between the plan and the start: Tor's port is looked for, the address is reserved.
fn settle(plan: &mut Plan, host: &Host) -> Result<Option<Reservation>> {
    if plan.via.wants_tor() {
        plan.via.settle_tor(tor::find_tor(Path::new("/"))?);
    }
    if !(plan.has_forwarder() && plan.wall == WallKind::Address) {
        return Ok(None);
    }
    let reservation = address::reserve(plan.address, host.random)?;
    plan.listen_at(reservation.address);
    Ok(Some(reservation))
}

/// A launch under way.
struct Launch<'a> {
    plan: &'a Plan,
    units: &'a Units,
    host: &'a Host,
    say: &'a Say,
}

impl Launch<'_> {
    async fn run(
        &self,
        manager: &Manager<'_>,
        signals: &mut Signals,
        streams: Streams,
        sockets: Sockets,
        reservation: Option<Reservation>,
    ) -> Result<u8> {
        let saved = streams.terminal.as_ref().map(|_| Settings::of(std::io::stdin())).transpose()?;
        if let Some(settings) = &saved {
            lifeline::remember(&streams.lifeline, settings)?;
        }
        manager.load(self.units, &streams.lifeline_unit).await?;
        drop(streams.lifeline_unit); // PID 1 has its copies
        let (_, mut watch) =
            tokio::try_join!(verify::app(manager, self.units), Watch::new(manager, &self.units.app.name))?;
        let terminal = match (streams.terminal, saved) {
            (Some(pty), Some(saved)) => Some(Terminal::open(pty, saved)?),
            _ => None,
        };
        // The order, without which `inside` executes nothing, comes after both.
        tokio::try_join!(manager.start(self.units), verify::forwarder(manager, self.units))?;
        drop(reservation); // the socket has its address
        let order = self.order(streams.app.len());
        let reached =
            reception::receive(self.plan, sockets.control, &order, &streams.app, &mut watch, signals, manager).await;
        // The pty reports its end once nobody holds the app's side.
        drop(streams.app);
        let code = match reached {
            Ok(Reached::Executed(_)) if self.plan.detach => {
                self.say.plain(&format!("{} runs as {}; appfw stop {0} ends it", self.plan.name, self.units.app.name));
                return Ok(0);
            }
            Ok(Reached::Executed(app)) => {
                let terminal = terminal.as_ref();
                let attendance = Attendance { plan: self.plan, say: self.say, manager, terminal };
                attendance.until_over(&mut watch, signals, app, sockets.report).await
            }
            Ok(Reached::Ended(code)) => Ok(code),
            Err(error) => Err(self.hint(error)),
        };
        if let Some(terminal) = &terminal {
            terminal.drain();
        }
        code
    }

    /// What `inside` is told once the wall is proven.
    fn order(&self, descriptors: usize) -> Order {
        let home = &self.plan.app.user().home;
        Order {
            view: self.units.view.clone(),
            bounding: confinement::bounding(),
            command: self.plan.command.clone(),
            descriptors,
            environment: app_environment(self.plan, &self.host.environment),
            directories: match &self.plan.directory {
                Directory::Asked(directory) => vec![directory.clone()],
                Directory::Caller(directory) => directory.iter().cloned().chain([home.clone(), "/".into()]).collect(),
            },
        }
    }

    /// A subcommand of `appfw` is most likely what was meant by a word that is no program.
    fn hint(&self, error: anyhow::Error) -> anyhow::Error {
        let program = self.plan.program();
        match error.downcast::<NotExecuted>() {
            Ok(failure) if failure.code == exit::NOT_FOUND && crate::cli::is_subcommand(&program) => {
                let message = format!("{}; did you mean `appfw {program}`?", failure.message);
                anyhow::Error::new(NotExecuted { message, ..failure })
            }
            Ok(failure) => anyhow::Error::new(failure),
            Err(error) => error,
        }
    }
}
