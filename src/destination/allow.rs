//! `--allow-destination`: the only thing that opens an inside destination.

use std::fmt;
use std::net::Ipv6Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use anyhow::{Result, bail};
use ipnet::IpNet;

use super::{Destination, Host, parse_port, printable};
use crate::network;

/// One value of `--allow-destination`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowDestination {
    hosts: Hosts,
    ports: RangeInclusive<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    Name(String),
    /// `*.x`: every name below x at any depth, not x.
    Below(String),
    Net(IpNet),
    /// A word that systemd's IPAddressAllow= knows too, with the same networks.
    Keyword(&'static str, Vec<IpNet>),
}

impl AllowDestination {
    /// Whether this value opens `destination`.
    pub fn matches(&self, destination: &Destination) -> bool {
        self.ports.contains(&destination.port) && self.covers(&destination.host)
    }

    /// Whether this value opens `host` at some port: a question about a host has none.
    pub fn covers(&self, host: &Host) -> bool {
        match (&self.hosts, host) {
            (Hosts::Name(allowed), Host::Name(name)) => allowed == name,
            (Hosts::Below(parent), Host::Name(name)) => {
                name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Hosts::Keyword("any", _), _) => true,
            (Hosts::Keyword("localhost", _), Host::Name(name)) => name == "localhost" || name.ends_with(".localhost"),
            // `::ffff:a.b.c.d` is a.b.c.d to every kernel; other wrappings need their own rule.
            (Hosts::Net(net), Host::Ip(address)) => net.contains(&address.to_canonical()),
            (Hosts::Keyword(_, networks), Host::Ip(address)) => network::covers(networks, address.to_canonical()),
            _ => false,
        }
    }
}

impl FromStr for AllowDestination {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let Some((hosts, ports)) = parse(text) else {
            bail!(
                "`{}` is not a destination: use HOST, HOST:PORT, HOST:FROM-TO, [IPV6]:PORT, \
                 a network such as 10.0.0.0/8, *.DOMAIN, or one of any, localhost, link-local, multicast",
                printable(text)
            );
        };
        if ports.is_empty() {
            bail!("`{}` has its ports the wrong way round", printable(text));
        }
        Ok(Self { hosts, ports })
    }
}

fn parse(text: &str) -> Option<(Hosts, RangeInclusive<u16>)> {
    // Without brackets more than one colon is an IPv6 address or network, and no port.
    let (host, ports) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, ports) = rest.split_once(']')?;
            host.split('/').next()?.parse::<Ipv6Addr>().ok()?;
            (host, if ports.is_empty() { None } else { Some(ports.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, ports)) if !ports.contains(':') => (host, Some(ports)),
            _ => (text, None),
        },
    };
    Some((parse_hosts(host)?, ports.map_or(Some(1..=u16::MAX), parse_ports)?))
}

fn parse_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    Some(parse_port(from).ok()?..=parse_port(to).ok()?)
}

fn parse_hosts(text: &str) -> Option<Hosts> {
    if let Some((word, networks)) = network::keyword(text) {
        return Some(Hosts::Keyword(word, networks));
    }
    if let Some(parent) = text.strip_prefix("*.") {
        return match parent.parse().ok()? {
            Host::Name(name) => Some(Hosts::Below(name)),
            Host::Ip(_) => None,
        };
    }
    if text.contains('/') {
        return Some(Hosts::Net(text.parse::<IpNet>().ok()?.trunc()));
    }
    Some(match text.parse().ok()? {
        Host::Name(name) => Hosts::Name(name),
        Host::Ip(address) => Hosts::Net(address.to_canonical().into()),
    })
}

impl fmt::Display for AllowDestination {
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
