//! The forwarder: one port, by which everything that the app may reach is reached, and its DNS.
//!
//! ```text
//! listener ─▶ peer (whose connection?) ─▶ request (SOCKS, HTTP) ─▶ admission (rules, not inside) ─▶ upstream ─▶ relay
//! ```

mod addressed;
mod admission;
mod captured;
pub(crate) mod carry;
mod dns;
mod failure;
mod launcher;
mod limits;
mod listeners;
mod log;
mod lookup;
mod peer;
mod pipes;
mod places;
mod record;
mod relay;
mod report;
mod request;
mod routes;
mod session;
mod stream;
mod tls;
mod udp;
mod upstream;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, error, warn};

use crate::cli::{ForwardArgs, Isolate, LogDestinations};
use crate::destination::{Destination, Pattern, Rules};
use crate::dns::Dns;
use crate::tor::find_tor;
use crate::via::Via;

use admission::Admission;
pub use captured::serve_captured;
#[doc(hidden)]
pub use dns::fuzzing as dns_fuzzing;
pub use dns::{serve_datagrams, serve_streams};
use failure::Failure;
pub use failure::{Refused, Rule};
use launcher::Launcher;
pub use limits::{Bound, Limits, REFUSED_NAMES};
use listeners::Listeners;
use log::{Ration, Seldom};
pub use peer::{Peer, PeerWall};
use places::Places;
use relay::Buffers;
pub use report::{Report, Reporter};
use request::HeadRoom;
#[doc(hidden)]
pub use request::fuzzing;
use udp::Relay;
pub use udp::{Raw, serve_captured_datagrams, serve_relay};
use upstream::Upstream;

/// Everything that connections share.
pub struct Forwarder {
    via: String,
    upstream: Upstream,
    /// Whether the app's names are resolved here.
    resolves: bool,
    admission: Admission,
    resolver: Option<dns::Resolver>,
    relay: Option<Relay>,
    /// Of UDP, whoever asked for them.
    associations: Arc<Semaphore>,
    peers: Option<PeerWall>,
    reporter: Arc<Reporter>,
    limits: Limits,
    places: Places,
    refusals: Arc<Semaphore>,
    complaints: Complaints,
    buffers: Buffers,
    heads: HeadRoom,
    log_destinations: bool,
}

/// What is said seldom, or not too often, each by its own clock.
#[derive(Default)]
struct Complaints {
    stranger: Seldom,
    full: Seldom,
    accept: Seldom,
    datagram: Seldom,
    wrong: Ration,
    refused: Ration,
    unanswered: Ration,
    failed: Ration,
}

impl Forwarder {
    /// A forwarder out by `via` (where Tor has been found) that goes inside only where `allowed` says.
    pub fn new(via: &Via, allowed: Vec<Pattern>, limits: Limits) -> Result<Self> {
        Ok(Self {
            via: via.kind(),
            upstream: Upstream::new(via, limits)?,
            resolves: *via == Via::Direct,
            admission: Admission::new(allowed, Path::new("/")),
            resolver: None,
            relay: None,
            associations: Arc::new(Semaphore::new(limits.associations)),
            peers: None,
            reporter: Arc::default(),
            limits,
            places: Places::new(limits.connections),
            refusals: Arc::new(Semaphore::new(limits::REFUSALS)),
            complaints: Complaints::default(),
            buffers: Buffers::default(),
            heads: HeadRoom::default(),
            log_destinations: true,
        })
    }

    /// Divides Tor's circuits so; with [`Isolate::Profile`], forwarders with the same `key` share them.
    pub fn isolating(self, isolate: Isolate, key: Option<&str>) -> Result<Self> {
        Ok(Self { upstream: self.upstream.isolating(isolate, key)?, ..self })
    }

    /// Trusts these authorities, not the system's, to vouch for `https://` upstreams.
    #[must_use]
    pub fn trusting(self, roots: rustls::RootCertStore) -> Self {
        Self { upstream: self.upstream.trusting(roots), ..self }
    }

    /// Answers DNS as `dns` says; `allowed` are the inside destinations that a resolver may be at.
    pub fn with_dns(self, dns: Dns, allowed: Vec<Pattern>) -> Result<Self> {
        Ok(Self { resolver: dns::Resolver::new(dns, allowed, &self.limits)?, ..self })
    }

    /// Goes where `rules` say, and nowhere else.
    #[must_use]
    pub fn with_rules(self, rules: Rules) -> Self {
        Self { admission: self.admission.with_rules(rules, self.resolves), ..self }
    }

    /// Whether its log says where the app went.
    #[must_use]
    pub fn logging_destinations(self, log_destinations: bool) -> Self {
        Self { log_destinations, ..self }
    }

    /// Serves nobody but the processes behind `peers`.
    #[must_use]
    pub fn with_peers(self, peers: PeerWall) -> Self {
        Self { peers: Some(peers), ..self }
    }

    /// Takes datagrams of UDP associations at `socket`, once [`serve_relay`] runs.
    pub fn with_relay(self, socket: UdpSocket) -> Result<Self> {
        let relay = Relay::new(socket).context("cannot tell a socket's address")?;
        Ok(Self { relay: Some(relay), ..self })
    }

    /// Tells the launcher what happens.
    #[must_use]
    pub fn with_reporter(self, reporter: Arc<Reporter>) -> Self {
        Self { reporter, ..self }
    }

    /// The destination by name, where an address was asked for that stands for one.
    ///
    /// # Errors
    /// It would, but stands for none any more.
    fn named(&self, destination: &Destination) -> Result<Option<Destination>, Failure> {
        self.resolver.as_ref().map_or(Ok(None), |resolver| resolver.named(destination))
    }

    /// Whether DNS queries are answered here.
    fn answers_queries(&self) -> bool {
        self.resolver.is_some()
    }

    /// Whether an address is one that stands for a name, or would.
    fn is_synthetic(&self, address: IpAddr) -> bool {
        self.resolver.as_ref().is_some_and(|resolver| resolver.is_synthetic(address))
    }
}

/// What the launches of one profile have in common.
fn read_key(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}, by which circuits are shared", path.display()))
}

/// `appfw forward`: runs until it is told to stop.
pub fn run(mut args: ForwardArgs) -> Result<()> {
    log::start(std::env::var("APPFW_LOG").ok().and_then(|level| level.parse().ok()));
    // An app of root's can take on any user, this one too, but not then look in here.
    nix::sys::prctl::set_dumpable(false).context("cannot close the forwarder to other processes")?;
    let Launcher { reporter, sockets, specs, lifeline } = Launcher::meet(args.report.as_deref(), args.handed)?;
    if !specs.is_empty() {
        args.via = specs;
    }
    let reporter = Arc::new(reporter);
    forward(args, sockets, lifeline, Arc::clone(&reporter)).inspect_err(|error| reporter.cannot_start(error))
}

fn forward(
    args: ForwardArgs,
    sockets: Vec<OwnedFd>,
    lifeline: Option<UnixStream>,
    reporter: Arc<Reporter>,
) -> Result<()> {
    let limits = Limits::of_this_process(&args.limit)?;
    let mut via = Via::from_args(&args.via)?;
    if via.wants_tor() {
        via.settle_tor(find_tor(Path::new("/"))?);
    }
    let isolate = via.isolation(args.isolate)?;
    let dns = args.dns(&via)?;
    let rules = Rules { only: args.only.clone(), block: args.block.clone() };
    let mut forwarder = Forwarder::new(&via, args.allow_destination.clone(), limits)?
        .isolating(isolate, args.isolate_key.as_deref().map(read_key).transpose()?.as_deref())?
        .with_dns(dns, args.allow_destination.clone())?
        .with_rules(rules)
        .logging_destinations(args.log_destinations.unwrap_or_default() == LogDestinations::Yes)
        .with_reporter(reporter);
    if let Some(cgroup) = args.peer_cgroup.clone() {
        forwarder = forwarder.with_peers(PeerWall::new(cgroup));
    }
    // One thread: the work is moving bytes between sockets, which is the kernel's, and one app's
    // connections are served by one core. It starts in no time, and needs no locks to be fair.
    // Lookups of names alone block, and get threads of their own when they come.
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.max_blocking_threads(limits::LOOKUPS).enable_all().build();
    let runtime = runtime.context("cannot start the forwarder's runtime")?;
    let ended = runtime.block_on(async {
        let launcher = async {
            match lifeline {
                Some(launcher) => launcher::ended(launcher).await,
                None => std::future::pending().await,
            }
        };
        let mut stop = signal(SignalKind::terminate()).context("cannot listen to SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to SIGINT")?;
        let Listeners { proxy, captured, captured_datagrams, relay, dns_datagrams, dns_streams, services } =
            Listeners::open(&args, dns, via.carries_datagrams(), sockets)?;
        if let Some(socket) = relay {
            forwarder = forwarder.with_relay(socket)?;
        }
        let forwarder = Arc::new(forwarder);
        let mut serving = JoinSet::new();
        serving.spawn(serve_relay(Arc::clone(&forwarder)));
        for listener in proxy {
            debug!(address = ?listener.local_addr().ok(), %via, "ready");
            serving.spawn(serve(listener, Arc::clone(&forwarder), std::future::pending()));
        }
        for listener in captured {
            debug!(address = ?listener.local_addr().ok(), "takes what is captured");
            serving.spawn(serve_captured(listener, Arc::clone(&forwarder)));
        }
        for (socket, raw) in captured_datagrams {
            serving.spawn(serve_captured_datagrams(socket, raw, Arc::clone(&forwarder)));
        }
        for socket in dns_datagrams {
            debug!(address = ?socket.local_addr().ok(), %dns, "answers DNS");
            serving.spawn(serve_datagrams(socket, Arc::clone(&forwarder)));
        }
        for listener in dns_streams {
            serving.spawn(serve_streams(listener, Arc::clone(&forwarder)));
        }
        for (service, listener) in services {
            debug!(%service, "is reached as if it were here");
            serving.spawn(serve_service(listener, service, Arc::clone(&forwarder)));
        }
        // Connections end with the runtime: there is nothing to save, and the app is over anyway.
        tokio::select! {
            _ = stop.recv() => Ok(()),
            _ = interrupt.recv() => Ok(()),
            ended = launcher => ended,
        }
    });
    // Lookups that nobody can stop are not waited for, or they would go on asking after the app's end.
    runtime.shutdown_background();
    ended
}

/// Serves `listener` until `shutdown`, then ends every connection at once.
pub async fn serve(listener: TcpListener, forwarder: Arc<Forwarder>, shutdown: impl Future<Output = ()>) {
    accept(listener, Purpose::Requests, forwarder, shutdown).await;
}

/// Leads every connection to `listener` to `service`, for ever: what is said there is not looked at.
pub async fn serve_service(listener: TcpListener, service: Destination, forwarder: Arc<Forwarder>) {
    accept(listener, Purpose::Service(Arc::new(service)), forwarder, std::future::pending()).await;
}

/// What the connections to a listener are for.
#[derive(Clone)]
enum Purpose {
    /// What they say.
    Requests,
    /// This service.
    Service(Arc<Destination>),
    /// Wherever each was made to go, when it was captured and led to this port.
    Captured { port: u16 },
}

async fn accept(
    listener: TcpListener,
    purpose: Purpose,
    forwarder: Arc<Forwarder>,
    shutdown: impl Future<Output = ()>,
) {
    let mut sessions = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return,
            Some(_) = sessions.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((client, peer)) => {
                if let Some(session) = Arc::clone(&forwarder).receive(client, peer, &purpose) {
                    sessions.spawn(session);
                }
            }
            // The client gave up while it waited.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if forwarder.complaints.accept.now() {
                    error!("cannot accept connections for the moment: {error}");
                }
                tokio::time::sleep(limits::ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Forwarder {
    /// What becomes of a new connection; `None` if it is closed right here.
    fn receive(
        self: Arc<Self>,
        client: TcpStream,
        peer: SocketAddr,
        purpose: &Purpose,
    ) -> Option<impl Future<Output = ()> + use<>> {
        if !self.serves(&client, peer) {
            return None;
        }
        // Not the listener, of which it would inherit it: who waited there when this process was started, has not.
        session::prepare(&client);
        let asked = match purpose {
            Purpose::Requests => None,
            Purpose::Service(service) => Some(Arc::clone(service)),
            Purpose::Captured { port } => Some(Arc::new(captured::asked(&self, &client, *port)?)),
        };
        let is_query = matches!(purpose, Purpose::Captured { .. })
            && self.answers_queries()
            && asked.as_ref().is_some_and(|asked| asked.port == crate::dns::PORT);
        let mut place = self.places.take();
        let mut waits = None;
        let mut awaited = None;
        if place.is_none() {
            // Who has no place is one of few: as long as it waits for one, or is told that there is none.
            waits = Some(Arc::clone(&self.refusals).try_acquire_owned().ok()?);
            awaited = self.places.make_room();
            if awaited.is_none() && self.complaints.full.now() {
                warn!("as many connections as there can be ({}): more are refused", self.limits.connections);
            }
        }
        Some(async move {
            if let Some(awaited) = awaited {
                place = awaited.free().await;
            }
            if place.is_some() {
                waits = None;
            }
            if is_query && place.is_some() {
                // Others are many: what they never are takes no memory of theirs.
                Box::pin(dns::serve_stream(client, Arc::clone(&self))).await;
            } else {
                session::serve(&self, client, asked, place.is_none()).await;
            }
            drop((place, waits));
        })
    }

    /// Says why a datagram went nowhere. Nobody is answered, and anybody can send many.
    fn complain(&self, failure: &Failure) {
        self.reporter.failure(failure);
        if self.complaints.datagram.now() {
            warn!(udp = true, via = self.via, "{}", self.told(failure));
        }
    }

    /// Whether `peer` is one of those that this forwarder is for.
    fn serves(&self, client: &TcpStream, peer: SocketAddr) -> bool {
        let Some(peers) = &self.peers else { return true };
        let why = match client.local_addr().and_then(|local| peers.peer(peer, local)) {
            Ok(Peer::App) => return true,
            Ok(Peer::Gone) => return false,
            Ok(Peer::Stranger) => "it does not belong to the app".to_owned(),
            // What cannot be told is not the app.
            Err(error) => format!("whose it is cannot be told: {error}"),
        };
        if self.complaints.stranger.now() {
            warn!("closed a connection from {peer}: {why}");
        }
        false
    }
}
