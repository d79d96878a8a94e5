//! Datagrams between the app, at sockets that stand already, and wherever the way out leads: by SOCKS5's UDP
//! ASSOCIATE, or captured.
//!
//! ```text
//! session (the request) ─▶ association, as long as its connection
//! relay's socket ─▶ packet ─▶ sources (whose?) ─┐
//! captured ─▶ an association for each sender ───┴─▶ flows (judged?) ─▶ outlet ─▶ flows (asked for?) ─▶ inlet ─▶ back
//! ```

mod association;
mod captured;
mod flows;
mod inlet;
mod ip;
mod lookups;
pub(super) mod packet;
mod sources;

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::Forwarder;
use super::failure::Failure;
use super::limits::{ACCEPT_PAUSE, DATAGRAM_BYTES};
use super::request::Associate;
use association::{Association, LookUp};
pub use captured::serve_captured_datagrams;
use inlet::Inlet;
pub use inlet::Raw;
use lookups::Lookups;
use sources::Sources;

/// Where the app's datagrams arrive, for all associations.
pub(super) struct Relay {
    socket: UdpSocket,
    address: SocketAddr,
    sources: Mutex<Sources<Association>>,
}

impl Relay {
    /// A relay at `socket`.
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        Ok(Self { socket, address, sources: Mutex::default() })
    }

    fn sources(&self) -> MutexGuard<'_, Sources<Association>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An association in its place among all, until this is dropped.
struct Placed<'a> {
    relay: &'a Relay,
    association: Arc<Association>,
    _place: OwnedSemaphorePermit,
}

impl Drop for Placed<'_> {
    fn drop(&mut self) {
        self.relay.sources().remove(&self.association);
    }
}

/// Serves one request for an association, as long as the association lives.
pub(super) async fn serve(forwarder: &Forwarder, mut asked: Associate, is_full: bool) {
    forwarder.reporter.request();
    let placed = tokio::select! {
        // What is refused at once is told to who has only ended its own half.
        biased;
        placed = place(forwarder, &asked, is_full) => placed,
        // Nobody is there to be told.
        () = asked.ended() => {
            info!(udp = true, via = forwarder.via, "the client went away");
            return;
        }
    };
    let placed = match placed {
        Ok(placed) => placed,
        Err(failure) => {
            if forwarder.complaints.refused.has_one() {
                warn!(udp = true, via = forwarder.via, "{}", forwarder.told(&failure));
            }
            // Before the app hears of it: it may be over at once, and the launcher with it.
            forwarder.reporter.failure(&failure);
            let _ = asked.refuse(&failure).await;
            return;
        }
    };
    let started = Instant::now();
    let outcome = live(forwarder, &mut asked, &placed).await;
    record(forwarder, &placed.association, started, outcome);
}

/// Opens the way out, and puts the association where its datagrams find it.
async fn place<'a>(forwarder: &'a Forwarder, asked: &Associate, is_full: bool) -> Result<Placed<'a>, Failure> {
    if is_full {
        return Err(Failure::full());
    }
    forwarder.upstream.expect_datagrams()?;
    // Where only some may use the forwarder, datagrams would be taken from anybody.
    let relay = forwarder.relay.as_ref().filter(|_| forwarder.peers.is_none()).ok_or_else(|| {
        Failure::not_offered("a client asked SOCKS5 for UDP, which the walls strict and namespace carry, not this one")
    })?;
    let place = Arc::clone(&forwarder.associations).try_acquire_owned();
    let place = place.map_err(|_| Failure::no_association())?;
    let gone = |error| Failure::system("the client went away", &error);
    let (client, _) = asked.ends().map_err(gone)?;
    let outlet = forwarder.upstream.associate(asked.caller.as_ref()).await?;
    let association = Arc::new(Association::new(outlet));
    relay.sources().add(client.ip(), asked.port, Arc::clone(&association));
    Ok(Placed { relay, association, _place: place })
}

/// Returns when the association is over, and why if it was not the client who ended it.
async fn live(forwarder: &Forwarder, asked: &mut Associate, placed: &Placed<'_>) -> Result<(), Failure> {
    let Placed { relay, association, .. } = placed;
    let gone = |error| Failure::system("the client went away", &error);
    let (_, local) = asked.ends().map_err(gone)?;
    let ip = if relay.address.ip().is_unspecified() { local.ip() } else { relay.address.ip() };
    asked.grant(SocketAddr::new(ip, relay.address.port())).await.map_err(gone)?;
    tokio::select! {
        () = asked.ended() => Ok(()),
        over = association.live(forwarder, Inlet::Relay(&relay.socket)) => Err(over),
    }
}

/// What is told of an association once it is over.
fn record(forwarder: &Forwarder, association: &Association, started: Instant, outcome: Result<(), Failure>) {
    let (sent, received) = (association.traffic.sent.load(Relaxed), association.traffic.received.load(Relaxed));
    let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (destinations, via) = (association.destinations(), &forwarder.via);
    match outcome {
        Ok(()) => info!(udp = true, destinations, via, sent, received, ms, "done"),
        Err(failure) => info!(udp = true, destinations, via, sent, received, ms, "{}", forwarder.told(&failure)),
    }
}

/// Takes the app's datagrams in, for ever.
pub async fn serve_relay(forwarder: Arc<Forwarder>) {
    let Some(relay) = &forwarder.relay else { return };
    let mut lookups = Lookups::default();
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        tokio::select! {
            received = relay.socket.recv_from(&mut buffer) => match received {
                Ok((length, source)) => {
                    let wanted = take_in(&forwarder, relay, &buffer[..length], source, lookups.has_room());
                    if let Some((association, wanted)) = wanted {
                        lookups.begin(&forwarder, &association, wanted);
                    }
                }
                Err(error) => {
                    if forwarder.complaints.accept.now() {
                        error!("cannot receive datagrams for the moment: {error}");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(found) = lookups.next() => found.tell(&forwarder),
        }
    }
}

/// Sends one datagram on, if it is one of an association's. Returns what must be looked up for it.
fn take_in(
    forwarder: &Forwarder,
    relay: &Relay,
    bytes: &[u8],
    source: SocketAddr,
    may_look_up: bool,
) -> Option<(Arc<Association>, LookUp)> {
    let packet = packet::parse(bytes)?;
    let (association, is_new) = relay.sources().find(source, Association::silence)?;
    if is_new {
        association.begin(source);
    }
    let wanted = association.send(forwarder, &packet, may_look_up)?;
    Some((association, wanted))
}
