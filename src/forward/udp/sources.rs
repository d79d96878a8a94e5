//! Which association a datagram belongs to: its source tells. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

/// An association without a datagram, in or out, for so long may be another source's of its batch. Longer
/// than a client in use pauses, shorter than one waits for an answer.
const SILENCE: Duration = Duration::from_secs(1);

/// Associations by their clients' sources.
///
/// Most clients do not say from where they will send. The first datagram of an unknown source then belongs
/// to the association that has waited longest, for clients send in the order in which they are answered; and a
/// source keeps its association, however long it is silent: who only listens is silent too.
///
/// The guess can be wrong where several waited at once: a batch. Two of them are each other's then, and it
/// shows when one ends: the source that has lost its association gets a silent one of its batch, which may
/// take it back the same way. No other source has anything to gain.
pub(super) struct Sources<T> {
    known: HashMap<SocketAddr, Known<T>>,
    /// Those that nobody has sent a datagram for, the oldest first.
    waiting: Vec<Waiting<T>>,
    /// Sources whose association is over or another's, and its batch, while others of it are known.
    orphans: VecDeque<(SocketAddr, Batch)>,
    batches: u64,
}

/// Associations any of which may be another's of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Batch(u64);

struct Known<T> {
    association: Arc<T>,
    batch: Batch,
}

struct Waiting<T> {
    /// Who made the request, and will send.
    client: IpAddr,
    /// From where it said that it would send.
    port: Option<u16>,
    known: Known<T>,
}

impl<T> Default for Sources<T> {
    fn default() -> Self {
        Self { known: HashMap::new(), waiting: Vec::new(), orphans: VecDeque::new(), batches: 0 }
    }
}

impl<T> Sources<T> {
    /// Adds an association that `client` asked for, and that waits for its first datagram: from `port`, if
    /// the client knew it.
    pub(super) fn add(&mut self, client: IpAddr, port: Option<u16>, association: Arc<T>) {
        let client = client.to_canonical();
        let is_like = |waiting: &&Waiting<T>| port.is_none() && (waiting.client, waiting.port) == (client, None);
        let batch = self.waiting.iter().find(is_like).map(|waiting| waiting.known.batch);
        let batch = batch.unwrap_or_else(|| {
            self.batches += 1;
            Batch(self.batches)
        });
        self.waiting.push(Waiting { client, port, known: Known { association, batch } });
    }

    /// The association of a datagram that comes from `source`, and whether that is news to it. `silence` tells
    /// how long one has had no datagram, in or out.
    pub(super) fn find(&mut self, source: SocketAddr, silence: impl Fn(&T) -> Duration) -> Option<(Arc<T>, bool)> {
        if let Some(known) = self.known.get(&source) {
            return Some((Arc::clone(&known.association), false));
        }
        let known = self.waiting(source).or_else(|| self.silent(source, silence))?;
        let association = Arc::clone(&known.association);
        self.orphans.retain(|(orphan, _)| *orphan != source);
        self.known.insert(source, known);
        Some((association, true))
    }

    /// The association that waits for a datagram from `source`.
    fn waiting(&mut self, source: SocketAddr) -> Option<Known<T>> {
        let client = source.ip().to_canonical();
        let from = |port| move |waiting: &Waiting<T>| (waiting.client, waiting.port) == (client, port);
        let said = self.waiting.iter().position(from(Some(source.port())));
        let index = said.or_else(|| self.waiting.iter().position(from(None)))?;
        Some(self.waiting.remove(index).known)
    }

    /// The one of an orphan's batch that has been silent for the longest time: now the source that had it is one.
    fn silent(&mut self, orphan: SocketAddr, silence: impl Fn(&T) -> Duration) -> Option<Known<T>> {
        let (_, batch) = *self.orphans.iter().find(|(source, _)| *source == orphan)?;
        let others = self.known.iter().filter(|(_, known)| known.batch == batch);
        let silent = others.map(|(source, known)| (silence(&known.association), *source));
        let (_, source) = silent.filter(|(silence, _)| *silence >= SILENCE).max_by_key(|(silence, _)| *silence)?;
        self.orphans.push_back((source, batch));
        self.known.remove(&source)
    }

    /// Forgets an association.
    pub(super) fn remove(&mut self, association: &Arc<T>) {
        let is_it = |known: &Known<T>| Arc::ptr_eq(&known.association, association);
        self.waiting.retain(|waiting| !is_it(&waiting.known));
        let source = self.known.iter().find(|(_, known)| is_it(known)).map(|(source, _)| *source);
        if let Some((source, known)) = source.and_then(|source| self.known.remove_entry(&source)) {
            self.orphans.push_back((source, known.batch));
        }
        let known: HashSet<Batch> = self.known.values().map(|known| known.batch).collect();
        self.orphans.retain(|(_, batch)| known.contains(batch));
        // No more can find another one: a batch that never ends does not make them many.
        let surplus = self.orphans.len().saturating_sub(self.known.len());
        self.orphans.drain(..surplus);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// What is found where all are silent, and whether it is news.
    fn found<T: Copy>(sources: &mut Sources<T>, source: &str) -> Option<(T, bool)> {
        let found = sources.find(at(source), |_| SILENCE);
        found.map(|(association, is_new)| (*association, is_new))
    }

    #[test]
    fn a_source_keeps_its_association_and_the_next_one_gets_another() {
        let mut sources = Sources::default();
        assert!(found(&mut sources, "127.0.0.1:5000").is_none());
        for number in 0..2 {
            sources.add(CLIENT, None, Arc::new(number));
        }
        for is_new in [true, false] {
            assert_eq!(found(&mut sources, "127.0.0.1:5000"), Some((0, is_new)));
            assert_eq!(found(&mut sources, "127.0.0.1:5001"), Some((1, is_new)));
        }
        assert!(found(&mut sources, "127.0.0.1:5002").is_none());
    }

    #[test]
    fn who_said_from_where_is_told_by_that_and_others_by_their_address() {
        let mut sources = Sources::default();
        sources.add("::ffff:127.0.0.1".parse().unwrap(), None, Arc::new("any"));
        sources.add(CLIENT, Some(5000), Arc::new("5000"));
        sources.add([127, 0, 0, 2].into(), None, Arc::new("other"));
        for (source, association) in [
            ("127.0.0.1:5000", Some("5000")),
            ("127.0.0.3:5000", None),
            ("127.0.0.2:5000", Some("other")),
            ("127.0.0.1:5001", Some("any")),
            ("127.0.0.1:5002", None),
        ] {
            assert_eq!(found(&mut sources, source), association.map(|it| (it, true)), "{source}");
        }
    }

    #[test]
    fn two_that_were_each_others_find_out() {
        let mut sources = Sources::default();
        let [first, second] = [1, 2].map(Arc::new);
        sources.add(CLIENT, None, Arc::clone(&first));
        sources.add(CLIENT, None, Arc::clone(&second));
        // The second client was the first to send.
        assert_eq!(found(&mut sources, "127.0.0.1:5002"), Some((1, true)));
        assert_eq!(found(&mut sources, "127.0.0.1:5001"), Some((2, true)));
        sources.remove(&second);
        assert!(sources.find(at("127.0.0.1:5001"), |_| SILENCE / 2).is_none(), "it is in use");
        assert!(found(&mut sources, "127.0.0.1:5003").is_none(), "a stranger's");
        assert_eq!(found(&mut sources, "127.0.0.1:5001"), Some((1, true)));
        // If that was wrong, it goes back.
        assert_eq!(found(&mut sources, "127.0.0.1:5002"), Some((1, true)));
        assert_eq!(sources.orphans, [(at("127.0.0.1:5001"), Batch(1))]);
        sources.remove(&first);
        assert_eq!((sources.known.len(), sources.waiting.len(), sources.orphans.len()), (0, 0, 0));
    }

    #[test]
    fn who_was_not_taken_for_another_loses_nothing_to_one_that_is_over() {
        let mut sources = Sources::default();
        let associations = [1, 2, 3].map(Arc::new);
        for (association, source) in associations.iter().zip(["127.0.0.1:5001", "127.0.0.1:5002", "127.0.0.1:5003"]) {
            let port = (**association == 3).then_some(5003);
            sources.add(CLIENT, port, Arc::clone(association));
            assert_eq!(found(&mut sources, source), Some((**association, true)));
        }
        sources.remove(&associations[1]);
        assert!(found(&mut sources, "127.0.0.1:5002").is_none());
        assert_eq!(found(&mut sources, "127.0.0.1:5001"), Some((1, false)));
        assert_eq!(found(&mut sources, "127.0.0.1:5003"), Some((3, false)));
    }

    #[test]
    fn orphans_are_no_more_than_those_that_they_may_find() {
        let mut sources = Sources::default();
        sources.add(CLIENT, None, Arc::new(0));
        for number in 1..=100 {
            let next = Arc::new(number);
            sources.add(CLIENT, None, Arc::clone(&next));
            let (over, _) = sources.find(at(&format!("127.0.0.1:{}", 5000 + number)), |_| SILENCE).unwrap();
            if number % 10 != 0 {
                sources.remove(&over);
            }
        }
        assert_eq!((sources.known.len(), sources.waiting.len(), sources.orphans.len()), (10, 1, 9));
    }

    #[test]
    fn one_that_is_over_leaves_its_source_to_the_next() {
        let mut sources = Sources::default();
        let [first, second, third] = [1, 2, 3].map(Arc::new);
        sources.add(CLIENT, Some(5000), Arc::clone(&first));
        assert_eq!(found(&mut sources, "127.0.0.1:5000"), Some((1, true)));
        sources.add(CLIENT, Some(5000), Arc::clone(&second));
        sources.add(CLIENT, None, Arc::clone(&third));
        assert_eq!(found(&mut sources, "127.0.0.1:5000"), Some((1, false)));
        sources.remove(&first);
        sources.remove(&third);
        assert_eq!(found(&mut sources, "127.0.0.1:5000"), Some((2, true)));
        assert!(found(&mut sources, "127.0.0.1:5001").is_none());
        sources.remove(&second);
        assert_eq!((sources.known.len(), sources.waiting.len()), (0, 0));
    }
}
