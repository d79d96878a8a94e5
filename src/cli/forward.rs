//! `appfw forward`: the forwarder, started by its unit or by hand.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::destination::Pattern;

/// A proxy for SOCKS5 and HTTP on one port.
#[derive(Debug, clap::Args)]
pub struct ForwardArgs {
    /// Listen here; without it, on the sockets that systemd hands over
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,

    /// The way out: direct, tor, tor://HOST:PORT, socks5h://HOST:PORT, http://HOST:PORT, @FILE
    #[arg(long, value_name = "SPEC", required = true)]
    pub via: Vec<String>,

    /// Let through nothing but this: HOST, *.DOMAIN, HOST:PORT, HOST:FROM-TO, a network, localhost …
    #[arg(long, value_name = "DESTINATION")]
    pub only: Vec<Pattern>,

    /// Do not let this through, whatever --only says
    #[arg(long, value_name = "DESTINATION")]
    pub block: Vec<Pattern>,

    /// Open an inside destination
    #[arg(long, value_name = "DESTINATION")]
    pub allow_destination: Vec<Pattern>,

    /// Serve only processes of this cgroup directory and those below it
    #[arg(long, value_name = "PATH", hide = true)]
    pub peer_cgroup: Option<PathBuf>,

    /// Tell the launcher what happens by this Unix socket, a line of JSON an event
    #[arg(long, value_name = "PATH", hide = true)]
    pub report: Option<PathBuf>,
}
