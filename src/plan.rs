//! Everything decided about one launch, before anything is done. The last point where the user's
//! input can be wrong. Pure.

mod resolution;
mod supervisor;
mod tenure;
mod wall;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::buses::Buses;
use crate::cli::{Capture, Isolate, LaunchArgs, LogDestinations, WallKind};
use crate::confinement::property;
use crate::destination::{Pattern, Rules};
use crate::dns::{self, Dns};
use crate::environment::{exempt, proxy_variables};
use crate::filters::Filters;
use crate::host::{Host, User};
use crate::listening::{Kind, Listening};
use crate::name::LaunchName;
use crate::network::{self, IpLists};
use crate::publish::Published;
use crate::say::shown;
use crate::units::Setting;
use crate::via::Via;

pub use supervisor::Supervisor;
pub use tenure::Tenure;
pub(crate) use wall::parse_address;

/// The forwarder's address in a namespace, where nobody else can hold it.
pub const ADDRESS: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 100, 90, 50), PORT);
/// The forwarder's port unless `--address` names another.
pub const PORT: u16 = 1080;
/// Where captured connections and datagrams arrive in the app's namespace, at any address.
pub const CAPTURE_PORT: u16 = 1081;

/// Of the namespace wall's second interface: of TEST-NET-1 (RFC 5737), which is nobody's, and alone in its network, so that
/// no other address is reached by it. Not link-local: some programs take that for "no network".
pub const PAIR_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);

/// One launch.
#[derive(Debug)]
pub struct Plan {
    /// Its name.
    pub name: LaunchName,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Who supervises it.
    pub supervisor: Supervisor,
    /// How long its units last.
    pub tenure: Tenure,
    /// What keeps the app in.
    pub wall: WallKind,
    /// What of the app's traffic is captured.
    pub capture: Capture,
    /// Ports of the host that lead to the app's.
    pub publish: Vec<Published>,
    /// The upstream behind the forwarder; `Via::None` has no forwarder.
    pub via: Via,
    /// The files that `--via @FILE` has read: with passwords, and the way out of the next start in them.
    pub via_files: Vec<PathBuf>,
    /// What shares Tor's circuits.
    pub isolate: Isolate,
    /// The profile that applies.
    pub profile: Option<String>,
    /// Where the forwarder listens. In the address wall without `--address` the port alone is
    /// decided yet: the address is reserved by binding it.
    pub address: SocketAddrV4,
    /// `--allow` and `--deny`, as given.
    rules: IpLists,
    /// `--ingress-filter` and `--egress-filter`.
    pub filters: Filters,
    /// `--only` and `--block`: what the forwarder lets through.
    pub destinations: Rules,
    /// Whether `--only` is not the command line's, where one would take the place of all these.
    pub has_inherited_only: bool,
    /// Inside addresses that the forwarder may reach.
    pub allow_destination: Vec<Pattern>,
    /// As whom the app runs.
    pub app: Identity,
    /// Where the app starts.
    pub directory: Directory,
    /// The caller's umask.
    pub umask: u32,
    /// The scheme of the proxy variables' values and what they hold.
    pub proxy_variables: Vec<(String, String)>,
    scheme: crate::cli::EnvScheme,
    /// What the app has of the message buses.
    pub buses: Buses,
    /// `--own-profile`: a directory that `inside` makes, if it isn't there.
    pub own_directory: Option<PathBuf>,
    /// `--env`.
    pub env: Vec<(OsString, OsString)>,
    /// What the app's descriptors 0-2 are.
    pub stdio: Stdio,
    /// How the forwarder answers DNS.
    pub dns: Dns,
    /// Whose resolver configuration the app sees.
    pub resolver: Resolver,
    /// Whether the forwarder's log says where the app went.
    pub log_destinations: LogDestinations,
    /// `--property`: what the caller sets of the app's unit.
    pub properties: Vec<Setting>,
    /// Return once the program is executed.
    pub detach: bool,
    /// End the launch with its main process.
    pub exit_with_main: bool,
}

/// As whom the app runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Identity {
    /// As the caller, with the caller's environment.
    Caller(User),
    /// As another user, with little of the caller's environment.
    Other(User),
}

impl Identity {
    /// The user.
    #[must_use]
    pub fn user(&self) -> &User {
        match self {
            Self::Caller(user) | Self::Other(user) => user,
        }
    }
}

/// The app's working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Directory {
    /// `--workdir`: it must be enterable.
    Asked(PathBuf),
    /// The caller's. Where the app's user is another, who may not enter it, or it is nobody's: the user's home, then `/`.
    Caller(Option<PathBuf>),
}

/// What the app's descriptors 0-2 are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdio {
    /// Input and output are terminals: a pty of the app's own (the errors too, if a terminal).
    Terminal {
        /// Whether descriptor 2 is a terminal as well.
        errors: bool,
    },
    /// The caller's descriptors themselves, byte-exact.
    Descriptors,
    /// `--detach`: nothing to read, output to the journal.
    Journal,
}

/// Whose resolver configuration the app sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolver {
    /// Ours: names are not resolved in the app, and the host's resolver is hidden.
    Off,
    /// Ours: the forwarder answers, and the host's resolver is hidden.
    Forwarder,
    /// The host's, untouched: plain rules that leave everything open but what they deny.
    Host,
}

impl Plan {
    /// Decides a launch from the command line (`via` is its `--via`, read and parsed) and the host.
    ///
    /// # Errors
    /// An option that this wall or manager cannot honour, naming the one that can; a value that
    /// does not parse.
    pub fn new(args: &LaunchArgs, via: Via, host: &Host) -> Result<Self> {
        let command = &args.command;
        let program = program_of(command);
        if program.is_empty() {
            bail!("the command is empty; write appfw-run --via tor COMMAND");
        }
        let supervisor = Supervisor::choose(args, host)?;
        let rules = IpLists {
            allow: network::parse_list("--allow", &args.allow)?,
            deny: network::parse_list("--deny", &args.deny)?,
        };
        let filters = Filters::parse(&args.ingress_filter, &args.egress_filter, supervisor, host)?;
        let (wall, rules) = wall::choose(args.wall, supervisor, host, &via, rules, &filters)?;
        if wall == WallKind::Namespace
            && supervisor == Supervisor::System
            && !(host.caller.is_root() || host.appfw_is_public)
        {
            bail!(
                "--wall namespace under --system runs {} as root, and an ordinary user's can be changed by that user's programs: install appfw below /usr, or leave --system out",
                host.appfw.display()
            );
        }
        let capture = wall::capture(args, wall, supervisor, &via)?;
        let publish = Published::parse_list(&args.publish, wall)?;
        if via == Via::None {
            refuse_destinations(args)?;
        }
        let address = wall::address(args.address.as_deref(), wall, &via)?;
        let user = match &args.uid {
            Some(word) => (host.find_user)(word)?,
            None => host.caller.clone(),
        };
        let app = if user.uid == host.caller.uid { Identity::Caller(user) } else { Identity::Other(user) };
        let buses = Buses::choose(args.dbus, &app, args.detach, host)?;
        let name = match &args.unit {
            Some(name) => LaunchName::new(name)?,
            None => LaunchName::for_command(command[0].as_ref(), host.random),
        };
        let directory = match &args.workdir {
            Some(directory) if directory.is_absolute() => Directory::Asked(directory.clone()),
            Some(directory) => match &host.directory {
                Some(base) => Directory::Asked(base.join(directory)),
                None => bail!("--workdir {}: relative to a directory that is gone", directory.display()),
            },
            None => Directory::Caller(host.directory.clone()),
        };
        let allow_destination = Pattern::parse_list("--allow-destination", &args.allow_destination)?;
        let destinations = Rules {
            only: Pattern::parse_list("--only", &args.only)?,
            block: Pattern::parse_list("--block", &args.block)?,
        };
        let (dns, resolver) = match via {
            Via::None => resolution::without_forwarder(args.dns.as_deref(), wall, &rules)?,
            _ => resolution::of_forwarder(args.dns.as_deref(), wall, &via, &destinations, &allow_destination)?,
        };
        let mut plan = Self {
            name,
            command: command.clone(),
            supervisor,
            tenure: Tenure::Launch,
            wall,
            capture,
            publish,
            via_files: via_files(&args.via, host),
            isolate: via.isolation(args.isolate)?,
            profile: args.profile.clone(),
            via,
            address,
            rules,
            filters,
            destinations,
            has_inherited_only: args.given.get("only").is_none(),
            allow_destination,
            app,
            directory,
            umask: host.umask,
            proxy_variables: Vec::new(),
            scheme: args.env_scheme.unwrap_or_default(),
            buses,
            own_directory: None,
            env: parse_env(&args.env, host)?,
            stdio: choose_stdio(args.detach, host.terminals),
            dns,
            resolver,
            log_destinations: args.log_destinations.unwrap_or_default(),
            properties: property::parse(&args.property, supervisor, host.booted)?,
            detach: args.detach,
            exit_with_main: args.exit_with_main,
        };
        if args.env_scheme.is_some() && !plan.has_forwarder() {
            bail!("--env-scheme says how programs reach the forwarder, and --via none has none");
        }
        if args.log_destinations.is_some() && !plan.has_forwarder() {
            bail!("--log-destinations is about the forwarder's log, and --via none has none");
        }
        plan.listen_at(address);
        plan.refuse_clash()?;
        Ok(plan)
    }

    /// Settles the forwarder's address, and the proxy variables that follow from it.
    pub fn listen_at(&mut self, address: SocketAddrV4) {
        self.address = address;
        if self.has_forwarder() {
            // By any other DNS the forwarder would hear of an address where the variable tells it the name.
            let captured = self.capture != Capture::Off && matches!(self.dns, Dns::Synthetic | Dns::Host);
            let exempt = exempt(self.wall, self.capture, &self.rules.allow, &self.allow_destination);
            self.proxy_variables = proxy_variables(self.scheme, address, &exempt, captured);
        }
    }

    /// The profile whose launches share Tor's circuits, if any do.
    #[must_use]
    pub fn shares_circuits(&self) -> Option<&str> {
        self.profile.as_deref().filter(|_| self.isolate == Isolate::Profile)
    }

    /// Whether there is a forwarder.
    #[must_use]
    pub fn has_forwarder(&self) -> bool {
        self.via != Via::None
    }

    /// Whether what is started while the app runs is surely what was started before it. A user's own manager
    /// has the programs that every user may execute alone; by PID 1 it is enough that they are root's.
    #[must_use]
    pub fn has_fixed_program(&self, host: &Host) -> bool {
        host.appfw_is_public || (self.supervisor == Supervisor::System && host.appfw_is_roots)
    }

    /// Whether a socket unit makes the forwarder's sockets. The user's own manager can put none into a
    /// namespace (systemd/systemd#29429).
    #[must_use]
    pub fn has_socket_unit(&self) -> bool {
        self.has_forwarder() && self.supervisor == Supervisor::System
    }

    /// Whether the forwarder takes datagrams of SOCKS5's associations at its address. Each listening socket
    /// costs time at every launch, so there is none for what would be refused. In the address wall
    /// anybody on the host could send there in the app's name.
    #[must_use]
    pub fn has_relay(&self) -> bool {
        self.wall != WallKind::Address && self.via.carries_datagrams()
    }

    /// Where, inside the app's namespace, connections to a service on the host's loopback are taken, so
    /// that programs that know no proxy reach it: `--allow-destination` of one loopback address and port.
    /// In the address wall the app would be on the host's loopback itself, all of its ports.
    #[must_use]
    pub fn services(&self) -> Vec<SocketAddr> {
        if self.wall == WallKind::Address || !self.has_forwarder() {
            return Vec::new();
        }
        let mut services: Vec<_> = self.allow_destination.iter().filter_map(Pattern::loopback_socket).collect();
        services.sort_unstable();
        services.dedup();
        services
    }

    /// The sockets that the forwarder serves, in the order in which it gets them.
    #[must_use]
    pub fn listening(&self) -> Vec<Listening> {
        if !self.has_forwarder() {
            return Vec::new();
        }
        let at = |kind: Kind, port: u16| Listening { kind, address: (*self.address.ip(), port).into() };
        let everywhere = |kind: Kind, port: u16| {
            [IpAddr::V4(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()]
                .map(|any| Listening { kind, address: (any, port).into() })
        };
        let captures = self.capture != Capture::Off;
        let mut listening = vec![at(Kind::Stream, self.address.port())];
        if self.has_relay() {
            listening.push(at(Kind::Datagram, self.address.port()));
        }
        if captures {
            listening.extend(everywhere(Kind::Stream, CAPTURE_PORT));
        }
        if self.capture == Capture::Datagrams {
            listening.extend(everywhere(Kind::Datagram, CAPTURE_PORT));
            listening.extend(everywhere(Kind::Raw, 0));
        }
        if self.dns != Dns::Off {
            match captures {
                true => listening.extend(everywhere(Kind::Datagram, dns::PORT)),
                false => listening.push(at(Kind::Datagram, dns::PORT)),
            }
            listening.push(at(Kind::Stream, dns::PORT));
        }
        listening.extend(self.services().into_iter().map(|address| Listening { kind: Kind::Stream, address }));
        listening
    }

    /// The app's `IPAddressAllow=` and `IPAddressDeny=`.
    #[must_use]
    pub fn lists(&self) -> IpLists {
        match (self.wall, self.has_forwarder()) {
            (WallKind::Address, false) => self.rules.clone(),
            // The filter would drop what is captured, and close the app's own loopback.
            (WallKind::Namespace, _) => IpLists::default(),
            (_, false) => IpLists::only(Vec::new()),
            (_, true) => {
                let own = network::host(*self.address.ip());
                let services = self.services().into_iter().map(|at| network::host(at.ip()));
                IpLists::only(std::iter::once(own).chain(self.rules.allow.iter().copied()).chain(services))
            }
        }
    }

    /// The forwarder's own sockets are in the same namespace as those of [`Self::services`].
    fn refuse_clash(&self) -> Result<()> {
        let own = |at: &SocketAddr| match at.port() {
            CAPTURE_PORT if self.capture != Capture::Off => Some("the forwarder itself, at every address,"),
            _ if at.ip() != *self.address.ip() => None,
            port if port == self.address.port() => Some("the forwarder itself"),
            dns::PORT if self.dns != Dns::Off => Some("its DNS"),
            _ => None,
        };
        let services = self.services();
        if let Some((at, who)) = services.iter().find_map(|at| own(at).map(|who| (at, who))) {
            bail!(
                "--allow-destination {at}: in the program's namespace {who} listens there; let the service listen at another address or port"
            );
        }
        // Who connects would be led to the forwarder, and by it to the host.
        let published = self.publish.iter().find_map(|published| {
            let inside = published.inside();
            let at = inside.iter().find(|at| services.contains(at) || own(at).is_some())?;
            Some((published, *at))
        });
        match published {
            Some((published, at)) => bail!(
                "--publish {published}: in the program's namespace the forwarder listens at {at}; let the program listen at another port"
            ),
            None => Ok(()),
        }
    }

    /// What the rules cannot do here, though one might think so.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        match (&self.via, self.destinations.blind_block()) {
            (Via::Chain(_), Some(block)) => Some(format!(
                "--block {block} keeps out what is asked for by address; a name is resolved by the upstream, and may lead there: block the name as well"
            )),
            _ => None,
        }
    }

    /// The program as the user wrote it, for messages.
    #[must_use]
    pub fn program(&self) -> String {
        program_of(&self.command)
    }
}

/// The program of a command as the user wrote it, for messages.
#[must_use]
pub fn program_of(command: &[OsString]) -> String {
    command.first().map(|word| shown(word)).unwrap_or_default()
}

/// Without a forwarder nobody judges destinations.
fn refuse_destinations(args: &LaunchArgs) -> Result<()> {
    let LaunchArgs { only, block, allow_destination, .. } = args;
    let given = [("--only", only, "--deny any with --allow"), ("--block", block, "--deny")]
        .into_iter()
        .chain([("--allow-destination", allow_destination, "--allow")])
        .find(|(_, words, _)| !words.is_empty());
    match given {
        Some((option, _, instead)) => bail!(
            "{option} is the forwarder's, and --via none has none; use {instead} for addresses, or --via direct for names"
        ),
        None => Ok(()),
    }
}

fn via_files(specs: &[String], host: &Host) -> Vec<PathBuf> {
    let here = host.directory.clone().unwrap_or_default();
    specs.iter().filter_map(|spec| spec.strip_prefix('@')).map(|file| here.join(file)).collect()
}

fn choose_stdio(detach: bool, [input, output, errors]: [bool; 3]) -> Stdio {
    match (detach, input && output) {
        (true, _) => Stdio::Journal,
        (false, true) => Stdio::Terminal { errors },
        // A terminal among pipes stays the caller's: `appfw-run … | less` shares it with less, so
        // it must not be put into raw mode.
        (false, false) => Stdio::Descriptors,
    }
}

/// `--env K=V` and `--env K` (the caller's K, if it has one).
fn parse_env(words: &[String], host: &Host) -> Result<Vec<(OsString, OsString)>> {
    let mut environment = Vec::new();
    for word in words {
        let (name, value) = split_variable(word)?;
        let callers = || host.environment.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
        environment.extend(value.map(OsString::from).or_else(callers).map(|value| (OsString::from(name), value)));
    }
    Ok(environment)
}

/// `NAME=VALUE`, or `NAME` alone.
pub(crate) fn split_variable(word: &str) -> Result<(&str, Option<&str>)> {
    let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
    if name.is_empty() || name.contains('\0') {
        bail!("--env {word:?}: takes NAME=VALUE or NAME");
    }
    Ok((name, value))
}

#[cfg(test)]
mod tests;
