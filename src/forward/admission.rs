//! Which destinations the forwarder goes to: never inside, unless `--allow-destination` says so, and
//! no others than `--only` and `--block` leave.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use crate::destination::{Destination, Host, Judgement, Pattern, Refusal, Rules, carried, inside_address, inside_name};

use super::failure::{Failure, Refused, Rule, is_exhausted};
use super::routes;

/// Of a question about a host, which leads to no port.
const NO_PORT: u16 = 0;

/// The user's rules, and the one on inside destinations.
pub struct Admission {
    rules: Rules,
    /// Whether the app's names are resolved here, so that their addresses can be judged.
    resolves: bool,
    allowed: Vec<Pattern>,
    own_names: Vec<String>,
    own_addresses: fn() -> io::Result<Vec<IpAddr>>,
    leads_here: fn(IpAddr) -> io::Result<bool>,
}

impl Admission {
    /// The rule on inside destinations of this host, whose files are below `root`.
    pub fn new(allowed: Vec<Pattern>, root: &Path) -> Self {
        let hosts = std::fs::read_to_string(root.join("etc/hosts")).unwrap_or_default();
        let own_names = names_of(&rustix::system::uname().nodename().to_string_lossy(), &hosts);
        let leads_here = routes::leads_here;
        Self { rules: Rules::default(), resolves: false, allowed, own_names, own_addresses, leads_here }
    }

    /// With the user's rules. `resolves` says whether names are resolved here; if they are not, a rule
    /// on addresses lets none through.
    pub fn with_rules(self, rules: Rules, resolves: bool) -> Self {
        Self { rules, resolves, ..self }
    }

    /// Judges what the app asked for; at port 0 what it asks about.
    pub fn check(&self, destination: &Destination) -> Result<(), Failure> {
        let passes = match self.rules.judge(destination) {
            Judgement::Passes => true,
            Judgement::AtAddresses => self.resolves,
            Judgement::Refused(Refusal::Only) => false,
            Judgement::Refused(Refusal::Block(block)) => {
                let message = format!("{destination} is kept out by --block {block}");
                return Err(refused(destination, Rule::Block, message));
            }
        };
        let inside = if self.is_allowed(destination) { None } else { self.inside(destination)? };
        match (inside, passes) {
            (None, true) => Ok(()),
            (None, false) => {
                let message = format!("{destination} is not what --only names: --only {destination} lets it through");
                Err(refused(destination, Rule::Only, message))
            }
            (Some(why), true) => Err(refused_inside(destination, why)),
            // One of the two would not do.
            (Some(why), false) => Err(Failure::refused(format!(
                "{destination} is inside ({why}): --allow-destination {destination} opens it, with --only {destination}"
            ))),
        }
    }

    /// The value of `--only` that lets `destination` through as it was asked for.
    pub fn passed_by(&self, destination: &Destination) -> Option<&Pattern> {
        self.rules.only.iter().find(|only| only.matches(destination))
    }

    /// Judges a host that is asked about, where the port is not known yet: what some connection may go to passes.
    pub fn check_host(&self, host: &Host) -> Result<(), Failure> {
        self.check(&Destination { host: host.clone(), port: NO_PORT })
    }

    /// What makes `destination` an inside one.
    fn inside(&self, destination: &Destination) -> Result<Option<&'static str>, Failure> {
        Ok(match &destination.host {
            Host::Name(name) => inside_name(name, &self.own_names).then_some("a name of this host"),
            Host::Ip(address) => self.inside_address(*address, &self.own_addresses()?)?,
        })
    }

    /// What makes `address` an inside one, `own` being those of this host's interfaces.
    fn inside_address(&self, address: IpAddr, own: &[IpAddr]) -> Result<Option<&'static str>, Failure> {
        if let Some(why) = inside_address(address, own) {
            return Ok(Some(why));
        }
        for address in carried(address) {
            if (self.leads_here)(address).map_err(unread)? {
                return Ok(Some("routed to this host"));
            }
        }
        Ok(None)
    }

    /// Judges what `destination` resolved to: the addresses that may be dialled.
    pub fn dialable(&self, destination: &Destination, resolved: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, Failure> {
        // What opens the name opens it wherever it leads.
        let own = if self.is_allowed(destination) { None } else { Some(self.own_addresses()?) };
        let mut failure = None;
        let is_open = |address: &SocketAddr| {
            let judged = self.check_address(destination, *address, own.as_deref());
            match judged {
                Ok(()) => true,
                Err(why) => {
                    failure.get_or_insert(why);
                    false
                }
            }
        };
        let dialable: Vec<_> = resolved.into_iter().filter(is_open).collect();
        match failure {
            Some(failure) if dialable.is_empty() => Err(failure),
            _ => Ok(dialable),
        }
    }

    /// Judges what `host` resolved to: the addresses that the app may know.
    pub fn answerable(&self, host: &Host, resolved: Vec<IpAddr>) -> Result<Vec<IpAddr>, Failure> {
        let asked = Destination { host: host.clone(), port: NO_PORT };
        let resolved = resolved.into_iter().map(|address| SocketAddr::new(address, NO_PORT)).collect();
        Ok(self.dialable(&asked, resolved)?.iter().map(SocketAddr::ip).collect())
    }

    /// Judges one address that `destination` leads to. `own` are the host's own; none, if inside is open.
    fn check_address(
        &self,
        destination: &Destination,
        address: SocketAddr,
        own: Option<&[IpAddr]>,
    ) -> Result<(), Failure> {
        let ip = address.ip();
        match self.rules.judge_address(destination, ip) {
            Ok(()) => {}
            Err(Refusal::Only) => {
                let message = format!(
                    "{destination} leads to {ip}, which is not what --only names: --only {destination} lets it through"
                );
                return Err(refused(destination, Rule::Only, message));
            }
            Err(Refusal::Block(block)) => {
                let message = format!("{destination} leads to {ip}, which --block {block} keeps out");
                return Err(refused(destination, Rule::Block, message));
            }
        }
        let Some(own) = own else { return Ok(()) };
        let Some(why) = self.inside_address(ip, own)? else { return Ok(()) };
        if self.is_allowed(&Destination { host: Host::Ip(ip), port: address.port() }) {
            Ok(())
        } else {
            Err(refused_inside(destination, why))
        }
    }

    fn is_allowed(&self, destination: &Destination) -> bool {
        self.allowed.iter().any(|allowed| allowed.matches(destination))
    }

    /// Read anew for each request: addresses come and go with every DHCP lease.
    fn own_addresses(&self) -> Result<Vec<IpAddr>, Failure> {
        (self.own_addresses)().map_err(unread)
    }
}

/// Without the host's addresses nothing can be judged, so nothing is let through.
fn unread(error: io::Error) -> Failure {
    if is_exhausted(&error) {
        return Failure::full();
    }
    Failure::refused(format!("the host's own addresses cannot be read (is AF_NETLINK allowed?): {error}"))
}

fn refused(destination: &Destination, by: Rule, message: String) -> Failure {
    Failure { refused: Some(Refused { destination: destination.to_string(), by }), ..Failure::refused(message) }
}

fn refused_inside(destination: &Destination, why: &str) -> Failure {
    // In a namespace the app has an own one, and may have meant that.
    let what = if destination.host.is_loopback() { "the host's" } else { "it" };
    Failure::refused(format!("{destination} is inside ({why}): --allow-destination {destination} opens {what}"))
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
            rules: Rules::default(),
            resolves: false,
            allowed: allowed.iter().map(|text| text.parse().unwrap()).collect(),
            own_names: vec!["box".into()],
            own_addresses: || Ok(vec!["203.0.113.9".parse().unwrap()]),
            leads_here: |address| Ok(address == IpAddr::from([198, 18, 0, 9])),
        }
    }

    fn to(text: &str) -> Destination {
        Destination::parse(text, None).unwrap()
    }

    #[test]
    fn only_allow_destination_opens() {
        let closed = admission(&[]);
        for inside in [
            "127.0.0.1:80",
            "box:80",
            "203.0.113.9:80",
            "[::ffff:203.0.113.9]:80",
            "198.18.0.9:80",
            "[::ffff:198.18.0.9]:80",
        ] {
            let failure = closed.check(&to(inside)).unwrap_err();
            assert_eq!(failure.status, 403);
            assert!(failure.message.contains(&format!("--allow-destination {}", to(inside))), "{failure}");
        }
        assert!(closed.check(&to("example.org:80")).is_ok());
        assert!(admission(&["127.0.0.1:80"]).check(&to("127.0.0.1:80")).is_ok());
        assert!(admission(&["127.0.0.1:80"]).check(&to("127.0.0.1:81")).is_err());
    }

    #[test]
    fn what_a_name_resolves_to_is_judged_too() {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let name = to("rebind.example:80");
        let mixed = addresses(&["127.0.0.1:80", "192.0.2.1:80", "[::1]:80", "203.0.113.9:80", "198.18.0.9:80"]);

        let closed = admission(&[]);
        assert_eq!(closed.dialable(&name, mixed.clone()).unwrap(), addresses(&["192.0.2.1:80"]));
        assert!(closed.dialable(&name, addresses(&["10.0.0.1:80"])).unwrap_err().message.contains("private"));
        assert!(closed.dialable(&name, vec![]).unwrap().is_empty());

        assert_eq!(admission(&["rebind.example"]).dialable(&name, mixed.clone()).unwrap(), mixed);
        assert_eq!(admission(&["[::1]:80"]).dialable(&name, mixed).unwrap(), addresses(&["192.0.2.1:80", "[::1]:80"]));
    }

    /// An admission with `--only` and `--block`, of a forwarder that resolves names or does not.
    fn ruled(only: &[&str], block: &[&str], allowed: &[&str], resolves: bool) -> Admission {
        let list = |words: &[&str]| words.iter().map(|word| word.parse().unwrap()).collect();
        admission(allowed).with_rules(Rules { only: list(only), block: list(block) }, resolves)
    }

    fn refused_by(failure: &Failure) -> Option<(&str, Rule)> {
        failure.refused.as_ref().map(|refused| (refused.destination.as_str(), refused.by))
    }

    #[test]
    fn a_refusal_names_the_destination_and_the_option() {
        let rules = ruled(&["a.test", "10.0.0.0/8"], &["*.evil.test"], &[], false);
        assert!(rules.check(&to("a.test:80")).is_ok());

        let failure = rules.check(&to("C.test.:80")).unwrap_err();
        assert_eq!(failure.message, "c.test:80 is not what --only names: --only c.test:80 lets it through");
        assert_eq!((failure.status, refused_by(&failure)), (403, Some(("c.test:80", Rule::Only))));

        let failure = rules.check(&to("x.evil.test:80")).unwrap_err();
        assert_eq!(failure.message, "x.evil.test:80 is kept out by --block *.evil.test");
        assert_eq!((failure.status, refused_by(&failure)), (403, Some(("x.evil.test:80", Rule::Block))));
    }

    #[test]
    fn only_never_opens_inside_and_what_is_opened_is_still_judged() {
        let only = ruled(&["any", "10.0.0.0/8", "localhost", "box"], &[], &[], true);
        for inside in ["10.0.0.1:80", "localhost:80", "127.0.0.1:80", "box:80", "203.0.113.9:80"] {
            let failure = only.check(&to(inside)).unwrap_err();
            let what = if to(inside).host.is_loopback() { "the host's" } else { "it" };
            let opens = format!(": --allow-destination {inside} opens {what}");
            assert!(failure.message.contains(" is inside (") && failure.message.ends_with(&opens), "{failure}");
            assert_eq!(refused_by(&failure), None, "{inside}");
        }
        let opened = ruled(&["a.test"], &["10.0.0.2"], &["10.0.0.0/8"], true);
        let failure = opened.check(&to("10.0.0.1:80")).unwrap_err();
        assert_eq!(refused_by(&failure), Some(("10.0.0.1:80", Rule::Only)));
        assert_eq!(refused_by(&opened.check(&to("10.0.0.2:80")).unwrap_err()), Some(("10.0.0.2:80", Rule::Block)));
        let failure = opened.check(&to("127.0.0.1:80")).unwrap_err();
        assert!(failure.message.ends_with("--allow-destination 127.0.0.1:80 opens it, with --only 127.0.0.1:80"));
        assert!(ruled(&["10.0.0.1"], &[], &["10.0.0.0/8"], true).check(&to("10.0.0.1:80")).is_ok());
    }

    #[test]
    fn an_address_rule_lets_a_name_through_only_where_it_is_resolved_here() {
        let (only, name) = (["192.0.2.0/24"], to("a.test:80"));
        assert!(ruled(&only, &[], &[], true).check(&name).is_ok());
        assert_eq!(
            refused_by(&ruled(&only, &[], &[], false).check(&name).unwrap_err()),
            Some(("a.test:80", Rule::Only))
        );
    }

    #[test]
    fn what_is_dialled_is_what_the_rules_allow() {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<SocketAddr>>();
        let name = to("a.test:80");
        let mixed = addresses(&["192.0.2.1:80", "127.0.0.1:80", "198.51.100.1:80", "[64:ff9b::192.0.2.1]:80"]);
        for (only, block, allowed, dialled) in [
            (&["a.test"][..], &[][..], &[][..], &["192.0.2.1:80", "198.51.100.1:80", "[64:ff9b::192.0.2.1]:80"][..]),
            (&["a.test"], &["192.0.2.0/24"], &[], &["198.51.100.1:80"]),
            (&["a.test"], &["192.0.2.0/24"], &["a.test"], &["127.0.0.1:80", "198.51.100.1:80"]),
            (&["192.0.2.0/24"], &[], &[], &["192.0.2.1:80"]),
            (&["192.0.2.0/24"], &[], &["a.test"], &["192.0.2.1:80"]),
            (&["192.0.2.0/24", "127.0.0.1"], &[], &["127.0.0.1"], &["192.0.2.1:80", "127.0.0.1:80"]),
        ] {
            let admission = ruled(only, block, allowed, true);
            let dialable = admission.dialable(&name, mixed.clone()).unwrap();
            assert_eq!(dialable, addresses(dialled), "only {only:?}, block {block:?}, opened {allowed:?}");
        }

        let failure = ruled(&["a.test"], &["192.0.2.0/24"], &[], true).dialable(&name, addresses(&["192.0.2.1:80"]));
        let failure = failure.unwrap_err();
        assert_eq!(failure.message, "a.test:80 leads to 192.0.2.1, which --block 192.0.2.0/24 keeps out");
        assert_eq!((failure.status, refused_by(&failure)), (403, Some(("a.test:80", Rule::Block))));

        let failure = ruled(&["192.0.2.0/24"], &[], &[], true).dialable(&name, addresses(&["198.51.100.1:80"]));
        let failure = failure.unwrap_err();
        let why = "a.test:80 leads to 198.51.100.1, which is not what --only names: --only a.test:80 lets it through";
        assert_eq!((failure.message.as_str(), refused_by(&failure)), (why, Some(("a.test:80", Rule::Only))));
    }

    #[test]
    fn a_question_passes_where_some_connection_does() {
        let about = |host: &str| Destination { host: host.parse().unwrap(), port: 0 };
        let rules = ruled(&["a.test:443", "192.0.2.0/24:443"], &["b.test", "192.0.2.7", "a.test:25"], &[], true);
        assert!(rules.check(&about("a.test")).is_ok());
        assert_eq!(refused_by(&rules.check(&about("b.test")).unwrap_err()), Some(("b.test", Rule::Block)));
        let found: Vec<SocketAddr> = vec!["192.0.2.7:0".parse().unwrap(), "192.0.2.8:0".parse().unwrap()];
        assert_eq!(rules.dialable(&about("a.test"), found.clone()).unwrap(), found[1..]);
        assert_eq!(rules.dialable(&about("c.test"), found.clone()).unwrap(), found[1..]);
        assert!(rules.dialable(&about("a.test"), found[..1].to_vec()).is_err());

        let failure = ruled(&["a.test:443"], &[], &[], true).check(&about("c.test")).unwrap_err();
        assert_eq!(failure.message, "c.test is not what --only names: --only c.test lets it through");
        assert!(admission(&["box:631"]).check(&about("box")).is_ok());
        assert!(admission(&["box:631"]).check(&about("localhost")).is_err());
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
        assert!(failure.message.ends_with("--allow-destination localhost opens the host's"), "{failure}");
        assert!(admission(&[]).check_host(&about("example.org")).is_ok());
        let open = admission(&["localhost:631", "10.0.0.5:80"]);
        assert!(open.check_host(&about("localhost")).is_ok());
        assert!(open.check_host(&about("10.9.9.9")).is_err());
    }

    #[test]
    fn unreadable_addresses_close_everything() {
        let blind = Admission { own_addresses: || Err(io::ErrorKind::PermissionDenied.into()), ..admission(&[]) };
        assert!(blind.check(&to("192.0.2.1:80")).unwrap_err().message.contains("AF_NETLINK"));
        let blind = Admission { leads_here: |_| Err(io::ErrorKind::PermissionDenied.into()), ..admission(&[]) };
        assert!(blind.check(&to("192.0.2.1:80")).unwrap_err().message.contains("AF_NETLINK"));
    }

    #[test]
    fn no_descriptor_to_judge_by_is_no_refusal() {
        for error in [nix::libc::EMFILE, nix::libc::ENFILE] {
            let failure = unread(io::Error::from_raw_os_error(error));
            assert_eq!((failure.status, failure.kind()), (503, "failed"));
        }
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
