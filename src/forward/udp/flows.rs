//! Where an association's client has sent to, and so whose answers it gets: nobody else's, as behind a
//! translator that filters by address and port (RFC 4787, 5). Pure.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fast_socks5::util::target_addr::TargetAddr;

use crate::destination::{Destination, Host};
use crate::forward::limits::{UDP_DESTINATIONS, UDP_FLOW_IDLE, UDP_HELD, UDP_REFUSED};

/// All destinations of one association; the least recently used goes first when there are too many.
#[derive(Default)]
pub(super) struct Flows {
    flows: HashMap<Arc<Destination>, Flow>,
    /// Whose answers are whose.
    answering: HashMap<SocketAddr, Arc<Destination>>,
    opened: u64,
}

/// One destination, as the client asked for it.
struct Flow {
    state: State,
    used: Instant,
    /// Who answers from there, as far as is known.
    peer: Option<SocketAddr>,
}

/// What has been found out about a destination.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Its name is being looked up, and these datagrams wait.
    Waiting(Vec<Vec<u8>>),
    /// It is sent to.
    Open(TargetAddr),
    /// It is not, for some time.
    Refused,
}

impl Flow {
    /// A flow was judged when it began, as a connection is, and is judged anew once it has rested.
    fn is_over(&self, now: Instant) -> bool {
        let keeps = match self.state {
            State::Waiting(_) => Duration::MAX,
            State::Open(_) => UDP_FLOW_IDLE,
            State::Refused => UDP_REFUSED,
        };
        now.duration_since(self.used) > keeps
    }
}

impl Flows {
    /// How many destinations have been sent to.
    pub(super) fn opened(&self) -> u64 {
        self.opened
    }

    /// Forgets them all.
    pub(super) fn clear(&mut self) {
        self.flows.clear();
        self.answering.clear();
    }

    /// What is known of a destination that is sent to now.
    pub(super) fn find(&mut self, asked: &Destination, now: Instant) -> Option<&mut State> {
        let flow = self.flows.get_mut(asked).filter(|flow| !flow.is_over(now))?;
        if matches!(flow.state, State::Open(_)) {
            flow.used = now;
        }
        // Of those that lead to one place, what was sent to last is answered.
        if let Some(peer) = flow.peer.filter(|peer| !is(self.answering.get(peer), asked))
            && let Some((asked, _)) = self.flows.get_key_value(asked)
        {
            self.answering.insert(peer, Arc::clone(asked));
        }
        self.flows.get_mut(asked).map(|flow| &mut flow.state)
    }

    /// Its name is looked up, for this datagram.
    pub(super) fn wait(&mut self, asked: Destination, payload: &[u8], now: Instant) {
        self.put(asked, State::Waiting(vec![payload.to_vec()]), None, now);
    }

    /// The datagrams that wait for a destination; `None` if nobody waits for it any more.
    pub(super) fn waiting(&mut self, asked: &Destination) -> Option<Vec<Vec<u8>>> {
        match &mut self.flows.get_mut(asked)?.state {
            State::Waiting(held) => Some(std::mem::take(held)),
            _ => None,
        }
    }

    /// It is not sent to.
    pub(super) fn refuse(&mut self, asked: Destination, now: Instant) {
        self.put(asked, State::Refused, None, now);
    }

    /// It is sent to, as `target`.
    pub(super) fn open(&mut self, asked: Destination, target: TargetAddr, now: Instant) {
        let peer = match &target {
            TargetAddr::Ip(address) => Some(canonical(*address)),
            TargetAddr::Domain(..) => None,
        };
        self.opened += 1;
        self.put(asked, State::Open(target), peer, now);
    }

    /// What the client knows the sender of an answer by; `None` if it has not sent there. An address that
    /// stands for a name answers as itself, whatever the name led to. `may_be` tells whether a name may lead to an
    /// address.
    pub(super) fn answer(
        &mut self,
        from: TargetAddr,
        may_be: impl Fn(&Destination, SocketAddr) -> bool,
    ) -> Option<TargetAddr> {
        match from {
            TargetAddr::Ip(from) => {
                let from = canonical(from);
                let asked = self.answering.get(&from).cloned().or_else(|| self.pair(from, may_be))?;
                Some(known_by(&asked, TargetAddr::Ip(from)))
            }
            TargetAddr::Domain(name, port) => {
                let from = TargetAddr::Domain(name, port);
                let is_it = |flow: &Flow| matches!(&flow.state, State::Open(target) if *target == from);
                let (asked, _) = self.flows.iter().find(|(_, flow)| is_it(flow))?;
                Some(known_by(asked, from.clone()))
            }
        }
    }

    /// Where others resolve names, answers come from addresses that nobody here has sent to: one is taken
    /// for that of the name last sent to at its port which has had no answer yet. It stays as long as the flow
    /// does: whoever else finds out where datagrams leave does not get in between.
    fn pair(
        &mut self,
        from: SocketAddr,
        may_be: impl Fn(&Destination, SocketAddr) -> bool,
    ) -> Option<Arc<Destination>> {
        let is_candidate = |flow: &Flow| match &flow.state {
            State::Open(TargetAddr::Domain(_, port)) => flow.peer.is_none() && *port == from.port(),
            _ => false,
        };
        let candidates = self.flows.iter_mut().filter(|(_, flow)| is_candidate(flow));
        let (asked, flow) = candidates.max_by_key(|(_, flow)| flow.used)?;
        let State::Open(TargetAddr::Domain(name, port)) = &flow.state else { return None };
        if !may_be(&Destination { host: Host::Name(name.clone()), port: *port }, from) {
            return None;
        }
        flow.peer = Some(from);
        self.answering.insert(from, Arc::clone(asked));
        Some(Arc::clone(asked))
    }

    fn put(&mut self, asked: Destination, state: State, peer: Option<SocketAddr>, now: Instant) {
        self.forget(&asked);
        self.flows.retain(|_, flow| flow.state != State::Refused || !flow.is_over(now));
        if self.flows.len() >= UDP_DESTINATIONS {
            let oldest = self.flows.iter().min_by_key(|(_, flow)| flow.used).map(|(asked, _)| Arc::clone(asked));
            oldest.iter().for_each(|oldest| self.forget(oldest));
        }
        let asked = Arc::new(asked);
        if let Some(peer) = peer {
            self.answering.insert(peer, Arc::clone(&asked));
        }
        self.flows.insert(asked, Flow { state, used: now, peer });
    }

    fn forget(&mut self, asked: &Destination) {
        let peer = self.flows.remove(asked).and_then(|flow| flow.peer);
        // Another destination may have led to the same one since.
        if let Some(peer) = peer.filter(|peer| is(self.answering.get(peer), asked)) {
            self.answering.remove(&peer);
        }
    }
}

/// Keeps one more datagram until its name is known, if there is room; otherwise it is lost.
pub(super) fn hold(held: &mut Vec<Vec<u8>>, payload: &[u8]) {
    if held.len() < UDP_HELD {
        held.push(payload.to_vec());
    }
}

fn is(known: Option<&Arc<Destination>>, asked: &Destination) -> bool {
    known.is_some_and(|known| **known == *asked)
}

/// How the client knows it: as the address that it asked for, if it was one.
fn known_by(asked: &Destination, from: TargetAddr) -> TargetAddr {
    match asked.host {
        Host::Ip(address) => TargetAddr::Ip(SocketAddr::new(address, asked.port)),
        Host::Name(_) => from,
    }
}

/// Without what an address of one family looks like in the other.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(text: &str) -> Destination {
        Destination::parse(text, None).unwrap()
    }

    fn ip(text: &str) -> TargetAddr {
        TargetAddr::Ip(text.parse().unwrap())
    }

    fn name(name: &str) -> TargetAddr {
        TargetAddr::Domain(name.into(), 53)
    }

    /// Where every name may lead everywhere.
    fn answer(flows: &mut Flows, from: TargetAddr) -> Option<TargetAddr> {
        flows.answer(from, |_, _| true)
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn only_who_was_sent_to_answers_and_as_what_was_asked_for() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        for (asked, target) in [
            ("192.0.2.1:53", "192.0.2.1:53"),
            ("[::ffff:192.0.2.2]:53", "[::ffff:192.0.2.2]:53"),
            ("198.18.0.1:53", "192.0.2.3:53"),
            ("a.test:53", "[2001:db8::1]:53"),
        ] {
            flows.open(to(asked), ip(target), now);
        }
        for (from, known) in [
            ("192.0.2.1:53", Some("192.0.2.1:53")),
            ("[::ffff:192.0.2.1]:53", Some("192.0.2.1:53")),
            ("192.0.2.2:53", Some("[::ffff:192.0.2.2]:53")),
            ("192.0.2.3:53", Some("198.18.0.1:53")),
            ("[2001:db8::1]:53", Some("[2001:db8::1]:53")),
            ("192.0.2.1:54", None),
            ("192.0.2.4:53", None),
        ] {
            assert_eq!(answer(&mut flows, ip(from)), known.map(ip), "{from}");
        }
        assert_eq!(answer(&mut flows, name("a.test")), None);
        assert_eq!(flows.opened(), 4);
    }

    #[test]
    fn whom_others_resolved_is_told_by_port_and_order() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        flows.open(to("198.18.0.1:53"), name("a.test"), now);
        assert_eq!(answer(&mut flows, ip("192.0.2.1:54")), None, "nothing was sent to that port");
        assert_eq!(answer(&mut flows, ip("192.0.2.1:53")), Some(ip("198.18.0.1:53")));
        flows.open(to("198.18.0.2:53"), name("b.test"), after(now, 1));
        flows.find(&to("198.18.0.1:53"), after(now, 2));
        // The one that has had no answer, though another was sent to after it.
        assert_eq!(answer(&mut flows, ip("192.0.2.2:53")), Some(ip("198.18.0.2:53")));
        for _ in 0..2 {
            assert_eq!(answer(&mut flows, ip("192.0.2.1:53")), Some(ip("198.18.0.1:53")));
            assert_eq!(answer(&mut flows, ip("192.0.2.2:53")), Some(ip("198.18.0.2:53")));
        }
        // Somebody else at the same port, while each has an answer.
        assert_eq!(answer(&mut flows, ip("192.0.2.3:53")), None);
        // Judged anew, a name may have moved.
        flows.open(to("198.18.0.1:53"), name("a.test"), after(now, 2));
        assert_eq!(answer(&mut flows, ip("192.0.2.3:53")), Some(ip("198.18.0.1:53")));
        assert_eq!(answer(&mut flows, ip("192.0.2.1:53")), None);
        assert_eq!(answer(&mut flows, name("b.test")), Some(ip("198.18.0.2:53")));
        assert_eq!(answer(&mut flows, name("c.test")), None);
        flows.open(to("c.test:53"), name("c.test"), after(now, 3));
        assert_eq!(answer(&mut flows, name("c.test")), Some(name("c.test")));
        assert_eq!(flows.answering.len(), 2);
    }

    #[test]
    fn a_name_is_answered_by_no_address_that_it_may_not_lead_to() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        flows.open(to("198.18.0.1:53"), name("a.test"), now);
        let may_be =
            |name: &Destination, from: SocketAddr| *name == to("a.test:53") && from.ip().to_string() != "10.0.0.1";
        assert_eq!(flows.answer(ip("10.0.0.1:53"), may_be), None);
        assert_eq!(flows.answer(ip("192.0.2.1:53"), may_be), Some(ip("198.18.0.1:53")));
        assert_eq!(flows.answer(ip("10.0.0.1:53"), may_be), None);
    }

    #[test]
    fn refusals_that_are_over_take_no_room() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        flows.open(to("a.test:53"), name("a.test"), now);
        for number in 1..100 {
            flows.refuse(to(&format!("10.0.0.{number}:53")), now);
        }
        flows.refuse(to("b.test:53"), after(now, UDP_REFUSED.as_secs() + 1));
        assert_eq!(flows.flows.len(), 2);
    }

    #[test]
    fn what_is_used_stays_and_what_rests_is_judged_anew() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        flows.open(to("192.0.2.1:53"), ip("192.0.2.1:53"), now);
        flows.refuse(to("10.0.0.1:53"), now);
        let (idle, refused) = (UDP_FLOW_IDLE.as_secs(), UDP_REFUSED.as_secs());
        assert_eq!(flows.find(&to("10.0.0.1:53"), after(now, refused)), Some(&mut State::Refused));
        assert_eq!(flows.find(&to("10.0.0.1:53"), after(now, refused + 1)), None);
        for round in 1..10 {
            assert!(flows.find(&to("192.0.2.1:53"), after(now, round * idle)).is_some());
        }
        assert!(flows.find(&to("192.0.2.1:53"), after(now, 10 * idle + 1)).is_none());
    }

    #[test]
    fn there_is_room_for_so_many_and_the_least_recently_used_goes() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        let address = |number: usize| format!("192.0.{}.{}:53", number / 256, number % 256);
        for number in 0..2 * UDP_DESTINATIONS {
            let at = after(now, number as u64);
            flows.open(to(&address(number)), ip(&address(number)), at);
            assert!(number == 0 || flows.find(&to(&address(0)), at).is_some());
        }
        assert_eq!((flows.flows.len(), flows.answering.len()), (UDP_DESTINATIONS, UDP_DESTINATIONS));
        assert!(answer(&mut flows, ip(&address(0))).is_some());
        assert!(answer(&mut flows, ip(&address(1))).is_none());
    }

    #[test]
    fn two_ways_to_one_place_do_not_forget_each_other() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        flows.open(to("198.18.0.1:53"), ip("192.0.2.1:53"), now);
        flows.open(to("192.0.2.1:53"), ip("192.0.2.1:53"), now);
        flows.refuse(to("198.18.0.1:53"), now);
        assert_eq!(answer(&mut flows, ip("192.0.2.1:53")), Some(ip("192.0.2.1:53")));
    }

    #[test]
    fn datagrams_wait_for_their_name() {
        let (mut flows, now) = (Flows::default(), Instant::now());
        flows.wait(to("a.test:53"), b"one", now);
        match flows.find(&to("A.test.:53"), after(now, 1)) {
            Some(State::Waiting(held)) => held.push(b"two".to_vec()),
            other => panic!("{other:?}"),
        }
        assert_eq!(flows.waiting(&to("a.test:53")), Some(vec![b"one".to_vec(), b"two".to_vec()]));
        assert_eq!(flows.waiting(&to("b.test:53")), None);
        flows.open(to("a.test:53"), ip("192.0.2.1:53"), now);
        assert_eq!(flows.waiting(&to("a.test:53")), None);
    }
}
