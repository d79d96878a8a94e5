//! What bounds the forwarder.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Resource, getrlimit, setrlimit};

use super::dns::MOST_NAMES;

/// Connections at once. A browser with many tabs has a few hundred; each costs two descriptors.
const CONNECTIONS: usize = 10_000;
/// Descriptors kept for listeners, the runtime and what it judges by, and for all that is bounded by itself.
const SPARE_DESCRIPTORS: usize = 64 + REFUSALS + FURTHER_ATTEMPTS + DNS_CONNECTIONS + 2 * PIPES;
/// From the first look at a connection to its complete request. Chromium and dnf open connections
/// ahead of need and may leave them silent for some seconds; they open another if one is closed.
const HANDSHAKE_TIME: Duration = Duration::from_secs(30);
/// To a connected socket: five SYNs (1, 3, 7, 15 s) and some slack.
const CONNECT_TIME: Duration = Duration::from_secs(30);
/// From there to the upstream's answer. Tor itself gives up after two minutes (SocksTimeout).
const ANSWER_TIME: Duration = Duration::from_secs(125);
/// The whole way through a chain, whatever its hops take each: a little more than one that is slow
/// in all its steps.
const WAY_TIME: Duration = Duration::from_secs(180);
/// From one attempt to the next address's (RFC 8305, 5: recommended; the earlier ones go on).
pub(super) const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried: all that fit into [`CONNECT_TIME`] would be a hundred.
pub(super) const ADDRESSES: usize = 16;
/// Attempts of one connection that go on at once: each address has three quarters of a second to answer,
/// and the last ones all the time that is left.
pub(super) const ATTEMPTS: usize = 3;
/// Attempts beyond each connection's first, of all connections.
pub(super) const FURTHER_ATTEMPTS: usize = 64;
/// Lookups by the host's resolver at once. A name whose servers are dead keeps a thread for ten seconds
/// (resolv.conf(5): five, twice), so that a few hundred such names don't hold up others.
pub(super) const LOOKUPS: usize = 1_024;
/// How long one waits for another to end: longer than a dead one takes.
pub(super) const LOOKUP_WAIT: Duration = Duration::from_secs(15);
/// From an HTTP answer to the next request on the same connection. Longer than apt and browsers pause
/// while they work; those that come later open another connection.
const KEEP_ALIVE_TIME: Duration = Duration::from_secs(60);
/// A peer that is silent this long is asked for a sign of life; a vanished one frees its place.
pub(super) const KEEPALIVE_AFTER: Duration = Duration::from_secs(120);
/// Without a byte either way. RFC 5382, 5 allows nobody on the way to forget a connection in less than 2 h 4 min,
/// and ssh sessions are left alone for a night; peers that have vanished are found out by keepalive.
const IDLE_TIME: Duration = Duration::from_secs(24 * 60 * 60);
/// One read's worth where bytes are copied: large enough that system calls don't count, small enough for a
/// core's cache.
pub(super) const PIECE: usize = 64 * 1024;
/// Bytes that were read and that receivers do not take, of all connections: beyond that
/// [`SMALL_PIECE`] is read at once, so that as many stalled ones as there can be keep 56 MB.
pub(super) const KEPT: usize = 16 * 1024 * 1024;
/// A page: what is read at once where much waits already.
pub(super) const SMALL_PIECE: usize = 4096;
/// One splice's worth, each byte of it on its way. Pages, of which a user may have 16,384 in pipes without
/// privileges (pipe(7): pipe-user-pages-soft).
pub(super) const PIPE_BYTES: usize = 256 * 1024;
/// Pipes at once: streams that flow, and whose receiver is slower just then. Others are copied.
pub(super) const PIPES: usize = 32;
/// A user or a name in SOCKS4, with its NUL: as long as one can be in SOCKS5.
pub(super) const SOCKS4_TEXT: usize = 256;
/// An HTTP head: curl's own limit is 100 KB for all headers, Apache's 8 KB a line.
pub(super) const HEAD_BYTES: usize = 64 * 1024;
/// Of which so much is every connection's own: browsers' heads, cookies included, and Apache's limit for a line.
pub(super) const HEAD_FREE: usize = 8 * 1024;
/// What all heads together may have beyond that, until they are passed on: well over a hundred of the largest,
/// where a browser sends a few large ones at a time.
pub(super) const HEADS_BYTES: usize = 8 * 1024 * 1024;
/// A head's buffer grows by so much: most need no more, and one of 64 KiB is moved 16 times at most.
pub(super) const HEAD_STEP: usize = 4 * 1024;
/// Headers of one head. httparse wants a number; Apache takes 100.
pub(super) const HEADERS: usize = 128;
/// Connections that are told "no more" at once, once the house is full. Beyond them: just closed.
pub(super) const REFUSALS: usize = 64;
/// What a connection that will be refused anyway may take to say its request.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// The pause after a failed accept. With no descriptor left, only somebody's end helps.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A DNS query: a name has 255 bytes at most, options are few. Whatever is longer is wrong.
pub(super) const DNS_QUERY_BYTES: usize = 4096;
/// An answer by UDP, whatever the client takes: as long as a query, no more than that fits one buffer.
pub(super) const DNS_ANSWER_BYTES: u16 = 4096;
/// Names with a synthetic address: a browser's day; some 8 MB if each is as long as can be.
const DNS_NAMES: usize = 16_384;
/// DNS queries at once, each with a lookup or a connection of its own (tcp://): none waits for another.
/// A browser that opens its tabs asks a few hundred. Where there are few descriptors they have an eighth.
pub(super) const DNS_QUERIES: usize = 512;
/// DNS connections by TCP at once: clients take it for the rare answer that is long.
pub(super) const DNS_CONNECTIONS: usize = 32;
/// Queries at once on one of them.
pub(super) const DNS_PIPELINE: usize = 16;
/// How long one may be idle, or not take its answer (RFC 7766, 6.2.3: "on the order of a few seconds").
pub(super) const DNS_IDLE: Duration = Duration::from_secs(10);
/// For an answer from elsewhere; Tor may have to build a circuit. The app's own patience is
/// written by state.rs.
pub(super) const DNS_TIME: Duration = Duration::from_secs(20);
/// UDP associations at once: a program that puts all its datagrams through has one a socket. Each costs
/// one descriptor more than a connection.
const UDP_ASSOCIATIONS: usize = 1_024;
/// An association without a datagram is given up after that, as a translator does (RFC 4787, 4.3).
const UDP_IDLE: Duration = Duration::from_secs(5 * 60);
/// Destinations of one association. Some 300 bytes each, up to 900 with the longest names; what talks to more
/// at once is a peer-to-peer program, and loses the answers that come last.
pub(super) const UDP_DESTINATIONS: usize = 128;
/// A destination that is not sent to for so long is judged anew (RFC 4787, 4.3: two minutes at least).
pub(super) const UDP_FLOW_IDLE: Duration = Duration::from_secs(2 * 60);
/// What was refused is refused for so long without another look.
pub(super) const UDP_REFUSED: Duration = Duration::from_secs(10);
/// Names of datagrams that are looked up at once, each on a thread.
pub(super) const UDP_LOOKUPS: usize = 64;
/// Datagrams that wait for one of them: a client's first flight.
pub(super) const UDP_HELD: usize = 4;
/// The longest datagram that there is, and its header.
pub(super) const DATAGRAM_BYTES: usize = 64 * 1024 + 512;
/// Refused destinations that are told to the launcher. It lists them once, for somebody to read.
pub const REFUSED_NAMES: usize = 64;

/// The bounds that a caller may set, by `--limit`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Time for a complete request, and for a client to take the answer that it is not served.
    pub handshake: Duration,
    /// Bytes of an HTTP request's head. SOCKS says lengths in one byte each, and so has a bound of its own.
    pub head: usize,
    /// Time to connect to the upstream, to each one of a chain, or to the destination itself.
    pub connect: Duration,
    /// Time for the upstream's answer; to a single HTTP request from its last byte on.
    pub answer: Duration,
    /// Time for all of this together, where there are several upstreams in a chain. An HTTP request's body may
    /// take longer than that, so its answer is not part of it.
    pub way: Duration,
    /// Time between an HTTP answer and the next request on the same connection.
    pub keep_alive: Duration,
    /// Time without a byte either way; it may take up to twice as long to be noticed.
    pub idle: Duration,
    /// Names with a synthetic address.
    pub names: usize,
    /// UDP associations at once.
    pub associations: usize,
    /// Time that one may go without a datagram.
    pub udp_idle: Duration,
    /// DNS queries at once; no bound is for them.
    pub queries: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            handshake: HANDSHAKE_TIME,
            head: HEAD_BYTES,
            connect: CONNECT_TIME,
            answer: ANSWER_TIME,
            way: WAY_TIME,
            keep_alive: KEEP_ALIVE_TIME,
            idle: IDLE_TIME,
            names: DNS_NAMES,
            associations: UDP_ASSOCIATIONS,
            udp_idle: UDP_IDLE,
            queries: DNS_QUERIES,
        }
    }
}

impl Limits {
    /// The defaults but for `bounds`, as far as this process's descriptors reach once the limit is raised.
    ///
    /// # Errors
    /// The limit can't be raised, or a bound asks for more than it.
    pub(crate) fn of_this_process(bounds: &[Bound]) -> Result<Self> {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")?;
        let descriptors = limit.current.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let queries = (descriptors / 8).clamp(1, DNS_QUERIES);
        let spare = SPARE_DESCRIPTORS + queries;
        let affordable = |associations| (descriptors.saturating_sub(spare.saturating_add(associations)) / 2).max(1);
        let associations = (descriptors / 16).clamp(1, UDP_ASSOCIATIONS);
        let connections = affordable(associations).min(CONNECTIONS);
        let mut limits = Self { connections, associations, queries, ..Self::default() };
        for bound in bounds {
            bound.set(&mut limits);
        }
        let Self { connections, associations, .. } = limits;
        let affordable = affordable(associations);
        if connections > affordable {
            bail!(
                "--limit connections={connections}: {descriptors} open files are enough for {affordable}, and \
                 {associations} UDP associations (see ulimit -n)"
            );
        }
        Ok(limits)
    }
}

type Set = fn(&mut Limits, u32);

/// One bound, as `NAME=VALUE` says it: a number, of seconds where it is a time.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    set: Set,
    value: u32,
}

impl Bound {
    const ALL: [(&str, Set); 11] = [
        ("connections", |limits, count| limits.connections = count as usize),
        ("handshake", |limits, seconds| limits.handshake = time(seconds)),
        ("head", |limits, bytes| limits.head = bytes as usize),
        ("connect", |limits, seconds| limits.connect = time(seconds)),
        ("answer", |limits, seconds| limits.answer = time(seconds)),
        ("way", |limits, seconds| limits.way = time(seconds)),
        ("keep-alive", |limits, seconds| limits.keep_alive = time(seconds)),
        ("idle", |limits, seconds| limits.idle = time(seconds)),
        ("associations", |limits, count| limits.associations = count as usize),
        ("udp-idle", |limits, seconds| limits.udp_idle = time(seconds)),
        ("names", |limits, count| limits.names = count as usize),
    ];

    fn set(self, limits: &mut Limits) {
        (self.set)(limits, self.value);
    }
}

fn time(seconds: u32) -> Duration {
    Duration::from_secs(seconds.into())
}

impl FromStr for Bound {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let names = || Self::ALL.map(|(name, _)| name).join(", ");
        let Some((name, value)) = text.split_once('=') else {
            bail!("`{text}` is no bound: write NAME=VALUE, with one of {}", names());
        };
        let Some((name, set)) = Self::ALL.into_iter().find(|(known, _)| *known == name) else {
            bail!("there is no bound `{name}`, but {}", names());
        };
        match value.parse() {
            Ok(value) if name == "names" && value > MOST_NAMES => {
                bail!("names={value}: --dns synthetic has addresses for {MOST_NAMES} names")
            }
            Ok(value) if value > 0 => Ok(Self { set, value }),
            _ => bail!("{name}={value}: a whole number from 1 on, of seconds where it is a time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bound_can_be_set_and_none_twice() {
        let said = |name: &str, value: u32| format!("{name}={value}").parse::<Bound>().unwrap();
        let mut limits = Limits::default();
        for (number, (name, _)) in (1..).zip(Bound::ALL) {
            said(name, number).set(&mut limits);
        }
        let Limits { handshake, connect, answer, way, keep_alive, idle, udp_idle, .. } = limits;
        let times = [handshake, connect, answer, way, keep_alive, idle, udp_idle];
        assert_eq!(times.map(|time| time.as_secs()), [2, 4, 5, 6, 7, 8, 10]);
        assert_eq!([limits.connections, limits.head, limits.associations, limits.names], [1, 3, 9, 11]);
    }

    #[test]
    fn what_is_no_bound_is_told() {
        for (text, told) in [
            ("connections", "`connections` is no bound: write NAME=VALUE, with one of connections, "),
            ("conections=1", "there is no bound `conections`, but connections, "),
            ("idle=0", "idle=0: a whole number from 1 on"),
            ("idle=1.5", "idle=1.5: a whole number"),
            ("idle=99999999999", "idle=99999999999: a whole number"),
            ("names=131071", "names=131071: --dns synthetic has addresses for 131070 names"),
        ] {
            let error = text.parse::<Bound>().unwrap_err().to_string();
            assert!(error.starts_with(told), "{error}");
        }
    }

    #[test]
    fn more_connections_than_descriptors_is_a_mistake() {
        let error = Limits::of_this_process(&["connections=4000000000".parse().unwrap()]).unwrap_err().to_string();
        assert!(error.starts_with("--limit connections=4000000000: "), "{error}");
        assert_eq!(Limits::of_this_process(&["connections=7".parse().unwrap()]).unwrap().connections, 7);
    }
}
