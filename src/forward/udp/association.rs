//! One association: what its client sends goes out, what comes from there goes back.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use fast_socks5::util::target_addr::TargetAddr;
use rustix::io::Errno;

use crate::destination::{Destination, Host};
use crate::forward::Forwarder;
use crate::forward::failure::Failure;
use crate::forward::limits::DATAGRAM_BYTES;
use crate::forward::relay::Traffic;
use crate::forward::upstream::{Outlet, Route, dialable};

use super::flows::{Flows, State, hold};
use super::inlet::Inlet;
use super::packet::Packet;

/// Datagrams that are carried in one go, before others have their turn.
const BURST: usize = 32;

thread_local! {
    /// What one datagram is read into and what it is written to: shared by all associations of the
    /// thread, for none of them keeps one.
    static SCRATCH: RefCell<(Box<[u8]>, Vec<u8>)> = RefCell::new((vec![0; DATAGRAM_BYTES].into(), Vec::new()));
}

/// An association that stands.
pub(super) struct Association {
    outlet: Outlet,
    client: Mutex<Client>,
    pub(super) traffic: Traffic,
}

/// Who sends by it, and where to.
struct Client {
    /// From where, once there has been a datagram.
    source: Option<SocketAddr>,
    /// When there was one last, in or out, and before that the beginning.
    used: Instant,
    flows: Flows,
}

impl Association {
    pub(super) fn new(outlet: Outlet) -> Self {
        let client = Client { source: None, used: Instant::now(), flows: Flows::default() };
        Self { outlet, client: Mutex::new(client), traffic: Traffic::default() }
    }

    /// Belongs to this source from now on. What another one has asked for is none of its business.
    pub(super) fn begin(&self, source: SocketAddr) {
        let mut client = self.client();
        client.source = Some(source);
        client.used = Instant::now();
        client.flows.clear();
    }

    /// How many destinations it has sent to.
    pub(super) fn destinations(&self) -> u64 {
        self.client().flows.opened()
    }

    /// Sends a datagram of the client's on, if it may go where it is to go. Returns whose addresses must be
    /// looked up before.
    pub(super) fn send(&self, forwarder: &Forwarder, packet: &Packet<'_>, may_look_up: bool) -> Option<LookUp> {
        let now = Instant::now();
        let asked = match asked(&packet.address) {
            Ok(asked) => asked?,
            Err(failure) => {
                forwarder.complain(&failure);
                return None;
            }
        };
        let mut client = self.client();
        client.used = now;
        let flows = &mut client.flows;
        match flows.find(&asked, now) {
            Some(State::Open(target)) => {
                // What cannot be sent now is lost.
                let _ = self.send_one(target, packet.payload);
                return None;
            }
            Some(State::Waiting(held)) => {
                hold(held, packet.payload);
                return None;
            }
            Some(State::Refused) => return None,
            None => {}
        }
        let routed = judge(forwarder, &asked).and_then(|destination| {
            let route = self.outlet.route(&destination, &forwarder.admission)?;
            Ok((destination, route))
        });
        match routed {
            // As many are looked up as can be: this one is lost, and asked for again by the next datagram.
            Ok((_, Route::LookUp)) if !may_look_up => None,
            Ok((destination, Route::LookUp)) => {
                flows.wait(asked.clone(), packet.payload, now);
                Some(LookUp { asked, destination })
            }
            Ok((_, Route::To(targets))) => {
                self.open(flows, forwarder, asked, &targets, &[packet.payload]);
                None
            }
            Err(failure) => {
                forwarder.complain(&failure);
                flows.refuse(asked, now);
                None
            }
        }
    }

    /// Goes on with what waited for a lookup.
    pub(super) fn found(
        &self,
        forwarder: &Forwarder,
        LookUp { asked, destination }: LookUp,
        found: Result<Vec<SocketAddr>, Failure>,
    ) {
        let flows = &mut self.client().flows;
        let Some(held) = flows.waiting(&asked) else { return };
        let held: Vec<&[u8]> = held.iter().map(Vec::as_slice).collect();
        match found.and_then(|found| dialable(&destination, found, &forwarder.admission)) {
            Ok(targets) => self.open(flows, forwarder, asked, &targets, &held),
            Err(failure) => {
                forwarder.complain(&failure);
                flows.refuse(asked, Instant::now());
            }
        }
    }

    /// Begins a flow to the first of `targets` that can be sent to.
    fn open(
        &self,
        flows: &mut Flows,
        forwarder: &Forwarder,
        asked: Destination,
        targets: &[TargetAddr],
        payloads: &[&[u8]],
    ) {
        let mut last = io::ErrorKind::AddrNotAvailable.into();
        for target in targets {
            let sent = payloads.iter().try_for_each(|payload| self.send_one(target, payload));
            match sent {
                Err(error) if !is_lost(&error) => last = error,
                _ => return flows.open(asked, target.clone(), Instant::now()),
            }
        }
        forwarder.complain(&Failure::system(format_args!("cannot send to {asked}"), &last));
        flows.refuse(asked, Instant::now());
    }

    fn send_one(&self, target: &TargetAddr, payload: &[u8]) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|(_, scratch)| self.outlet.send(target, payload, scratch))?;
        self.traffic.sent.fetch_add(payload.len() as u64, Relaxed);
        Ok(())
    }

    /// Carries what comes from outside to the client. Returns why it is over.
    pub(super) async fn live(&self, forwarder: &Forwarder, inlet: Inlet<'_>) -> Failure {
        tokio::select! {
            () = self.outlet.ended() => Failure::general("the upstream ended the association or spoke out of turn"),
            error = self.carry_back(forwarder, inlet) => Failure::system("broke off", &error),
            () = self.idle(forwarder.limits.udp_idle) => Failure::timed_out("an association without a datagram"),
        }
    }

    /// Carries it until that fails.
    async fn carry_back(&self, forwarder: &Forwarder, inlet: Inlet<'_>) -> io::Error {
        loop {
            if let Err(error) = self.outlet.readable().await {
                return error;
            }
            for _ in 0..BURST {
                match self.give_back(forwarder, inlet) {
                    Ok(()) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // Somebody has no such port, which ICMP said: of an earlier datagram.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                    Err(error) => return error,
                }
            }
            tokio::task::consume_budget().await;
        }
    }

    /// One datagram from outside, given to the client if it has sent there.
    fn give_back(&self, forwarder: &Forwarder, inlet: Inlet<'_>) -> io::Result<()> {
        SCRATCH.with_borrow_mut(|(buffer, scratch)| {
            let Some(Packet { address, payload }) = self.outlet.receive(buffer)? else { return Ok(()) };
            let mut client = self.client();
            let may_be = |name: &Destination, address: SocketAddr| {
                !forwarder.is_synthetic(address.ip()) && dialable(name, vec![address], &forwarder.admission).is_ok()
            };
            let known = client.flows.answer(address, may_be);
            let (Some(source), Some(known)) = (client.source, known) else { return Ok(()) };
            client.used = Instant::now();
            if inlet.give(&known, source, payload, scratch).is_ok() {
                self.traffic.received.fetch_add(payload.len() as u64, Relaxed);
            }
            Ok(())
        })
    }

    /// How long there has been no datagram, in or out.
    pub(super) fn silence(&self) -> Duration {
        self.client().used.elapsed()
    }

    /// Returns when there has been no datagram for so long.
    async fn idle(&self, limit: Duration) {
        loop {
            let left = limit.saturating_sub(self.silence());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left).await;
        }
    }

    /// What is in there is whole after each change: nothing can panic in the middle of one.
    fn client(&self) -> MutexGuard<'_, Client> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a datagram that was not sent is merely lost, and the next one may well arrive: there was no room
/// for it, it was too long, or ICMP told of an earlier one.
fn is_lost(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused)
        || error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error())
}

/// A name to be looked up.
pub(super) struct LookUp {
    /// What the client asked for: the name, or an address that stands for it.
    asked: Destination,
    pub(super) destination: Destination,
}

/// Where a datagram is to go; `None` for port 0, where nobody is.
fn asked(address: &TargetAddr) -> Result<Option<Destination>, Failure> {
    Ok(match address {
        TargetAddr::Ip(address) if address.port() == 0 => None,
        TargetAddr::Ip(address) => Some(Destination { host: Host::Ip(address.ip()), port: address.port() }),
        TargetAddr::Domain(_, 0) => None,
        TargetAddr::Domain(name, port) => {
            let named = Destination::new(name, *port);
            Some(named.map_err(|error| Failure::malformed(format!("{error:#}")))?)
        }
    })
}

/// Judges a destination by name where there is one: a synthetic address becomes its name first.
pub(super) fn judge(forwarder: &Forwarder, asked: &Destination) -> Result<Destination, Failure> {
    let destination = forwarder.named(asked)?.unwrap_or_else(|| asked.clone());
    forwarder.admission.check(&destination)?;
    Ok(destination)
}
