//! Which association a datagram belongs to: its source tells. Pure.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An association whose source has been silent for so long may be another source's. Longer than clients
/// pause between datagrams that matter to them, shorter than they wait for an answer.
const SILENCE: Duration = Duration::from_secs(1);

/// Associations by their clients' sources.
///
/// Most clients do not say from where they will send. The first datagram of an unknown source then belongs
/// to the association that has waited longest, for clients send in the order in which they are answered. Where that
/// was wrong, two of one client's associations are each other's, and it shows when one ends: the source
/// that has lost its association gets the other, which is silent by then.
pub(super) struct Sources<T> {
    known: HashMap<SocketAddr, Known<T>>,
    /// Those that nobody has sent a datagram for, the oldest first.
    waiting: Vec<Waiting<T>>,
}

struct Known<T> {
    association: Arc<T>,
    /// Whether the client had said so before.
    is_sure: bool,
    sent: Instant,
}

struct Waiting<T> {
    /// Who made the request, and will send.
    client: IpAddr,
    /// From where it said that it would send.
    port: Option<u16>,
    association: Arc<T>,
}

impl<T> Default for Sources<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), waiting: Vec::new() }
    }
}

impl<T> Sources<T> {
    /// Adds an association that `client` asked for, and that waits for its first datagram: from `port`, if
    /// the client knew it.
    pub(super) fn add(&mut self, client: IpAddr, port: Option<u16>, association: Arc<T>) {
        self.waiting.push(Waiting { client: client.to_canonical(), port, association });
    }

    /// The association of a datagram that comes from `source` now, and whether that is news to it.
    pub(super) fn find(&mut self, source: SocketAddr, now: Instant) -> Option<(Arc<T>, bool)> {
        if let Some(known) = self.known.get_mut(&source) {
            known.sent = now;
            return Some((Arc::clone(&known.association), false));
        }
        let (association, is_sure) =
            self.waiting(source).or_else(|| self.silent(source.ip(), now).map(|silent| (silent, false)))?;
        self.known.insert(source, Known { association: Arc::clone(&association), is_sure, sent: now });
        Some((association, true))
    }

    /// The association that waits for a datagram from `source`, and whether the client had said so.
    fn waiting(&mut self, source: SocketAddr) -> Option<(Arc<T>, bool)> {
        let client = source.ip().to_canonical();
        let from = |port| move |waiting: &Waiting<T>| (waiting.client, waiting.port) == (client, port);
        let said = self.waiting.iter().position(from(Some(source.port())));
        let index = said.or_else(|| self.waiting.iter().position(from(None)))?;
        Some((self.waiting.remove(index).association, said.is_some()))
    }

    /// The one of a client's associations that has been silent for the longest time.
    fn silent(&mut self, client: IpAddr, now: Instant) -> Option<Arc<T>> {
        let is_free = |source: &SocketAddr, known: &Known<T>| {
            source.ip() == client && !known.is_sure && now.duration_since(known.sent) >= SILENCE
        };
        let free = self.known.iter().filter(|(source, known)| is_free(source, known));
        let source = *free.min_by_key(|(_, known)| known.sent)?.0;
        self.known.remove(&source).map(|known| known.association)
    }

    /// Forgets an association. Its source is free for the next one.
    pub(super) fn remove(&mut self, association: &Arc<T>) {
        self.known.retain(|_, known| !Arc::ptr_eq(&known.association, association));
        self.waiting.retain(|waiting| !Arc::ptr_eq(&waiting.association, association));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// What is found `seconds` after the start, and whether it is news.
    fn found<T: Copy>(sources: &mut Sources<T>, source: &str, start: Instant, seconds: u64) -> Option<(T, bool)> {
        let found = sources.find(at(source), start + Duration::from_secs(seconds));
        found.map(|(association, is_new)| (*association, is_new))
    }

    #[test]
    fn a_source_keeps_its_association_and_the_next_one_gets_another() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        assert!(found(&mut sources, "127.0.0.1:5000", now, 0).is_none());
        for number in 0..2 {
            sources.add([127, 0, 0, 1].into(), None, Arc::new(number));
        }
        for is_new in [true, false] {
            assert_eq!(found(&mut sources, "127.0.0.1:5000", now, 0), Some((0, is_new)));
            assert_eq!(found(&mut sources, "127.0.0.1:5001", now, 0), Some((1, is_new)));
        }
        assert!(found(&mut sources, "127.0.0.1:5002", now, 0).is_none());
    }

    #[test]
    fn who_said_from_where_is_told_by_that_and_others_by_their_address() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        sources.add("::ffff:127.0.0.1".parse().unwrap(), None, Arc::new("any"));
        sources.add([127, 0, 0, 1].into(), Some(5000), Arc::new("5000"));
        sources.add([127, 0, 0, 2].into(), None, Arc::new("other"));
        for (source, association) in [
            ("127.0.0.1:5000", Some("5000")),
            ("127.0.0.3:5000", None),
            ("127.0.0.2:5000", Some("other")),
            ("127.0.0.1:5001", Some("any")),
            ("127.0.0.1:5002", None),
        ] {
            assert_eq!(found(&mut sources, source, now, 0), association.map(|it| (it, true)), "{source}");
        }
        // Silence frees what is not sure, and only for the same client.
        assert_eq!(found(&mut sources, "127.0.0.1:5002", now, 1), Some(("any", true)));
        assert!(found(&mut sources, "127.0.0.1:5003", now, 1).is_none());
        assert!(found(&mut sources, "127.0.0.3:5000", now, 9).is_none());
    }

    #[test]
    fn two_that_were_each_others_find_out() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        let [first, second] = [1, 2].map(Arc::new);
        sources.add([127, 0, 0, 1].into(), None, first);
        sources.add([127, 0, 0, 1].into(), None, Arc::clone(&second));
        // The second client was the first to send.
        assert_eq!(found(&mut sources, "127.0.0.1:5002", now, 0), Some((1, true)));
        assert_eq!(found(&mut sources, "127.0.0.1:5001", now, 0), Some((2, true)));
        sources.remove(&second);
        assert!(found(&mut sources, "127.0.0.1:5001", now, 0).is_none());
        assert_eq!(found(&mut sources, "127.0.0.1:5001", now, 1), Some((1, true)));
        assert_eq!((sources.known.len(), sources.waiting.len()), (1, 0));
    }

    #[test]
    fn one_that_is_over_leaves_its_source_to_the_next() {
        let (mut sources, now) = (Sources::default(), Instant::now());
        let [first, second, third] = [1, 2, 3].map(Arc::new);
        sources.add([127, 0, 0, 1].into(), Some(5000), Arc::clone(&first));
        assert_eq!(found(&mut sources, "127.0.0.1:5000", now, 0), Some((1, true)));
        sources.add([127, 0, 0, 1].into(), Some(5000), Arc::clone(&second));
        sources.add([127, 0, 0, 1].into(), None, Arc::clone(&third));
        assert_eq!(found(&mut sources, "127.0.0.1:5000", now, 0), Some((1, false)));
        sources.remove(&first);
        sources.remove(&third);
        assert_eq!(found(&mut sources, "127.0.0.1:5000", now, 0), Some((2, true)));
        assert!(found(&mut sources, "127.0.0.1:5001", now, 9).is_none());
        sources.remove(&second);
        assert_eq!((sources.known.len(), sources.waiting.len()), (0, 0));
    }
}
