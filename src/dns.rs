//! What `--dns` says: who answers the app's DNS queries, and with what. Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::destination::printable;
use crate::via::Via;

/// The port of DNS.
pub const PORT: u16 = 53;

/// The forwarder's DNS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dns {
    /// Every name gets an address that stands for it; the forwarder turns it into the name again.
    Synthetic,
    /// Addresses by this host's resolver.
    Host,
    /// No answers.
    Off,
    /// Every query goes on to this resolver, by TCP through the way out.
    Tcp(SocketAddr),
}

impl Dns {
    /// Who answers where nothing is said. `has_rules`: whether names are let through by rules, which
    /// must then be known when a connection comes.
    #[must_use]
    pub fn default_for(via: &Via, has_rules: bool) -> Self {
        match via {
            Via::Direct if !has_rules => Self::Host,
            Via::None => Self::Off,
            Via::Direct | Via::Chain(_) => Self::Synthetic,
        }
    }

    /// Refuses what this way out and these rules cannot take.
    ///
    /// # Errors
    /// The host's resolver would answer past the way out, or past the rules.
    pub fn check(self, via: &Via, has_rules: bool) -> Result<()> {
        if self != Self::Host || *via == Via::None {
            return Ok(());
        }
        if *via != Via::Direct {
            bail!(
                "--dns host asks this host's resolver for every name, past {via}; use --dns synthetic or --dns tcp://IP"
            );
        }
        if has_rules {
            bail!(
                "--dns host gives programs addresses, by which --only and --block can't tell names; use --dns synthetic"
            );
        }
        Ok(())
    }
}

impl FromStr for Dns {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "synthetic" => return Ok(Self::Synthetic),
            "host" => return Ok(Self::Host),
            "off" => return Ok(Self::Off),
            _ => {}
        }
        match text.strip_prefix("tcp://").map(parse_resolver) {
            Some(Some(resolver)) => Ok(Self::Tcp(resolver)),
            Some(None) => {
                bail!("--dns {}: takes the resolver's address, such as tcp://9.9.9.9 or tcp://[2620:fe::fe]:53", {
                    printable(text)
                })
            }
            None => bail!("--dns {}: takes synthetic, host, off or tcp://IP[:PORT]", printable(text)),
        }
    }
}

fn parse_resolver(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = bare.unwrap_or(text).parse::<IpAddr>().map(|ip| SocketAddr::new(ip, PORT));
    address.or_else(|_| text.parse()).ok().filter(|resolver| resolver.port() != 0)
}

impl fmt::Display for Dns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Synthetic => f.write_str("synthetic"),
            Self::Host => f.write_str("host"),
            Self::Off => f.write_str("off"),
            Self::Tcp(resolver) => write!(f, "tcp://{resolver}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(spec: &str) -> Via {
        Via::parse(&[spec.to_owned()]).unwrap()
    }

    #[test]
    fn values_read_back_as_they_are_shown() {
        for (text, shown) in [
            ("synthetic", "synthetic"),
            ("host", "host"),
            ("off", "off"),
            ("tcp://9.9.9.9", "tcp://9.9.9.9:53"),
            ("tcp://9.9.9.9:5353", "tcp://9.9.9.9:5353"),
            ("tcp://2620:fe::fe", "tcp://[2620:fe::fe]:53"),
            ("tcp://[2620:fe::fe]", "tcp://[2620:fe::fe]:53"),
            ("tcp://[2620:fe::fe]:5353", "tcp://[2620:fe::fe]:5353"),
        ] {
            let dns: Dns = text.parse().unwrap();
            assert_eq!(dns.to_string(), shown);
            assert_eq!(dns.to_string().parse::<Dns>().unwrap(), dns);
        }
    }

    #[test]
    fn what_is_no_value_is_told_what_is() {
        for (text, phrase) in [
            ("", "takes synthetic, host, off or tcp://IP[:PORT]"),
            ("Host", "takes synthetic"),
            ("udp://9.9.9.9", "takes synthetic"),
            ("9.9.9.9", "takes synthetic"),
            ("tcp://", "takes the resolver's address"),
            ("tcp://dns.example", "takes the resolver's address"),
            ("tcp://9.9.9.9:0", "takes the resolver's address"),
            ("tcp://9.9.9.9:domain", "takes the resolver's address"),
            ("tcp://[9.9.9.9", "takes the resolver's address"),
        ] {
            let message = text.parse::<Dns>().unwrap_err().to_string();
            assert!(message.contains(phrase), "{text}: {message}");
        }
    }

    #[test]
    fn the_hosts_resolver_is_for_direct_without_rules_alone() {
        for (spec, has_rules, default, host) in [
            ("direct", false, Dns::Host, true),
            ("direct", true, Dns::Synthetic, false),
            ("tor://127.0.0.1:9050", false, Dns::Synthetic, false),
            ("socks5h://192.0.2.1:1080", true, Dns::Synthetic, false),
            ("none", false, Dns::Off, true),
        ] {
            let via = via(spec);
            assert_eq!(Dns::default_for(&via, has_rules), default, "{spec} {has_rules}");
            assert_eq!(Dns::Host.check(&via, has_rules).is_ok(), host, "{spec} {has_rules}");
            assert!(default.check(&via, has_rules).is_ok(), "{spec} {has_rules}");
        }
    }
}
