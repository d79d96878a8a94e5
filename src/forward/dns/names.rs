//! Addresses that stand for names. A program that resolves first gets one, connects to it by the
//! forwarder, and the forwarder has the name again.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// 198.18.0.0/15: for benchmarks (RFC 2544), so nobody's. Never 127/8: Ruby, and others that resolve
/// first, take such an answer for this machine and pass the proxy by.
const V4: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const V4_MASK: u32 = u32::MAX << 17;
/// fd61:7070:6677::/64: "appfw" in a unique local prefix (RFC 4193), the same number at its end.
const V6: u128 = 0xfd61_7070_6677 << 80;
/// The last number: the all-ones address behind it looks like a broadcast one, as 0 does a network's.
pub(in crate::forward) const LAST: u32 = !V4_MASK - 1;
/// How much longer a name that was connected to is kept than one that was only asked for.
const IN_USE: Duration = Duration::from_secs(5 * 60);

/// A place in the synthetic ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Number(u32);

impl Number {
    pub(super) fn v4(self) -> Ipv4Addr {
        Ipv4Addr::from(V4 | self.0)
    }

    pub(super) fn v6(self) -> Ipv6Addr {
        Ipv6Addr::from(V6 | u128::from(self.0))
    }

    /// The place of an address, if it is one of the ranges; `::ffff:a.b.c.d` is a.b.c.d.
    pub(super) fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let bits = u32::from(address);
                (bits & V4_MASK == V4).then_some(Self(bits & !V4_MASK))
            }
            IpAddr::V6(address) => {
                let bits = u128::from(address);
                // Nothing stands at numbers beyond the other range's.
                (bits >> 64 == V6 >> 64).then(|| Self(u32::try_from(bits & u128::from(u64::MAX)).unwrap_or(u32::MAX)))
            }
        }
    }
}

/// The names that have addresses: as many as there are places for, the least recently used go first.
#[derive(Debug)]
pub(super) struct Names {
    entries: HashMap<Arc<str>, Entry>,
    names: HashMap<Number, Arc<str>>,
    /// Who goes first.
    order: BTreeSet<(Instant, Number)>,
    /// The last number given out. Each one rests until all others have been, so that an address that
    /// a program has kept too long is refused and does not lead to another name.
    last: u32,
    places: usize,
}

#[derive(Debug)]
struct Entry {
    number: Number,
    /// When it was last used; later, if it was connected to.
    used: Instant,
}

impl Names {
    /// No names yet, and `places` for them. `seed` is where numbers begin: a forwarder that was restarted does not at once
    /// give another name the address that a program still has.
    pub(super) fn new(seed: u32, places: usize) -> Self {
        let places = places.min(LAST as usize);
        Self { entries: HashMap::new(), names: HashMap::new(), order: BTreeSet::new(), last: seed % LAST, places }
    }

    /// The place of a normalised name, that it has or that it gets.
    pub(super) fn place(&mut self, name: &str, now: Instant) -> Number {
        if let Some(number) = self.entries.get(name).map(|entry| entry.number) {
            self.touch(number, now);
            return number;
        }
        if self.entries.len() >= self.places {
            self.forget_one();
        }
        let number = self.next_number();
        let name: Arc<str> = name.into();
        self.names.insert(number, Arc::clone(&name));
        self.entries.insert(name, Entry { number, used: now });
        self.order.insert((now, number));
        number
    }

    /// The name at a place.
    pub(super) fn name(&self, number: Number) -> Option<Arc<str>> {
        self.names.get(&number).cloned()
    }

    /// The name at a place that is connected to.
    pub(super) fn connected(&mut self, number: Number, now: Instant) -> Option<Arc<str>> {
        self.touch(number, now + IN_USE);
        self.name(number)
    }

    fn touch(&mut self, number: Number, used: Instant) {
        let Some(entry) = self.names.get(&number).and_then(|name| self.entries.get_mut(name)) else { return };
        if used > entry.used {
            self.order.remove(&(entry.used, number));
            self.order.insert((used, number));
            entry.used = used;
        }
    }

    fn forget_one(&mut self) {
        let Some((_, number)) = self.order.pop_first() else { return };
        if let Some(name) = self.names.remove(&number) {
            self.entries.remove(&name);
        }
    }

    /// There is one: there are no more places than numbers, and one of them is free.
    fn next_number(&mut self) -> Number {
        loop {
            self.last = self.last % LAST + 1;
            let number = Number(self.last);
            if !self.names.contains_key(&number) {
                return number;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(places: usize) -> Names {
        Names::new(0, places)
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn a_name_keeps_its_addresses_and_they_lead_back_to_it() {
        let (mut names, now) = (names(10), Instant::now());
        let first = names.place("a.test", now);
        let second = names.place("b.onion", now);
        assert_ne!(first, second);
        assert_eq!(names.place("a.test", after(now, 9)), first);
        assert_eq!((first.v4().to_string(), first.v6().to_string()), ("198.18.0.1".into(), "fd61:7070:6677::1".into()));
        let mapped: IpAddr = "::ffff:198.18.0.1".parse().unwrap();
        for address in [first.v4().into(), first.v6().into(), mapped] {
            let found = Number::of(address).unwrap();
            assert_eq!(names.name(found).as_deref(), Some("a.test"), "{address}");
            assert_eq!(names.connected(found, now).as_deref(), Some("a.test"), "{address}");
        }
    }

    #[test]
    fn the_ranges_and_nothing_else_are_ours() {
        for (address, number) in [
            ("198.17.255.255", None),
            ("198.18.0.0", Some(0)),
            ("198.19.255.254", Some(LAST)),
            ("198.19.255.255", Some(LAST + 1)),
            ("198.20.0.0", None),
            ("127.0.0.1", None),
            ("fd61:7070:6677::", Some(0)),
            ("fd61:7070:6677::2:0", Some(LAST + 2)),
            ("fd61:7070:6677:0:ffff::1", Some(u32::MAX)),
            ("fd61:7070:6677:1::1", None),
            ("fd61:7070:6678::1", None),
        ] {
            assert_eq!(Number::of(address.parse().unwrap()), number.map(Number), "{address}");
        }
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let (mut names, now) = (names(3), Instant::now());
        let old = names.place("old.test", now);
        let asked_again = names.place("again.test", now);
        let young = names.place("young.test", after(now, 2));
        names.place("again.test", after(now, 3));
        names.place("new.test", after(now, 4));
        assert_eq!(names.name(old), None);
        assert_eq!(names.name(asked_again).as_deref(), Some("again.test"));
        names.place("newer.test", after(now, 5));
        assert_eq!(names.name(young), None);
        assert_eq!(names.entries.len(), 3);
    }

    #[test]
    fn what_was_connected_to_stays_for_minutes_and_no_longer() {
        let (mut names, now) = (names(2), Instant::now());
        let used = names.place("used.test", now);
        names.connected(used, now);
        for second in 0..IN_USE.as_secs() {
            names.place(&format!("n{second}.test"), after(now, second));
            assert!(names.name(used).is_some(), "{second}");
        }
        // Asking for it does not cut that short.
        names.place("used.test", after(now, 1));
        names.place("last.test", after(now, 299));
        assert!(names.name(used).is_some());
        names.place("a.test", after(now, 301));
        names.place("b.test", after(now, 302));
        assert_eq!(names.name(used), None);
    }

    #[test]
    fn where_all_are_in_use_there_is_still_a_place() {
        let (mut names, now) = (names(2), Instant::now());
        for second in 0..4 {
            let number = names.place(&format!("n{second}.test"), after(now, second));
            names.connected(number, after(now, second));
        }
        assert_eq!(names.entries.len(), 2);
        assert!(names.entries.contains_key("n3.test") && names.entries.contains_key("n2.test"));
    }

    #[test]
    fn an_address_rests_until_all_others_have_been_given_out() {
        let (mut names, now) = (names(2), Instant::now());
        let first = names.place("first.test", now);
        let stays = names.place("stays.test", now);
        names.connected(stays, after(now, 1_000_000));
        for count in 0..LAST - 2 {
            names.place(&format!("n{count}.test"), now);
            assert_eq!(names.name(first), None);
        }
        assert_eq!(names.place("again.test", now), first);
        assert_eq!(names.name(stays).as_deref(), Some("stays.test"));
        // Its number is passed over.
        assert_eq!(names.place("next.test", now), Number(stays.0 + 1));
        assert_eq!((names.entries.len(), names.names.len(), names.order.len()), (2, 2, 2));
    }

    #[test]
    fn there_are_no_more_places_than_numbers() {
        let (mut names, now) = (names(usize::MAX), Instant::now());
        for count in 0..=LAST {
            names.place(&format!("n{count}.test"), now);
        }
        assert_eq!(names.entries.len(), LAST as usize);
    }

    #[test]
    fn any_seed_is_a_place_to_begin() {
        for seed in [0, LAST - 1, LAST, LAST + 1, u32::MAX] {
            let number = Names::new(seed, 1).place("a.test", Instant::now());
            assert!((1..=LAST).contains(&number.0), "{seed}");
        }
    }
}
