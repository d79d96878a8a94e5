//! Why a request got no connection, and how that is said in each protocol.

use std::fmt;
use std::io;

use fast_socks5::ReplyError;
use nix::libc::{EMFILE, ENFILE};
use serde::{Deserialize, Serialize};

/// A request that is not served. Its message is one sentence and holds no credentials.
#[derive(Debug)]
pub struct Failure {
    /// What a SOCKS5 client is told.
    pub reply: ReplyError,
    /// What an HTTP client is told.
    pub status: u16,
    /// The sentence for the log, and for people.
    pub message: String,
    /// The upstream itself failed, as opposed to the destination behind it.
    pub blames_upstream: bool,
    /// The rule that refused it, if it was one that the user gave.
    pub refused: Option<Refused>,
}

/// What `--only` or `--block` refused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Refused {
    /// What was asked for.
    pub destination: String,
    /// The option.
    pub by: Rule,
}

/// An option that refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// `--only` does not name it.
    Only,
    /// `--block` does.
    Block,
}

impl Failure {
    /// The destination worked against us, in a way that no better code describes.
    pub fn general(message: impl Into<String>) -> Self {
        let message = message.into();
        Self { reply: ReplyError::GeneralFailure, status: 502, message, blames_upstream: false, refused: None }
    }

    /// We refuse.
    pub fn refused(message: impl Into<String>) -> Self {
        Self { reply: ReplyError::ConnectionNotAllowed, status: 403, ..Self::general(message) }
    }

    /// The request itself is wrong.
    pub fn malformed(message: impl Into<String>) -> Self {
        Self { status: 400, ..Self::general(message) }
    }

    /// The way out cannot do what was asked.
    pub fn not_offered(message: impl Into<String>) -> Self {
        Self { reply: ReplyError::CommandNotSupported, status: 501, ..Self::general(message) }
    }

    /// The house is full.
    pub fn full() -> Self {
        Self { status: 503, ..Self::general("the forwarder has as many connections as it can hold") }
    }

    /// No datagrams of one more client can be carried.
    pub fn no_association() -> Self {
        Self::general("there are as many UDP associations as there can be")
    }

    /// Large heads take all the memory that there is for them.
    pub fn no_room_for_a_head() -> Self {
        Self { status: 503, ..Self::general("the forwarder has no room for another large HTTP head at the moment") }
    }

    /// The HTTP upstream `at` does not know us: its 407 is ours, and none of the app's.
    pub fn wants_login(at: impl fmt::Display) -> Self {
        Self::general(format!("the HTTP upstream {at} wants another user and password")).of_upstream()
    }

    /// `what` did not happen in time.
    pub fn timed_out(what: impl fmt::Display) -> Self {
        Self { reply: ReplyError::TtlExpired, status: 504, ..Self::general(format!("{what} timed out")) }
    }

    /// `what` failed with an error of the system.
    pub fn system(what: impl fmt::Display, error: &io::Error) -> Self {
        if is_exhausted(error) {
            return Self::full();
        }
        let (reply, status) = match error.kind() {
            io::ErrorKind::ConnectionRefused => (ReplyError::ConnectionRefused, 502),
            io::ErrorKind::NetworkUnreachable => (ReplyError::NetworkUnreachable, 502),
            io::ErrorKind::HostUnreachable => (ReplyError::HostUnreachable, 502),
            io::ErrorKind::TimedOut => (ReplyError::TtlExpired, 504),
            _ => (ReplyError::GeneralFailure, 502),
        };
        Self { reply, status, ..Self::general(format!("{what}: {error}")) }
    }

    /// What kind of failure it is, in words that tell nothing of what was asked for.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.reply {
            ReplyError::ConnectionNotAllowed => "refused",
            ReplyError::ConnectionRefused => "nobody listens there",
            ReplyError::NetworkUnreachable | ReplyError::HostUnreachable => "unreachable",
            ReplyError::TtlExpired => "timed out",
            ReplyError::CommandNotSupported | ReplyError::AddressTypeNotSupported => "not offered",
            _ if self.blames_upstream => "the upstream failed",
            _ if self.status == 400 => "a request that is wrong",
            _ => "failed",
        }
    }

    /// The same, but the upstream is to blame.
    #[must_use]
    pub fn of_upstream(self) -> Self {
        Self { blames_upstream: true, ..self }
    }
}

/// Whether there is no descriptor left, here or on the whole machine: nobody's refusal, and soon over.
pub fn is_exhausted(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(EMFILE | ENFILE))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
