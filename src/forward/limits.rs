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
/// Refused destinations that are told to the launcher. It lists them once, for somebody to read.
pub const REFUSED_NAMES: usize = 64;

/// The bounds that a caller may set.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections at once.
    pub connections: usize,
    /// Time for a complete request.
    pub handshake: Duration,
    /// Time to connect to the upstream, or to the destination itself.
    pub connect: Duration,
    /// Time for the upstream's answer.
    pub answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: CONNECTIONS, handshake: HANDSHAKE_TIME, connect: CONNECT_TIME, answer: ANSWER_TIME }
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
