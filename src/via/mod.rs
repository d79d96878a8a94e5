//! The way out: what `--via` says, and nothing done about it yet.
//!
//! ```text
//! direct | none                                   alone
//! tor                                             this machine's Tor, wherever it is; first in a chain
//! tor://HOST[:PORT] | tor:PATH                    a Tor at that place; PATH is a Unix socket
//! socks5h://[USER[:PASSWORD]@]HOST[:PORT]         also socks5:// and socks://; names go there as names
//! socks4a://[USER@]HOST[:PORT]                    a user id, and no password
//! http://[USER[:PASSWORD]@]HOST:PORT              by CONNECT, with Basic authentication
//! https://[USER[:PASSWORD]@]HOST[:PORT]           the same within TLS, the certificate checked
//! unix:PATH                                       a Unix socket behind which SOCKS5 is spoken
//! ```
//!
//! Several of them are a chain, the first is dialled first. `@FILE` holds some of them, one a line.
//! Credentials are percent-encoded, paths are not. A path is one on this machine, so it is first.

mod file;
mod parse;

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::cli::Isolate;
use crate::destination::Host;

pub use file::{plain, read_spec_file};

/// Everything but RFC 3986's unreserved characters.
const CREDENTIAL: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The way out of one launch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// The host's own network.
    Direct,
    /// No forwarder at all.
    None,
    /// Through these hops, the first is dialled first.
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
    /// SOCKS4a, which carries names and IPv4 addresses.
    Socks4a,
    /// An HTTP proxy.
    Http,
    /// An HTTP proxy within TLS.
    Https,
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

/// A user and a password. Only [`Via::secret_specs`] and the handshakes show them.
#[derive(Clone, PartialEq, Eq)]
pub struct Credentials {
    /// The user, decoded.
    pub user: String,
    /// The password, decoded; it may be empty, and SOCKS4a has none.
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

    /// The socket in the file system that is dialled, if one is.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Via::Chain(hops) => match &hops.first()?.endpoint {
                Endpoint::Unix(path) => Some(path),
                _ => None,
            },
            _ => None,
        }
    }

    /// Whether UDP can go this way: a SOCKS5 server may carry it, but Tor does not, none could be sent to a
    /// Unix socket, and a chain would send it past all hops but the last.
    pub fn carries_datagrams(&self) -> bool {
        match self {
            Via::Direct => true,
            Via::None => false,
            Via::Chain(hops) => {
                matches!(hops[..], [Hop { kind: HopKind::Socks5, endpoint: Endpoint::Tcp { .. }, .. }])
            }
        }
    }

    /// Whether Tor is on the way.
    fn has_tor(&self) -> bool {
        matches!(self, Via::Chain(hops) if hops.iter().any(|hop| hop.kind == HopKind::Tor))
    }

    /// Whether this host's own Tor is dialled first.
    pub fn is_by_local_tor(&self) -> bool {
        let Via::Chain(hops) = self else { return false };
        hops.first().is_some_and(|hop| {
            let is_local = match &hop.endpoint {
                Endpoint::Unix(_) | Endpoint::FindTor => true,
                endpoint => endpoint.ip().is_some_and(|ip| ip.is_loopback()),
            };
            hop.kind == HopKind::Tor && is_local
        })
    }

    /// What divides Tor's circuits, if `asked` is what `--isolate` says.
    pub fn isolation(&self, asked: Option<Isolate>) -> Result<Isolate> {
        if asked.is_some() && !self.has_tor() {
            bail!("--isolate divides Tor's circuits, and --via {self} has no Tor: leave it out, or use --via tor");
        }
        Ok(asked.unwrap_or_default())
    }

    /// The full specification of each hop, credentials included: for a private file, never for a message.
    pub fn secret_specs(&self) -> Vec<String> {
        self.specs(|credentials, kind| {
            let encoded = |text| utf8_percent_encode(text, CREDENTIAL).to_string();
            match kind {
                HopKind::Socks4a => encoded(&credentials.user),
                _ => format!("{}:{}", encoded(&credentials.user), encoded(&credentials.password)),
            }
        })
    }

    /// The word that a log uses for it.
    pub fn kind(&self) -> String {
        match self {
            Via::Direct => "direct".into(),
            Via::None => "none".into(),
            Via::Chain(hops) => hops.iter().map(|hop| hop.kind.as_str()).collect::<Vec<_>>().join("+"),
        }
    }

    fn specs(&self, show: impl Fn(&Credentials, HopKind) -> String) -> Vec<String> {
        match self {
            Via::Direct => vec!["direct".into()],
            Via::None => vec!["none".into()],
            Via::Chain(hops) => hops.iter().map(|hop| hop.spec(&show)).collect(),
        }
    }
}

impl HopKind {
    /// The word that a log uses for it.
    fn as_str(self) -> &'static str {
        match self {
            HopKind::Socks5 => "socks5",
            HopKind::Socks4a => "socks4a",
            HopKind::Http => "http",
            HopKind::Https => "https",
            HopKind::Tor => "tor",
        }
    }

    /// The scheme that a specification is printed with.
    fn scheme(self) -> &'static str {
        match self {
            // What happens to names shows.
            HopKind::Socks5 => "socks5h",
            other => other.as_str(),
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
    fn spec(&self, show: impl Fn(&Credentials, HopKind) -> String) -> String {
        let scheme = self.kind.scheme();
        let credentials = self.credentials.as_ref();
        let credentials = credentials.map_or_else(String::new, |known| show(known, self.kind) + "@");
        match &self.endpoint {
            Endpoint::Tcp { host, port } => format!("{scheme}://{credentials}{host}:{port}"),
            Endpoint::Unix(path) if self.kind == HopKind::Socks5 => format!("unix:{}", path.display()),
            Endpoint::Unix(path) => format!("{scheme}:{}", path.display()),
            Endpoint::FindTor => scheme.into(),
        }
    }
}

fn masked(_: &Credentials, kind: HopKind) -> String {
    if kind == HopKind::Socks4a { "***".into() } else { "***:***".into() }
}

/// Credentials are masked.
impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.specs(masked).join(", "))
    }
}

/// Credentials are masked.
impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.spec(masked))
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
