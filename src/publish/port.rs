//! `--publish`: which port of the host leads to which one of the app's. Pure.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use anyhow::{Result, bail};

use crate::cli::WallKind;

/// As many as are handed over in one message, with the namespaces and to spare (`control::MAX_DESCRIPTORS`).
const MOST: usize = 64;

/// A port of the host that leads to one of the app's namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Published {
    /// Where the host's clients connect.
    pub outer: SocketAddr,
    /// The app's port, on its own loopback.
    pub inner: u16,
}

impl Published {
    /// Those of the command line, in this wall.
    ///
    /// # Errors
    /// One is malformed or stands twice; the wall has no port that could be published.
    pub fn parse_list(words: &[String], wall: WallKind) -> Result<Vec<Self>> {
        match (words.first(), wall) {
            (None, _) => return Ok(Vec::new()),
            (Some(_), WallKind::Namespace) => {}
            (Some(word), WallKind::Strict) => bail!(
                "--publish {word} needs --wall namespace: in the strict wall the program's own loopback is closed, so that nobody can connect to it"
            ),
            (Some(word), WallKind::Address) => bail!(
                "--publish {word} needs --wall namespace: in the address wall the program listens on this host itself, with nothing to publish"
            ),
        }
        if words.len() > MOST {
            bail!("--publish: {MOST} ports can be published at most, and these are {}", words.len());
        }
        let list = words.iter().map(|word| word.parse()).collect::<Result<Vec<Self>>>()?;
        let earlier = |place: usize, one: &Self| list[..place].iter().find(|other| collide(other.outer, one.outer));
        let twice = list.iter().enumerate().find_map(|(place, one)| Some((one, earlier(place, one)?)));
        match twice {
            Some((one, other)) => {
                bail!("--publish {one}: {} is published already; choose another port", other.outer)
            }
            None => Ok(list),
        }
    }

    /// The places where the app may listen to be found, in the order in which they are tried.
    #[must_use]
    pub fn inside(self) -> [SocketAddr; 2] {
        [(Ipv4Addr::LOCALHOST, self.inner).into(), (std::net::Ipv6Addr::LOCALHOST, self.inner).into()]
    }
}

/// Whether one of these has the other's address: `0.0.0.0` has all of IPv4, and `[::]` all of IPv6.
#[must_use]
pub fn collide(one: SocketAddr, other: SocketAddr) -> bool {
    let is_all = one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.is_ipv4() == other.is_ipv4() && (is_all || one.ip() == other.ip())
}

/// In full: `127.0.0.1:8080=80`.
impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.outer, self.inner)
    }
}

impl FromStr for Published {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (outer, inner) = text.split_once('=').map_or((text, None), |(outer, inner)| (outer, Some(inner)));
        // Who publishes to others than this host says so, by an address.
        let outer = match port(outer) {
            Some(port) => Some((Ipv4Addr::LOCALHOST, port).into()),
            None => outer.parse::<SocketAddr>().ok().filter(|outer| outer.port() != 0),
        };
        let inner = inner.map_or_else(|| outer.map(|outer| outer.port()), port);
        match (outer, inner) {
            (Some(outer), _) if outer.ip().is_multicast() => {
                bail!("--publish {text}: nobody listens at a group's address")
            }
            (Some(outer), Some(inner)) => Ok(Self { outer, inner }),
            _ => bail!(
                "--publish {text}: takes [ADDRESS:]PORT[=INNER], ports from 1 to 65535, {}",
                match meant(text) {
                    Some(meant) => format!("so write --publish {meant}"),
                    None => "such as 8080, 8080=80, 0.0.0.0:8080=80 or [::]:8080=80".to_owned(),
                }
            ),
        }
    }
}

fn port(text: &str) -> Option<u16> {
    // u16::from_str takes a sign.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten().filter(|port| *port != 0)
}

/// What somebody who writes so is used to from elsewhere.
fn meant(text: &str) -> Option<String> {
    let (outer, inner) =
        text.split_once('=').map_or((text, String::new()), |(outer, inner)| (outer, format!("={inner}")));
    let (host, last) = outer.rsplit_once(':')?;
    let last = port(last)?;
    let candidate = if let Some(first) = port(host) {
        // docker run --publish
        format!("{first}={last}")
    } else if let Some((address, first)) =
        host.rsplit_once(':').filter(|(address, _)| address.parse::<Ipv4Addr>().is_ok())
    {
        format!("{address}:{first}={last}")
    } else if let Ok(address) = host.parse::<IpAddr>() {
        // A v6 address without its brackets.
        format!("[{address}]:{last}{inner}")
    } else if host == "localhost" {
        format!("127.0.0.1:{last}{inner}")
    } else if host.is_empty() || host == "*" {
        format!("0.0.0.0:{last}{inner}")
    } else {
        return None;
    };
    candidate.parse::<Published>().is_ok().then_some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_connects_unless_an_address_is_given() {
        for (text, full) in [
            ("8080", "127.0.0.1:8080=8080"),
            ("8080=80", "127.0.0.1:8080=80"),
            ("0.0.0.0:8080=80", "0.0.0.0:8080=80"),
            ("203.0.113.2:8080", "203.0.113.2:8080=8080"),
            ("[::]:65535=1", "[::]:65535=1"),
            ("[::1]:80", "[::1]:80=80"),
        ] {
            let published: Published = text.parse().unwrap();
            assert_eq!(published.to_string(), full);
            assert_eq!(full.parse::<Published>().unwrap(), published);
        }
    }

    #[test]
    fn a_port_is_published_at_an_address_once() {
        let list = |words: [&str; 2]| Published::parse_list(&words.map(str::to_owned), WallKind::Namespace);
        for words in
            [["80", "80=81"], ["0.0.0.0:80", "80"], ["203.0.113.2:80", "0.0.0.0:80=1"], ["[::1]:80", "[::]:80"]]
        {
            let message = list(words).expect_err(words[1]).to_string();
            assert!(message.contains("is published already; choose another port"), "{message}");
        }
        for words in [["80", "81"], ["0.0.0.0:80", "[::]:80"], ["80", "203.0.113.2:80"], ["80=1", "81=1"]] {
            assert_eq!(list(words).unwrap().len(), 2, "{words:?}");
        }
    }

    #[test]
    fn what_is_malformed_is_told_with_the_right_form() {
        const FORM: &str = "such as 8080, 8080=80, 0.0.0.0:8080=80 or [::]:8080=80";
        for (text, told) in [
            ("", FORM),
            ("0", FORM),
            ("+80", FORM),
            ("80=", FORM),
            ("80=0", FORM),
            ("=80", FORM),
            ("65536", FORM),
            ("80/tcp", FORM),
            ("web.test:80", FORM),
            ("203.0.113.2", FORM),
            ("8080:80", "so write --publish 8080=80"),
            ("127.0.0.1:8080:80", "so write --publish 127.0.0.1:8080=80"),
            ("::1:8080=80", "so write --publish [::1]:8080=80"),
            ("localhost:8080", "so write --publish 127.0.0.1:8080"),
            (":8080=80", "so write --publish 0.0.0.0:8080=80"),
            ("*:80", "so write --publish 0.0.0.0:80"),
            ("224.0.0.1:80", "nobody listens at a group's address"),
        ] {
            let message = text.parse::<Published>().expect_err(text).to_string();
            assert!(message.starts_with(&format!("--publish {text}: ")) && message.ends_with(told), "{message}");
        }
    }
}
