//! `--allow-destination`: the only thing that opens an inside destination.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::str::FromStr;

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::{Destination, Host, parse_port, printable};

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
    Keyword(Keyword),
}

/// The words that systemd's IPAddressAllow= knows too, with the same networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keyword {
    Any,
    Localhost,
    LinkLocal,
    Multicast,
}

impl Keyword {
    const ALL: [(&str, Keyword); 4] = [
        ("any", Keyword::Any),
        ("localhost", Keyword::Localhost),
        ("link-local", Keyword::LinkLocal),
        ("multicast", Keyword::Multicast),
    ];

    fn networks(self) -> (Ipv4Net, Ipv6Net) {
        let (v4, v4_len, v6, v6_len) = match self {
            Keyword::Any => ([0, 0, 0, 0], 0, 0, 0),
            Keyword::Localhost => ([127, 0, 0, 0], 8, 1, 128),
            Keyword::LinkLocal => ([169, 254, 0, 0], 16, 0xfe80 << 112, 64),
            Keyword::Multicast => ([224, 0, 0, 0], 4, 0xff00 << 112, 8),
        };
        (Ipv4Net::new_assert(Ipv4Addr::from(v4), v4_len), Ipv6Net::new_assert(Ipv6Addr::from_bits(v6), v6_len))
    }
}

impl AllowDestination {
    /// Whether this value opens `destination`.
    pub fn matches(&self, destination: &Destination) -> bool {
        if !self.ports.contains(&destination.port) {
            return false;
        }
        match (&self.hosts, &destination.host) {
            (Hosts::Name(allowed), Host::Name(name)) => allowed == name,
            (Hosts::Below(parent), Host::Name(name)) => {
                name.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Hosts::Keyword(Keyword::Any), _) => true,
            (Hosts::Keyword(Keyword::Localhost), Host::Name(name)) => {
                name == "localhost" || name.ends_with(".localhost")
            }
            // `::ffff:a.b.c.d` is a.b.c.d to every kernel; other wrappings need their own rule.
            (Hosts::Net(net), Host::Ip(address)) => net.contains(&address.to_canonical()),
            (Hosts::Keyword(keyword), Host::Ip(address)) => {
                let (v4, v6) = keyword.networks();
                match address.to_canonical() {
                    IpAddr::V4(address) => v4.contains(&address),
                    IpAddr::V6(address) => v6.contains(&address),
                }
            }
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
    if let Some((_, keyword)) = Keyword::ALL.iter().find(|(word, _)| *word == text) {
        return Some(Hosts::Keyword(*keyword));
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
            Hosts::Keyword(keyword) => Keyword::ALL
                .iter()
                .find_map(|(word, other)| (keyword == other).then_some(*word))
                .unwrap_or_default()
                .to_owned(),
        };
        f.write_str(&host)?;
        match (*self.ports.start(), *self.ports.end()) {
            (1, u16::MAX) => Ok(()),
            (from, to) if from == to => write!(f, ":{from}"),
            (from, to) => write!(f, ":{from}-{to}"),
        }
    }
}
