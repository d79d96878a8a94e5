//! Where the forwarder listens: for the socket unit, or for `inside`, which makes the sockets where
//! there is none. Pure.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use anyhow::{Result, bail};

/// Connections that wait to be accepted: the kernel's own limit (net.core.somaxconn) is less, or the same.
pub const BACKLOG: u16 = 4096;

/// One socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// What kind it is.
    pub kind: Kind,
    /// Where.
    pub address: SocketAddr,
}

/// What kind of socket it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TCP.
    Stream,
    /// UDP.
    Datagram,
    /// Whole IP packets, sent only: answers to captured datagrams. No socket unit makes one.
    Raw,
}

impl Kind {
    /// As the bus calls it, and unit files behind `Listen`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "Stream",
            Self::Datagram => "Datagram",
            Self::Raw => "Raw",
        }
    }
}

/// As it stands in the arguments of `appfw inside`: `Stream:127.100.90.50:1080`.
impl fmt::Display for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.as_str(), self.address)
    }
}

impl FromStr for Listening {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        for kind in [Kind::Stream, Kind::Datagram, Kind::Raw] {
            if let Some(address) = text.strip_prefix(kind.as_str()).and_then(|rest| rest.strip_prefix(':')) {
                return Ok(Self { kind, address: address.parse()? });
            }
        }
        bail!("`{text}` is not KIND:ADDRESS:PORT")
    }
}
