//! The story of a launch.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, getrlimit};
use tokio::net::UnixListener;

use crate::address::{self, Reservation};
use crate::buses::Proxy;
use crate::cli::{LaunchArgs, WallKind};
use crate::confinement::{property, property::Bounds};
use crate::control::Order;
use crate::exit::{self, NotExecuted};
use crate::filters::Programs;
use crate::host::Host;
use crate::keeper::{Keeper, Unit};
use crate::manager::{self, Manager};
use crate::name::{cgroup, manager_of_user};
use crate::packaged::{self, Flatpak};
use crate::plan::{Directory, Identity, Plan, Supervisor, program_of};
use crate::profile::{self, Applied};
use crate::reception::{self, App, Reached};
use crate::say::{self, Say, harmless};
use crate::standalone::{self, Commands, Log, Process, background};
use crate::state::{self, Sockets, State};
use crate::stdio::Streams;
use crate::terminal::Terminal;
use crate::units::{Places, Units, text};
use crate::via::Via;
use crate::view::View;
use crate::wait::{Attendance, Reports, Servants, Signals, Watch};
use crate::{browser, buses, lifeline, publish, taken, tor, verify};

/// Runs the command of `args` behind its wall; returns the exit code.
///
/// # Errors
/// The app was not run: nothing was started, or all of it was taken back.
pub async fn launch(args: &LaunchArgs) -> Result<u8> {
    let say = Say::new(args.quiet, args.verbose);
    let host = Host::read(Path::new("/"))?;
    let (args, applied) = &match args.settled {
        true => (args.clone(), Applied::default()),
        // Within a launch the configuration is hidden, which would be said of it first.
        false => profile::complete(args, Path::new("/"), &host)
            .or_else(|error| standalone::refuse_nested().and(Err(error)))?,
    };
    if let Some(profile) = applied.describe() {
        say.detail(&profile);
        if args.dry_run {
            print(&format!("# {}\n", harmless(&profile)))?;
        }
    }
    let decided = decide(args, &host, applied, &say).await;
    let (mut plan, flatpak) = decided.map_err(|error| applied.explain(error))?;
    let reservation = settle(&mut plan, &host)?;
    let base = state::base(Path::new("/"), &host)?;
    let places = Places::new(&base, &plan);
    match plan.supervisor {
        Supervisor::System | Supervisor::User => {
            by_units(args, &plan, host, &places, reservation, flatpak.as_ref(), &say).await
        }
        Supervisor::Standalone => by_processes(args, &plan, &host, &places, flatpak.as_ref(), &say).await,
    }
}

/// What fails for want of a descriptor would say where, and not why.
///
/// # Errors
/// So few files may be open that a launch would fail.
pub fn expect_descriptors() -> Result<()> {
    // Its pipes, the systems' buses and the sockets of the app's network come to some twenty.
    const TAKEN: u64 = 32;
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < TAKEN => {
            bail!(
                "{limit} files may be open here at a time and a launch takes up to {TAKEN}, so nothing was run: ulimit -n 1024 raises that"
            )
        }
        _ => Ok(()),
    }
}

/// What is to be done. The last point where the user's input can be wrong.
async fn decide(args: &LaunchArgs, host: &Host, applied: &Applied, say: &Say) -> Result<(Plan, Option<Flatpak>)> {
    let via = way_out(args, say)?;
    let mut plan = Plan::new(args, via, host)?;
    // The launcher that goes on in the background has said it before.
    if !args.background {
        applied.openings(args, &plan).iter().for_each(|opening| say.plain(opening));
        if matches!((&plan.app, &plan.directory), (Identity::Caller(_), Directory::Caller(None))) {
            say.warning(
                "the directory that this is started in is gone, or closed to you, so the program starts in your home; --workdir names another",
            );
        }
    }
    if let Some(warning) = plan.warning() {
        say.warning(&warning);
    }
    buses::settle(&mut plan, host, args.dbus.is_some()).await?;
    if let Some(warning) = plan.buses.warning() {
        say.warning(warning);
    }
    let flatpak = packaged::judge(&plan, host)?;
    if args.own_profile {
        browser::own_profile(&mut plan, host)?;
    } else if !args.dry_run {
        browser::refuse_running(&plan, host, &std::env::args_os().skip(1).collect::<Vec<_>>())?;
    }
    Ok((plan, flatpak))
}

/// The launch as units of a systemd.
async fn by_units(
    args: &LaunchArgs,
    plan: &Plan,
    mut host: Host,
    places: &Places,
    reservation: Option<Reservation>,
    flatpak: Option<&Flatpak>,
    say: &Say,
) -> Result<u8> {
    if !args.dry_run {
        manager::expect_cgroups();
    }
    let bus = match &host.user_bus {
        Some(bus) if plan.supervisor == Supervisor::User => manager::connect_to(bus).await,
        _ => manager::connect().await,
    };
    // The version decides on a PID namespace, which root's apps alone get.
    if let (Ok(bus), true) = (&bus, plan.app.user().is_root()) {
        host.systemd = manager::version(bus).await;
    }
    let units = Units::new(plan, &host, places);
    if args.dry_run {
        return print(&text::all(&units));
    }
    units.view.expect_text()?;
    let launch = Launch { plan, view: &units.view, host: &host, say, flatpak };
    launch.announce();
    expect_properties(plan, &host)?;
    if plan.via.has_secret() && !places.base().starts_with("/run") {
        bail!(
            "a password would stand in {}, where the app could come by it: set XDG_RUNTIME_DIR to the session's in /run, or say --standalone",
            places.base().display()
        );
    }
    let bus = match host.booted {
        true => bus?,
        false => bus.context("--system needs a systemd, and none is booted here: leave --system out")?,
    };
    let manager = match plan.supervisor {
        Supervisor::User => Manager::new(&bus).await?.of_user(),
        Supervisor::System | Supervisor::Standalone => Manager::new(&bus).await?,
    };
    if args.unit.is_some() {
        taken::refuse_launch(&plan.name, &units, &manager).await?;
    }
    let filters = Programs::open(&plan.filters, !plan.lists().deny.is_empty())?;
    let held = Held { filters, address: reservation, ports: publish::listeners::open(&plan.publish)? };
    let mut signals = Signals::new()?;
    let streams = Streams::open(plan)?;
    let lifeline = streams.lifeline.try_clone().context("cannot duplicate a pipe")?;
    let state = State::create(places.base(), plan, &host)?;
    let sockets = state.sockets(plan).inspect_err(|_| state.remove())?;
    let _proxy = Proxy::start(&plan.buses, &state.directory).inspect_err(|_| state.remove())?;
    // What was not loaded is not this launch's: units of its names may be another's.
    manager.load(&units, &streams.lifeline_unit).await.inspect_err(|_| state.remove())?;
    let outcome = launch.run_units(&units, &manager, &mut signals, streams, sockets, held).await;
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

/// The launch as processes of the launcher's own.
async fn by_processes(
    args: &LaunchArgs,
    plan: &Plan,
    host: &Host,
    places: &Places,
    flatpak: Option<&Flatpak>,
    say: &Say,
) -> Result<u8> {
    let commands = Commands::new(plan, host, places);
    if args.dry_run {
        return print(&standalone::text(&commands));
    }
    standalone::refuse_nested()?;
    // As a service's drop-in has it.
    if args.settled {
        standalone::refuse_remains()?;
    }
    standalone::expect_null_device()?;
    if plan.detach && !args.background {
        return background::launch();
    }
    if plan.detach {
        background::leave_session()?;
    }
    commands.view.expect_text()?;
    let launch = Launch { plan, view: &commands.view, host, say, flatpak };
    launch.announce();
    let ports = publish::listeners::open(&plan.publish)?;
    let mut signals = Signals::new()?;
    let streams = Streams::open(plan)?;
    let lifeline = streams.lifeline.try_clone().context("cannot duplicate a pipe")?;
    let state = State::create(places.base(), plan, host)?;
    let _proxy = Proxy::start(&plan.buses, &state.directory).inspect_err(|_| state.remove())?;
    let outcome = launch.run_processes(&commands, &mut signals, streams, &state, ports).await;
    lifeline::release(&lifeline);
    state.remove();
    outcome
}

/// What `--property` asks for takes cgroup controllers and limits that a manager may not have, and systemd does
/// without, saying nothing.
///
/// # Errors
/// Names the property that would do nothing.
pub(crate) fn expect_properties(plan: &Plan, host: &Host) -> Result<()> {
    let directory = match plan.supervisor {
        Supervisor::User => manager_of_user(host.caller.uid),
        Supervisor::System | Supervisor::Standalone => "/sys/fs/cgroup".to_owned(),
    };
    let read = |path: String| std::fs::read_to_string(path).unwrap_or_default();
    property::expect(&plan.properties, &read(format!("{directory}/cgroup.controllers")))?;
    if plan.supervisor != Supervisor::User {
        return Ok(());
    }
    let processes = read(format!("{directory}/init.scope/cgroup.procs"));
    // The session's are the same, as a rule.
    let manager = processes.lines().next().unwrap_or("self");
    let limits = read(format!("/proc/{manager}/limits"));
    let oom_score = read(format!("/proc/{manager}/oom_score_adj")).trim().parse().unwrap_or(0);
    Bounds { limits, oom_score }.expect(&plan.properties)
}

/// What is only to be done if `it_is_so`.
async fn when(it_is_so: bool, what: impl Future<Output = Result<()>>) -> Result<()> {
    if it_is_so { what.await } else { Ok(()) }
}

fn print(text: &str) -> Result<u8> {
    say::answer(text).map(|()| 0)
}

/// `--via`, with files read and a word on passwords that the process list shows.
pub(crate) fn way_out(args: &LaunchArgs, say: &Say) -> Result<Via> {
    if args.via.is_empty() {
        let program = program_of(&args.command);
        let is_via = |word: &OsString| word == "--via" || word.as_bytes().starts_with(b"--via=");
        if args.command.iter().skip(1).any(is_via) {
            bail!(
                "where may {program} go? options stand before the command, and what follows {program} is its own: write --via … {program}"
            );
        }
        bail!(
            "where may {} go? --via tor, --via socks5h://HOST:PORT, --via direct with --only, or --via none",
            program
        );
    }
    let via = Via::from_args(&args.via)?;
    // What stands in files, by a name or by @FILE, is seen by nobody.
    let written = args.given.get("via").unwrap_or_default().iter().filter_map(|spec| spec.to_str());
    if written.flat_map(|spec| Via::parse(&[spec.to_owned()])).any(|via| via.has_secret()) {
        say.warning("a password in --via is seen by everyone in the process list; keep the spec in a file of mode 0600 and write --via @FILE");
    }
    Ok(via)
}

/// The variable that a word sets before a shell's command, if it is one.
pub(crate) fn variable(word: &str) -> Option<&str> {
    let (name, _) = browser::assignment(word)?;
    (!name.starts_with(|c: char| c.is_ascii_digit())).then_some(name)
}

/// What stands between the plan and the start: Tor's port is looked for, the address is reserved.
fn settle(plan: &mut Plan, host: &Host) -> Result<Option<Reservation>> {
    if plan.via.wants_tor() {
        plan.via.settle_tor(tor::find_tor(Path::new("/"))?);
    }
    if !(plan.has_forwarder() && plan.wall == WallKind::Address) {
        return Ok(None);
    }
    let reservation = address::reserve(plan.address, host.random, |_| false)?;
    plan.listen_at(reservation.address);
    Ok(Some(reservation))
}

/// Resolves if a sandbox that the program was to make came up elsewhere.
async fn left_the_wall(flatpak: Option<&Flatpak>) -> anyhow::Error {
    match flatpak {
        Some(flatpak) => flatpak.left().await,
        None => std::future::pending().await,
    }
}

/// What `inside` made in the app's namespaces, for others.
struct Made {
    /// For the forwarder.
    sockets: Vec<OwnedFd>,
    /// The namespaces themselves, for who publishes ports.
    namespaces: Vec<OwnedFd>,
}

/// What a launch holds of the host's until others have it.
struct Held {
    /// The user's filters.
    filters: Programs,
    /// The forwarder's address.
    address: Option<Reservation>,
    /// The listeners of published ports.
    ports: Vec<OwnedFd>,
}

/// A launch under way.
struct Launch<'a> {
    plan: &'a Plan,
    view: &'a View,
    host: &'a Host,
    say: &'a Say,
    flatpak: Option<&'a Flatpak>,
}

impl Launch<'_> {
    fn announce(&self) {
        let Plan { name, wall, via, supervisor, .. } = self.plan;
        let (wall, supervisor) = (wall.as_str(), supervisor.as_str());
        self.say.detail(&format!("launch {name} in the {wall} wall, via {via}; who runs it: {supervisor}"));
    }

    /// From the moment at which systemd has the units.
    async fn run_units(
        &self,
        units: &Units,
        manager: &Manager<'_>,
        signals: &mut Signals,
        streams: Streams,
        sockets: Sockets,
        held: Held,
    ) -> Result<u8> {
        drop(streams.lifeline_unit); // PID 1 has its copies
        let builds = self.plan.supervisor == Supervisor::System;
        let (_, watch) =
            tokio::try_join!(when(builds, verify::app(manager, units)), Watch::new(manager, &units.app.name))?;
        let mut keeper = Unit { manager, watch, launch: &self.plan.name };
        let terminal = streams.terminal.map(|pty| Terminal::open(pty, streams.lifeline)).transpose()?;
        // The order, without which `inside` executes nothing, comes after both.
        let ending = verify::ending(manager, units, !builds);
        let started = tokio::try_join!(manager.start(units), when(builds, verify::servants(manager, units)), ending);
        // What runs before `inside`, as root, says why it failed.
        started.map_err(|error| reception::refusal_of_root(&sockets.control).unwrap_or(error))?;
        drop(held.address); // the socket has it
        // Closed when `inside` has been heard: nobody else has anything to say here.
        let control = UnixListener::from_std(sockets.control).context("cannot use a socket")?;
        let own = self.plan.name.cgroup();
        let inside = async move { reception::accept_of(&own, &control).await };
        let report = UnixListener::from_std(sockets.report).context("cannot read the forwarder's report")?;
        let permit = || held.filters.expect_attached(&self.plan.name.cgroup_directory());
        let order = self.order(&streams.app);
        let reached = reception::receive(&mut keeper, inside, permit, &order, &streams.app, signals).await;
        // The pty reports its end once nobody holds the app's side.
        drop(streams.app);
        let publish = sockets.publish.map(UnixListener::from_std).transpose().context("cannot use a socket")?;
        let name = &self.plan.name;
        let servants = |_: &mut Unit<'_>, made: Made| Servants {
            forwarder: match self.plan.has_forwarder() {
                true => Reports::of_unit(cgroup(&name.forwarder()), report, made.sockets),
                false => Reports::None,
            },
            publisher: publish.map_or(Reports::None, |listener| {
                let handed = held.ports.into_iter().chain(made.namespaces).collect();
                Reports::of_unit(cgroup(&name.publisher()), listener, handed)
            }),
        };
        self.attend(keeper, reached, servants, signals, terminal).await
    }

    async fn run_processes(
        &self,
        commands: &Commands,
        signals: &mut Signals,
        mut streams: Streams,
        state: &State,
        ports: Vec<OwnedFd>,
    ) -> Result<u8> {
        let log = Log::new(state.log()?);
        if self.plan.detach {
            streams.app = log.streams(self.plan.app.user())?;
        }
        let terminal = match streams.terminal {
            Some(pty) => {
                lifeline::start(&self.host.appfw, streams.lifeline_unit)?;
                Some(Terminal::open(pty, streams.lifeline)?)
            }
            None => None,
        };
        let (mut keeper, inside) = Process::start(commands, self.plan.app.user(), self.plan.detach)?;
        let order = self.order(&streams.app);
        let reached =
            reception::receive(&mut keeper, async { Ok(inside) }, || Ok(()), &order, &streams.app, signals).await;
        drop(streams.app);
        if self.plan.detach && matches!(reached, Ok(Reached::Executed(_))) {
            self.say_detached("in the background");
            background::let_caller_go(&log)?;
        }
        let secret = if self.plan.via.has_secret() { self.plan.via.secret_specs() } else { Vec::new() };
        let servants = |keeper: &mut Process, made: Made| Servants {
            forwarder: keeper.forwards(commands, made.sockets, &secret, log.clone()),
            publisher: keeper.publishes(commands, ports, made.namespaces, log),
        };
        self.attend(keeper, reached, servants, signals, terminal).await
    }

    /// From the program's execution to its end. `servants` says where the reports of those come from that serve the app,
    /// given what `inside` made for them.
    async fn attend<K: Keeper>(
        &self,
        mut keeper: K,
        reached: Result<Reached>,
        servants: impl FnOnce(&mut K, Made) -> Servants,
        signals: &mut Signals,
        terminal: Option<Terminal>,
    ) -> Result<u8> {
        let code = match reached {
            Ok(Reached::Executed(mut app)) if self.plan.detach && self.plan.supervisor != Supervisor::Standalone => {
                servants(&mut keeper, self.made(&mut app)).handed_over().await?;
                self.say_detached(&format!("as {}", keeper.name()));
                return Ok(0);
            }
            Ok(Reached::Executed(mut app)) => {
                let servants = servants(&mut keeper, self.made(&mut app));
                let attendance = Attendance { plan: self.plan, say: self.say, terminal: terminal.as_ref() };
                tokio::select! {
                    code = attendance.until_over(&mut keeper, signals, app, servants) => code,
                    error = left_the_wall(self.flatpak) => Err(error),
                }
            }
            Ok(Reached::Ended(code)) => Ok(code),
            Err(error) => Err(self.hint(error)),
        };
        if let Some(terminal) = &terminal {
            terminal.drain();
        }
        code
    }

    /// What `inside` handed over: the forwarder's sockets first, as many as were asked for.
    fn made(&self, app: &mut App) -> Made {
        let mut sockets = std::mem::take(&mut app.sockets);
        let namespaces = sockets.split_off(self.plan.listening().len().min(sockets.len()));
        Made { sockets, namespaces }
    }

    fn say_detached(&self, how: &str) {
        self.say.plain(&format!("{} runs {how}; appfw stop {0} ends it", self.plan.name));
    }

    /// What `inside` is told once the wall is proven.
    fn order(&self, streams: &[OwnedFd]) -> Order {
        Order::for_app(self.plan, self.view, self.host, streams.len())
    }

    /// A subcommand of `appfw` is most likely what was meant by a word that is no program, or a shell's `K=V` before one.
    fn hint(&self, error: anyhow::Error) -> anyhow::Error {
        let program = self.plan.program();
        match error.downcast::<NotExecuted>() {
            Ok(failure) if failure.code == exit::NOT_FOUND => {
                let hint = match variable(&program) {
                    Some(name) => format!("; a variable is set by --env {name}=…"),
                    None if crate::cli::is_subcommand(&program) => format!("; did you mean `appfw {program}`?"),
                    None => String::new(),
                };
                anyhow::Error::new(NotExecuted { message: failure.message + &hint, ..failure })
            }
            Ok(failure) => anyhow::Error::new(failure),
            Err(error) => error,
        }
    }
}
