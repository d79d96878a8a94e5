//! Datagrams that were captured: a program sent them elsewhere, by a socket that knows no proxy. Each of its sockets
//! has an association of its own, as if it had asked for one, and is answered as if by whom it asked.
//!
//! ```text
//! transparent socket ─▶ whose? ─▶ (DNS) | association (a way out, flows) ─▶ raw socket ─▶ back
//! ```

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use fast_socks5::util::target_addr::TargetAddr;
use tokio::net::UdpSocket;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::error;

use crate::dns;
use crate::forward::Forwarder;
use crate::forward::addressed::{Addressed, Received};
use crate::forward::captured::destination_of;
use crate::forward::dns::answer_datagram;
use crate::forward::failure::Failure;
use crate::forward::limits::{
    ACCEPT_PAUSE, DATAGRAM_BYTES, DNS_QUERIES, DNS_QUERY_BYTES, UDP_HELD, UDP_LOOKUPS, UDP_REFUSED,
};
use crate::forward::upstream::Outlet;
use crate::plan::PAIR_ADDRESS;

use super::association::{Association, judge};
use super::inlet::{Inlet, Raw};
use super::lookups::Lookups;
use super::packet::Packet;
use super::record;

/// Sends on what comes to `socket`, which is transparent, and answers by `raw`, for ever.
pub async fn serve_captured_datagrams(socket: UdpSocket, raw: Raw, forwarder: Arc<Forwarder>) {
    let socket = match Addressed::captured(socket) {
        Ok(socket) => socket,
        Err(error) => {
            error!("cannot take captured datagrams: {error}");
            return;
        }
    };
    let mut buffer = vec![0; DATAGRAM_BYTES];
    let mut captured = Captured::new(forwarder, raw, socket.port());
    loop {
        tokio::select! {
            received = socket.receive(&mut buffer) => match received {
                Ok(received) => captured.take_in(received, &buffer[..received.length]),
                Err(error) => captured.pause(&error).await,
            },
            Some(Ok(event)) = captured.work.join_next() => captured.go_on(event),
            Some(Ok(())) = captured.answering.join_next() => {}
            Some(found) = captured.lookups.next() => found.tell(&captured.forwarder),
        }
    }
}

/// Whoever sends datagrams that are captured, by its address.
struct Captured {
    forwarder: Arc<Forwarder>,
    raw: Arc<Raw>,
    port: u16,
    senders: HashMap<SocketAddr, Sender>,
    opening: usize,
    work: JoinSet<Event>,
    answering: JoinSet<()>,
    lookups: Lookups,
}

/// What there is for one.
enum Sender {
    /// Its way out is being opened, and these wait.
    Opening(Vec<Held>),
    /// It has one.
    Open(Arc<Association>),
    /// There is none, for some time.
    Refused,
}

/// One datagram that waits.
struct Held {
    to: SocketAddr,
    payload: Vec<u8>,
}

/// What has become of a sender.
enum Event {
    /// Its way out is open, or cannot be opened.
    Opened(SocketAddr, Result<Outlet, Failure>, OwnedSemaphorePermit),
    /// It has been silent for long, or its way out has ended.
    Over(SocketAddr),
}

impl Captured {
    fn new(forwarder: Arc<Forwarder>, raw: Raw, port: u16) -> Self {
        Self {
            forwarder,
            raw: Arc::new(raw),
            port,
            senders: HashMap::new(),
            opening: 0,
            work: JoinSet::new(),
            answering: JoinSet::new(),
            lookups: Lookups::default(),
        }
    }

    /// Sends one datagram on, answers it, or drops it.
    fn take_in(&mut self, received: Received, payload: &[u8]) {
        let Received { source, destination, .. } = received;
        // A program that has taken an address of the world's for itself would get its answers by being captured
        // again, and they would go round and round.
        if !source.ip().is_loopback() && source.ip() != PAIR_ADDRESS {
            return;
        }
        // Not captured, but sent to this very socket: the app's own machine.
        if destination.ip() == PAIR_ADDRESS {
            return;
        }
        if destination.port() == dns::PORT && self.forwarder.answers_queries() {
            return self.answer(received, payload);
        }
        match self.senders.get_mut(&source) {
            Some(Sender::Open(association)) => {
                let association = Arc::clone(association);
                self.send(&association, destination, payload);
            }
            Some(Sender::Opening(held)) => hold(held, destination, payload),
            Some(Sender::Refused) => {}
            None => match self.judge(destination) {
                Ok(()) => self.open(source, destination, payload),
                Err(failure) => self.forwarder.complain(&failure),
            },
        }
    }

    /// Answers what was sent to some DNS server, as ours does.
    fn answer(&mut self, received: Received, message: &[u8]) {
        // Beyond them clients ask again, as they do when a datagram is lost.
        if message.len() > DNS_QUERY_BYTES || self.answering.len() >= DNS_QUERIES {
            return;
        }
        let (forwarder, raw, message) = (Arc::clone(&self.forwarder), Arc::clone(&self.raw), message.to_vec());
        self.answering.spawn(async move {
            if let Some(answer) = answer_datagram(&forwarder, &message).await {
                let _ = raw.send(received.destination, received.source, &answer, &mut Vec::new());
            }
        });
    }

    /// Whether a sender may have a way out for this.
    fn judge(&self, destination: SocketAddr) -> Result<(), Failure> {
        let asked = destination_of(destination, self.port)?;
        judge(&self.forwarder, &asked).map(drop)
    }

    /// Opens a way out for one more sender.
    fn open(&mut self, source: SocketAddr, destination: SocketAddr, payload: &[u8]) {
        // It asks again, as for what is lost.
        if self.opening >= UDP_LOOKUPS {
            return;
        }
        let Ok(place) = Arc::clone(&self.forwarder.associations).try_acquire_owned() else {
            return self.forwarder.complain(&Failure::no_association());
        };
        self.forwarder.reporter.request();
        let mut held = Vec::new();
        hold(&mut held, destination, payload);
        self.senders.insert(source, Sender::Opening(held));
        self.opening += 1;
        let forwarder = Arc::clone(&self.forwarder);
        self.work.spawn(async move { Event::Opened(source, forwarder.upstream.associate(None).await, place) });
    }

    fn go_on(&mut self, event: Event) {
        match event {
            Event::Opened(source, outlet, place) => {
                self.opening -= 1;
                let sender = match outlet {
                    Ok(outlet) => self.begin(source, outlet, place),
                    Err(failure) => self.give_up(source, &failure, place),
                };
                if let Some(Sender::Opening(held)) = self.senders.insert(source, sender) {
                    self.send_held(source, held);
                }
            }
            Event::Over(source) => drop(self.senders.remove(&source)),
        }
    }

    /// A sender has a way out now.
    fn begin(&mut self, source: SocketAddr, outlet: Outlet, place: OwnedSemaphorePermit) -> Sender {
        let association = Arc::new(Association::new(outlet));
        association.begin(source);
        let (forwarder, raw) = (Arc::clone(&self.forwarder), Arc::clone(&self.raw));
        let lives = Arc::clone(&association);
        self.work.spawn(async move {
            let started = Instant::now();
            let outcome = lives.live(&forwarder, Inlet::Raw(&raw)).await;
            record(&forwarder, &lives, started, Err(outcome));
            drop(place);
            Event::Over(source)
        });
        Sender::Open(association)
    }

    /// A sender has none, and is not asked for anew with each of its datagrams.
    fn give_up(&mut self, source: SocketAddr, failure: &Failure, place: OwnedSemaphorePermit) -> Sender {
        self.forwarder.complain(failure);
        self.work.spawn(async move {
            sleep(UDP_REFUSED).await;
            drop(place);
            Event::Over(source)
        });
        Sender::Refused
    }

    fn send_held(&mut self, source: SocketAddr, held: Vec<Held>) {
        let Some(Sender::Open(association)) = self.senders.get(&source) else { return };
        let association = Arc::clone(association);
        for Held { to, payload } in held {
            self.send(&association, to, &payload);
        }
    }

    fn send(&mut self, association: &Arc<Association>, destination: SocketAddr, payload: &[u8]) {
        if let Err(failure) = destination_of(destination, self.port) {
            return self.forwarder.complain(&failure);
        }
        let packet = Packet { address: TargetAddr::Ip(destination), payload };
        let wanted = association.send(&self.forwarder, &packet, self.lookups.has_room());
        if let Some(wanted) = wanted {
            self.lookups.begin(&self.forwarder, association, wanted);
        }
    }

    async fn pause(&self, error: &io::Error) {
        if self.forwarder.complaints.accept.now() {
            error!("cannot receive captured datagrams for the moment: {error}");
        }
        sleep(ACCEPT_PAUSE).await;
    }
}

/// Keeps one more datagram until its sender has a way out, if there is room; otherwise it is lost.
fn hold(held: &mut Vec<Held>, to: SocketAddr, payload: &[u8]) {
    if held.len() < UDP_HELD {
        held.push(Held { to, payload: payload.to_vec() });
    }
}
