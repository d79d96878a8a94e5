//! The way out: what `--via` says, and nothing done about it yet.

mod file;
mod parse;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Result;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::destination::Host;

pub use file::read_spec_file;

/// Everything but RFC 3986's unreserved characters.
const CREDENTIAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The way out of one launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// The host's own network.
    Direct,
    /// No forwarder at all.
    None,
    /// Through these hops, the first is dialled first. This version takes exactly one.
    Chain(Vec<Hop>),
}

/// One upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// How to speak to it.
    pub kind: HopKind,
    /// Where it is.
    pub endpoint: Endpoint,
    /// How to authenticate. Never with `tor`, where they would choose the circuit.
    pub credentials: Option<Credentials>,
}

/// The protocol of a hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HopKind {
    /// SOCKS5; names are always sent as names.
    Socks5,
    /// An HTTP proxy.
    Http,
    /// Tor's SOCKS port, with credentials that keep circuits apart.
    Tor,
}

/// The place of a hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A host and a port.
    Tcp {
        /// Its address, or a name that the forwarder resolves.
        host: Host,
        /// Its port.
        port: u16,
    },
    /// A socket in the file system.
    Unix(PathBuf),
    /// The local Tor, wherever [`crate::tor::find_tor`] finds it.
    FindTor,
}

/// A user and a password. Only [`Via::secret_spec`] and the handshakes show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user, decoded.
    pub user: String,
    /// The password, decoded; it may be empty.
    pub password: String,
}

impl Via {
    /// Parses the values of all `--via` options. `@FILE` is for [`Via::from_args`], which reads files.
    pub fn parse(specs: &[String]) -> Result<Self> {
        parse::via(specs)
    }

    /// Parses the values of all `--via` options, reading each `@FILE`.
    pub fn from_args(specs: &[String]) -> Result<Self> {
        file::load(specs, |variable| std::env::var_os(variable))
    }

    /// Whether the local Tor is still to be found.
    pub fn wants_tor(&self) -> bool {
        matches!(self, Via::Chain(hops) if hops.iter().any(|hop| hop.endpoint == Endpoint::FindTor))
    }

    /// Puts the place that was found in for every plain `tor`.
    pub fn settle_tor(&mut self, place: Endpoint) {
        if let Via::Chain(hops) = self {
            for hop in hops.iter_mut().filter(|hop| hop.endpoint == Endpoint::FindTor) {
                hop.endpoint = place.clone();
            }
        }
    }

    /// Whether a specification shown in full would show a password.
    pub fn has_secret(&self) -> bool {
        matches!(self, Via::Chain(hops) if hops.iter().any(|hop| hop.credentials.is_some()))
    }

    /// The full specification, credentials included: for a private file, never for a message.
    pub fn secret_spec(&self) -> String {
        self.spec(|credentials| {
            let encoded = |text| utf8_percent_encode(text, CREDENTIAL);
            format!("{}:{}", encoded(&credentials.user), encoded(&credentials.password))
        })
    }

    /// The word that a log uses for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Via::Direct => "direct",
            Via::None => "none",
            Via::Chain(hops) => match hops.first().map(|hop| hop.kind) {
                Some(HopKind::Http) => "http",
                Some(HopKind::Tor) => "tor",
                Some(HopKind::Socks5) | None => "socks5",
            },
        }
    }

    fn spec(&self, show: impl Fn(&Credentials) -> String) -> String {
        match self {
            Via::Direct => "direct".into(),
            Via::None => "none".into(),
            Via::Chain(hops) => {
                let specs: Vec<_> = hops.iter().map(|hop| hop.spec(&show)).collect();
                specs.join("\n")
            }
        }
    }
}

impl Endpoint {
    /// Its address, if it is given by one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Endpoint::Tcp { host: Host::Ip(address), .. } => Some(*address),
            _ => None,
        }
    }
}

impl Hop {
    fn spec(&self, show: impl Fn(&Credentials) -> String) -> String {
        let scheme = match self.kind {
            HopKind::Socks5 => "socks5h",
            HopKind::Http => "http",
            HopKind::Tor => "tor",
        };
        let credentials = self.credentials.as_ref();
        let credentials = credentials.map_or_else(String::new, |known| show(known) + "@");
        match &self.endpoint {
            Endpoint::Tcp { host, port } => format!("{scheme}://{credentials}{host}:{port}"),
            Endpoint::Unix(path) => format!("{scheme}:{}", path.display()),
            Endpoint::FindTor => scheme.into(),
        }
    }
}

/// Credentials are masked.
impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec(|_| "***:***".into()))
    }
}

/// Credentials are masked.
impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec(|_| "***:***".into()))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "{}", path.display()),
            Endpoint::FindTor => f.write_str("the local Tor"),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***:***")
    }
}

#[cfg(test)]
mod tests;
