//! Which destinations the forwarder goes to: never inside, unless `--allow-destination` says so.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::destination::{AllowDestination, Destination, Host, inside_address, inside_name};

use super::failure::Failure;

/// The rule on inside destinations.
pub struct Admission {
    allowed: Vec<AllowDestination>,
    own_names: Vec<String>,
    own_addresses: fn() -> io::Result<Vec<IpAddr>>,
}

impl Admission {
    /// The rule on this host, whose files are below `root`.
    pub fn new(allowed: Vec<AllowDestination>, root: &Path) -> Self {
        let hosts = std::fs::read_to_string(root.join("etc/hosts")).unwrap_or_default();
        let own_names = names_of(&rustix::system::uname().nodename().to_string_lossy(), &hosts);
        Self { allowed, own_names, own_addresses }
    }

    /// Judges what the app asked for.
    pub fn check(&self, destination: &Destination) -> Result<(), Failure> {
        if self.is_allowed(destination) {
            return Ok(());
        }
        self.inside(&destination.host)?.map_or(Ok(()), |why| Err(refusal(destination, why)))
    }

    /// Judges a host that is asked for by DNS, where the port is not known yet.
    pub fn check_host(&self, host: &Host) -> Result<(), Failure> {
        if self.allowed.iter().any(|allowed| allowed.covers(host)) {
            return Ok(());
        }
        self.inside(host)?.map_or(Ok(()), |why| Err(refusal(host, why)))
    }

    /// What makes `host` an inside one.
    fn inside(&self, host: &Host) -> Result<Option<&'static str>, Failure> {
        Ok(match host {
            Host::Name(name) => inside_name(name, &self.own_names).then_some("a name of this host"),
            Host::Ip(address) => inside_address(*address, &self.own_addresses()?),
        })
    }

    /// Judges what `destination` resolved to: the addresses that may be dialled.
    pub fn dialable(&self, destination: &Destination, resolved: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Failure> {
        if self.is_allowed(destination) {
            return Ok(resolved);
        }
        let own = self.own_addresses()?;
        let mut reason = None;
        let is_open = |address: &SocketAddr| {
            let Some(why) = inside_address(address.ip(), &own) else { return true };
            reason = Some(why);
            self.is_allowed(&Destination { host: Host::Ip(address.ip()), port: address.port() })
        };
        let dialable: Vec<_> = resolved.into_iter().filter(is_open).collect();
        match reason {
            Some(why) if dialable.is_empty() => Err(refusal(destination, why)),
            _ => Ok(dialable),
        }
    }

    /// Judges what `host` resolved to by DNS: the addresses that the app may know.
    pub fn answerable(&self, host: &Host, resolved: Vec<IpAddr>) -> Result<Vec<IpAddr>, Failure> {
        let covers = |host: &Host| self.allowed.iter().any(|allowed| allowed.covers(host));
        if covers(host) {
            return Ok(resolved);
        }
        let own = self.own_addresses()?;
        let mut reason = None;
        let is_open = |address: &IpAddr| {
            reason = reason.or(inside_address(*address, &own));
            inside_address(*address, &own).is_none() || covers(&Host::Ip(*address))
        };
        let answerable: Vec<_> = resolved.into_iter().filter(is_open).collect();
        match reason {
            Some(why) if answerable.is_empty() => Err(refusal(host, why)),
            _ => Ok(answerable),
        }
    }

    fn is_allowed(&self, destination: &Destination) -> bool {
        self.allowed.iter().any(|allowed| allowed.matches(destination))
    }

    /// Read anew for each request: addresses come and go with every DHCP lease.
    fn own_addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        (self.own_addresses)().map_err(|error| {
            // Without the list nothing can be judged, so nothing is let through.
            Failure::refused(format!("the host's own addresses cannot be read (is AF_NETLINK allowed?): {error}"))
        })
    }
}

fn refusal(destination: &impl fmt::Display, why: &str) -> Failure {
    Failure::refused(format!("{destination} is inside ({why}): --allow-destination {destination} opens it"))
}

fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address?;
        let v4 = storage.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(address).collect())
}

/// The host's name and what else /etc/hosts calls it on the same line: there its full name stands.
fn names_of(node: &str, hosts: &str) -> Vec<String> {
    let words = |line: &str| -> Vec<String> {
        let text = line.split('#').next().unwrap_or_default();
        text.split_whitespace().skip(1).map(str::to_ascii_lowercase).collect()
    };
    let node = node.to_ascii_lowercase();
    let of_node = hosts.lines().map(words).filter(|names| names.contains(&node)).flatten();
    std::iter::once(node.clone()).chain(of_node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(allowed: &[&str]) -> Admission {
        Admission {
            allowed: allowed.iter().map(|text| text.parse().unwrap()).collect(),
            own_names: vec!["box".into()],
            own_addresses: || Ok(vec!["203.0.113.9".parse().unwrap()]),
        }
    }

    fn to(text: &str) -> Destination {
        Destination::parse(text, None).unwrap()
    }

    #[test]
    fn only_allow_destination_opens() {
        let closed = admission(&[]);
        for inside in ["127.0.0.1:80", "box:80", "203.0.113.9:80", "[::ffff:203.0.113.9]:80"] {
            let failure = closed.check(&to(inside)).unwrap_err();
            assert_eq!(failure.status, 403);
            assert!(failure.message.contains(&format!("--allow-destination {}", to(inside))), "{failure}");
        }
        assert!(closed.check(&to("example.org:80")).is_ok());
        assert!(admission(&["127.0.0.1:80"]).check(&to("127.0.0.1:80")).is_ok());
        assert!(admission(&["127.0.0.1:80"]).check(&to("127.0.0.1:81")).is_err());
    }

    #[test]
    fn a_name_asked_for_by_dns_is_judged_without_a_port() {
        let host = |text: &str| text.parse::<Host>().unwrap();
        let closed = admission(&[]);
        for inside in ["localhost", "box", "box.local", "127.0.0.1", "203.0.113.9", "10.0.0.0"] {
            let failure = closed.check_host(&host(inside)).unwrap_err();
            assert!(failure.message.contains(&format!("--allow-destination {inside} opens it")), "{failure}");
        }
        assert!(closed.check_host(&host("example.org")).is_ok());
        // The port that is open may be the one that will be asked for.
        assert!(admission(&["box:80"]).check_host(&host("box")).is_ok());
        assert!(admission(&["box:80"]).check_host(&host("localhost")).is_err());
    }

    #[test]
    fn what_a_name_resolves_to_is_judged_too() {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let name = to("rebind.example:80");
        let mixed = addresses(&["127.0.0.1:80", "192.0.2.1:80", "[::1]:80", "203.0.113.9:80"]);

        let closed = admission(&[]);
        assert_eq!(closed.dialable(&name, mixed.clone()).unwrap(), addresses(&["192.0.2.1:80"]));
        assert!(closed.dialable(&name, addresses(&["10.0.0.1:80"])).unwrap_err().message.contains("private"));
        assert!(closed.dialable(&name, vec![]).unwrap().is_empty());

        assert_eq!(admission(&["rebind.example"]).dialable(&name, mixed.clone()).unwrap(), mixed);
        assert_eq!(admission(&["[::1]:80"]).dialable(&name, mixed).unwrap(), addresses(&["192.0.2.1:80", "[::1]:80"]));
    }

    #[test]
    fn what_the_app_is_told_of_a_name_is_judged_too() {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        let (name, mixed) =
            (Host::Name("rebind.example".into()), addresses(&["127.0.0.1", "192.0.2.1", "203.0.113.9"]));
        let closed = admission(&[]);
        assert_eq!(closed.answerable(&name, mixed.clone()).unwrap(), addresses(&["192.0.2.1"]));
        assert!(closed.answerable(&name, addresses(&["10.0.0.1"])).unwrap_err().message.contains("private"));
        assert!(closed.answerable(&name, vec![]).unwrap().is_empty());
        assert_eq!(admission(&["rebind.example:80"]).answerable(&name, mixed.clone()).unwrap(), mixed);
        let opened = admission(&["127.0.0.1:80"]).answerable(&name, mixed).unwrap();
        assert_eq!(opened, addresses(&["127.0.0.1", "192.0.2.1"]));
    }

    #[test]
    fn a_question_is_open_where_some_connection_is() {
        let about = |text: &str| text.parse::<Host>().unwrap();
        let failure = admission(&[]).check_host(&about("localhost")).unwrap_err();
        assert!(failure.message.ends_with("--allow-destination localhost opens it"), "{failure}");
        assert!(admission(&[]).check_host(&about("example.org")).is_ok());
        let open = admission(&["localhost:631", "10.0.0.5:80"]);
        assert!(open.check_host(&about("localhost")).is_ok());
        assert!(open.check_host(&about("10.9.9.9")).is_err());
    }

    #[test]
    fn unreadable_addresses_close_everything() {
        let blind = Admission { own_addresses: || Err(io::ErrorKind::PermissionDenied.into()), ..admission(&[]) };
        assert!(blind.check(&to("192.0.2.1:80")).unwrap_err().message.contains("AF_NETLINK"));
    }

    #[test]
    fn hosts_file() {
        let hosts = "127.0.0.1 localhost\n127.0.1.1\tBox.example.org box # me\n192.0.2.7 far\n10.0.0.2 nas";
        assert_eq!(names_of("box", hosts), ["box", "box.example.org", "box"]);
        assert_eq!(names_of("other", hosts), ["other"]);
    }

    #[test]
    fn this_hosts_addresses_are_read() {
        assert!(own_addresses().unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }
}
