//! What `--only`, `--block` and `--allow-destination` take: names, addresses and networks, with ports.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use anyhow::{Result, anyhow, bail};
use ipnet::{IpNet, Ipv4Net};

use super::inside::embedded_v4;
use super::{Destination, Host, nearest, parse_port, printable};
use crate::network;

const ALL_PORTS: RangeInclusive<u16> = 1..=u16::MAX;

/// One value of `--only`, `--block` or `--allow-destination`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    hosts: Hosts,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Hosts {
    Name(String),
    /// `*.x`: every name below x at any depth, not x.
    Below(String),
    Net(IpNet),
    /// A word that systemd's IPAddressAllow= knows too, with the same networks.
    Keyword(&'static str, Vec<IpNet>),
}

impl Pattern {
    /// Parses the values of one option; `option` is its name, for the message.
    ///
    /// # Errors
    /// One of them is no pattern: the message names the nearest one.
    pub fn parse_list(option: &str, words: &[String]) -> Result<Vec<Self>> {
        words.iter().map(|word| word.parse().map_err(|error| anyhow!("{option} {error}"))).collect()
    }

    /// Whether this is `destination`, or in a question about a host whether it is so at some port.
    #[must_use]
    pub fn matches(&self, destination: &Destination) -> bool {
        self.has_port(destination.port) && self.covers(&destination.host)
    }

    fn covers(&self, host: &Host) -> bool {
        match (&self.hosts, host) {
            (Hosts::Name(this), Host::Name(name)) => this == name,
            (Hosts::Below(parent), Host::Name(name)) => {
                name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Hosts::Keyword("any", _), _) => true,
            (Hosts::Keyword("localhost", _), Host::Name(_)) => host.is_loopback(),
            // `::ffff:a.b.c.d` is a.b.c.d to every kernel; other wrappings need their own rule.
            (Hosts::Net(net), Host::Ip(address)) => net.contains(&address.to_canonical()),
            (Hosts::Keyword(_, networks), Host::Ip(address)) => network::covers(networks, address.to_canonical()),
            _ => false,
        }
    }

    /// Whether a rule that closes this closes `destination`, in a question about a host at every port.
    ///
    /// An address is looked at in every wrapping: a gateway may unwrap what `covers` takes as it is.
    pub(super) fn keeps_out(&self, destination: &Destination) -> bool {
        let Destination { host, port } = destination;
        let is_at_port = if *port == 0 { self.ports == ALL_PORTS } else { self.ports.contains(port) };
        let is_wrapped = |address: &IpAddr| match (address, self.networks()) {
            (IpAddr::V6(wrapping), Some(networks)) => {
                network::covers(networks, *address)
                    || embedded_v4(*wrapping).any(|inner| network::covers(networks, inner.into()))
            }
            _ => false,
        };
        is_at_port && (self.covers(host) || matches!(host, Host::Ip(address) if is_wrapped(address)))
    }

    /// Whether this is about addresses, so that a name is judged by what it resolves to.
    pub(super) fn is_of_addresses(&self) -> bool {
        matches!(self.hosts, Hosts::Net(_) | Hosts::Keyword(..))
    }

    /// Whether `port` is one of this pattern's; 0 stands for some port.
    pub(super) fn has_port(&self, port: u16) -> bool {
        port == 0 || self.ports.contains(&port)
    }

    /// Whether this is an address or a network that was written out.
    pub(super) fn is_network(&self) -> bool {
        matches!(self.hosts, Hosts::Net(_))
    }

    /// The loopback address and port that this is, if it is one of each.
    #[must_use]
    pub fn loopback_socket(&self) -> Option<SocketAddr> {
        let Hosts::Net(net) = &self.hosts else { return None };
        let is_one = net.prefix_len() == net.max_prefix_len() && self.ports.start() == self.ports.end();
        (is_one && net.addr().is_loopback()).then(|| SocketAddr::new(net.addr(), *self.ports.start()))
    }

    /// The loopback addresses that this is, or leads to by a name that leads nowhere else.
    #[must_use]
    pub fn loopback(&self) -> Vec<IpNet> {
        let loopback = network::loopback();
        match &self.hosts {
            Hosts::Name(name) | Hosts::Below(name) if Host::Name(name.clone()).is_loopback() => loopback,
            Hosts::Name(_) | Hosts::Below(_) => Vec::new(),
            Hosts::Net(_) | Hosts::Keyword(..) => network::intersection(&loopback, self.networks().unwrap_or_default()),
        }
    }

    fn networks(&self) -> Option<&[IpNet]> {
        match &self.hosts {
            Hosts::Net(net) => Some(std::slice::from_ref(net)),
            Hosts::Keyword(_, networks) => Some(networks),
            Hosts::Name(_) | Hosts::Below(_) => None,
        }
    }
}

impl FromStr for Pattern {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(pattern) = parse(text) {
            return Ok(pattern);
        }
        match nearest::pattern(text) {
            Some(near) => bail!("`{}` is not a destination: did you mean {near}?", printable(text)),
            None => bail!(
                "`{}` is not a destination: use HOST, HOST:PORT, HOST:FROM-TO, [IPV6]:PORT, \
                 a network such as 10.0.0.0/8, *.DOMAIN, or one of any, localhost, link-local, multicast",
                printable(text)
            ),
        }
    }
}

/// The pattern that `text` is.
pub(super) fn parse(text: &str) -> Option<Pattern> {
    let (host, ports) = split(text)?;
    Some(Pattern { hosts: parse_hosts(host)?, ports: ports.map_or(Some(ALL_PORTS), parse_ports)? })
}

/// The host and the ports of a pattern, as they are written.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    // Without brackets more than one colon is an IPv6 address or network, and no port.
    match text.strip_prefix('[') {
        Some(rest) => {
            let (host, ports) = rest.split_once(']')?;
            host.split('/').next()?.parse::<Ipv6Addr>().ok()?;
            Some((host, if ports.is_empty() { None } else { Some(ports.strip_prefix(':')?) }))
        }
        None => match text.split_once(':') {
            Some((host, ports)) if !ports.contains(':') => Some((host, Some(ports))),
            _ => Some((text, None)),
        },
    }
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    let ports = parse_port(from).ok()?..=parse_port(to).ok()?;
    (!ports.is_empty()).then_some(ports)
}

fn parse_hosts(text: &str) -> Option<Hosts> {
    if let Some(parent) = text.strip_prefix("*.") {
        return match parent.parse().ok()? {
            Host::Name(name) => Some(Hosts::Below(name)),
            Host::Ip(_) => None,
        };
    }
    if text.contains('/') {
        // Host bits may be a slip of the address or of the prefix.
        let net = text.parse::<IpNet>().ok()?;
        return (net == net.trunc()).then(|| Hosts::Net(canonical(net)));
    }
    match text.parse().ok()? {
        // Here, where case and a last dot are gone: `ANY` must never be a host of that name.
        Host::Name(name) => Some(match network::keyword(&name) {
            Some((word, networks)) => Hosts::Keyword(word, networks),
            None => Hosts::Name(name),
        }),
        // An app may write 10.1 for 10.0.0.1; in a rule 10.1.0.0/16 may have been meant.
        Host::Ip(IpAddr::V4(address)) if address.to_string() != text.trim_end_matches('.') => None,
        Host::Ip(address) => Some(Hosts::Net(address.to_canonical().into())),
    }
}

/// A network of v4-mapped addresses as the IPv4 network that it is.
fn canonical(net: IpNet) -> IpNet {
    let mapped = net.addr().to_canonical();
    match (mapped, net.prefix_len().checked_sub(96)) {
        (IpAddr::V4(address), Some(prefix)) if net.addr().is_ipv6() => {
            Ipv4Net::new(address, prefix).map_or(net, IpNet::V4)
        }
        _ => net,
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match &self.hosts {
            Hosts::Name(name) => name.clone(),
            Hosts::Below(parent) => format!("*.{parent}"),
            Hosts::Net(net) if net.prefix_len() == net.max_prefix_len() => Host::Ip(net.addr()).to_string(),
            Hosts::Net(IpNet::V4(net)) => net.to_string(),
            Hosts::Net(IpNet::V6(net)) => format!("[{net}]"),
            Hosts::Keyword(word, _) => (*word).to_owned(),
        };
        f.write_str(&host)?;
        match (*self.ports.start(), *self.ports.end()) {
            (1, u16::MAX) => Ok(()),
            (from, to) if from == to => write!(f, ":{from}"),
            (from, to) => write!(f, ":{from}-{to}"),
        }
    }
}
