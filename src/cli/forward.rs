//! `appfw forward`: the forwarder, started by its unit or by hand.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;

use crate::cli::{Isolate, LogDestinations};
use crate::forward::Bound;

use crate::destination::Pattern;
use crate::dns::Dns;
use crate::via::Via;

/// A proxy for SOCKS5, SOCKS4, SOCKS4a and HTTP on one port, and its DNS.
#[derive(Debug, clap::Args)]
pub struct ForwardArgs {
    /// Listen here; without it, on the sockets that systemd hands over
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,

    /// The way out: direct, tor, tor://, socks5h://HOST:PORT, socks4a://, http(s)://, unix:PATH, @FILE;
    /// repeated: a chain, the first is dialled first
    #[arg(long, value_name = "SPEC", required = true)]
    pub via: Vec<String>,

    /// What shares Tor's circuits: launch (this process, the default), profile, or destination
    #[arg(long, value_enum, value_name = "WHAT", hide_possible_values = true)]
    pub isolate: Option<Isolate>,

    /// With --isolate profile: forwarders that find the same text in FILE share circuits; without it, as launch
    #[arg(long, value_name = "FILE", hide = true, requires = "isolate")]
    pub isolate_key: Option<PathBuf>,

    /// How names are answered by DNS: synthetic, host, tcp://IP[:PORT] or off
    #[arg(long, value_name = "HOW")]
    pub dns: Option<Dns>,

    /// Answer DNS here, by UDP and TCP; by hand off without it
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "peer_cgroup")]
    pub dns_listen: Option<SocketAddr>,

    /// Let through nothing but this: HOST, *.DOMAIN, HOST:PORT, HOST:FROM-TO, a network, localhost …
    #[arg(long, value_name = "DESTINATION")]
    pub only: Vec<Pattern>,

    /// Do not let this through, whatever --only says
    #[arg(long, value_name = "DESTINATION")]
    pub block: Vec<Pattern>,

    /// Open an inside destination; what is on this host's loopback is reached from here, whatever --via says
    #[arg(long, value_name = "DESTINATION")]
    pub allow_destination: Vec<Pattern>,

    /// A bound: connections, associations (UDP), names (in DNS), head (bytes), or one in seconds:
    /// handshake, connect, answer, way, keep-alive, idle, udp-idle
    #[arg(long, value_name = "NAME=VALUE")]
    pub limit: Vec<Bound>,

    /// Whether the log says where the app went: yes (default) or no
    #[arg(long, value_enum, value_name = "yes|no", hide_possible_values = true)]
    pub log_destinations: Option<LogDestinations>,

    /// Serve only processes of this cgroup directory and those below it
    #[arg(long, value_name = "PATH", hide = true)]
    pub peer_cgroup: Option<PathBuf>,

    /// Take the sockets from the launcher: by --report, or it is at standard input, hears what happens there,
    /// and is ended with
    #[arg(long, hide = true, conflicts_with_all = ["listen", "dns_listen"])]
    pub handed: bool,

    /// Tell the launcher what happens by this Unix socket, a line of JSON an event
    #[arg(long, value_name = "PATH", hide = true)]
    pub report: Option<PathBuf>,
}

impl ForwardArgs {
    /// How DNS is answered: as is said, else as suits the way `via` where there is a place for it.
    ///
    /// # Errors
    /// The way out does not take it.
    pub fn dns(&self, via: &Via) -> Result<Dns> {
        let has_rules = !(self.only.is_empty() && self.block.is_empty());
        let default = if self.dns_listen.is_some() { Dns::default_for(via, has_rules) } else { Dns::Off };
        let dns = self.dns.unwrap_or(default);
        dns.check(via, has_rules)?;
        Ok(dns)
    }
}
