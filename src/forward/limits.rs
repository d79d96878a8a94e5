//! What bounds the forwarder.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Resource, getrlimit, setrlimit};

/// Connections at once. A browser with many tabs has a few hundred; each costs two descriptors.
const CONNECTIONS: usize = 10_000;
/// Descriptors kept for listeners, the runtime, lookups and answers to those who come too many.
const SPARE_DESCRIPTORS: usize = 128;
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
/// Addresses of one name that are tried: all that fit into [`CONNECT_TIME`] would be a hundred
/// sockets for one connection.
pub(super) const ADDRESSES: usize = 16;
/// From an HTTP answer to the next request on the same connection. Longer than apt and browsers pause
/// while they work; those that come later open another connection.
const KEEP_ALIVE_TIME: Duration = Duration::from_secs(60);
/// A user or a name in SOCKS4, with its NUL: as long as one can be in SOCKS5.
pub(super) const SOCKS4_TEXT: usize = 256;
/// An HTTP head: curl's own limit is 100 KB for all headers, Apache's 8 KB a line.
pub(super) const HEAD_BYTES: u64 = 64 * 1024;
/// Headers of one head. httparse wants a number; Apache takes 100.
pub(super) const HEADERS: usize = 128;
/// Connections that are told "no more" at once, once the house is full. Beyond them: just closed.
pub(super) const REFUSALS: usize = 64;
/// What a connection that will be refused anyway may take to say its request.
pub(super) const REFUSAL_TIME: Duration = Duration::from_secs(2);
/// The pause after a failed accept. With no descriptor left, only somebody's end helps.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// A DNS query: a name has 255 bytes at most, options are few. Whatever is longer is wrong.
pub(super) const DNS_QUERY_BYTES: usize = 4096;
/// An answer by UDP, whatever the client takes: as long as a query, no more than that fits one buffer.
pub(super) const DNS_ANSWER_BYTES: u16 = 4096;
/// Names with a synthetic address: a browser's day; some 8 MB if each is as long as can be.
pub(super) const DNS_NAMES: usize = 16_384;
/// DNS queries at once. A browser that opens its tabs asks a few hundred.
pub(super) const DNS_QUERIES: usize = 512;
/// Those that take a thread (the host's resolver) or a connection (tcp://); the others wait. With the
/// connections below they fit into SPARE_DESCRIPTORS.
pub(super) const DNS_LOOKUPS: usize = 64;
/// DNS connections by TCP at once: clients take it for the rare answer that is long.
pub(super) const DNS_CONNECTIONS: usize = 32;
/// Queries at once on one of them.
pub(super) const DNS_PIPELINE: usize = 16;
/// How long one may be idle, or not take its answer (RFC 7766, 6.2.3: "on the order of a few seconds").
pub(super) const DNS_IDLE: Duration = Duration::from_secs(10);
/// For an answer from elsewhere; Tor may have to build a circuit. The app's own patience is
/// written by state.rs.
pub(super) const DNS_TIME: Duration = Duration::from_secs(20);
/// Refused destinations that are told to the launcher. It lists them once, for somebody to read.
pub const REFUSED_NAMES: usize = 64;

/// The bounds that a caller may set.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Time for a complete request.
    pub handshake: Duration,
    /// Time to connect to the upstream, to each one of a chain, or to the destination itself.
    pub connect: Duration,
    /// Time for the upstream's answer.
    pub answer: Duration,
    /// Time for all of this together, where there are several upstreams in a chain.
    pub way: Duration,
    /// Time between an HTTP answer and the next request on the same connection.
    pub keep_alive: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: CONNECTIONS,
            handshake: HANDSHAKE_TIME,
            connect: CONNECT_TIME,
            answer: ANSWER_TIME,
            way: WAY_TIME,
            keep_alive: KEEP_ALIVE_TIME,
        }
    }
}

impl Limits {
    /// The defaults, as far as this process's descriptors reach once the limit is raised.
    pub(super) fn of_this_process() -> Result<Self> {
        let mut limit = getrlimit(Resource::Nofile);
        limit.current = limit.maximum;
        setrlimit(Resource::Nofile, limit).context("cannot raise the limit of open files")?;
        let descriptors = limit.current.map_or(usize::MAX, |count| usize::try_from(count).unwrap_or(usize::MAX));
        let affordable = descriptors.saturating_sub(SPARE_DESCRIPTORS) / 2;
        Ok(Self { connections: affordable.clamp(1, CONNECTIONS), ..Self::default() })
    }
}
