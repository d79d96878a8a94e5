//! `--only` and `--block`: the firewall by name that an IP filter cannot be.

use std::net::IpAddr;

use super::{Destination, Host, Pattern};

/// What the app may ask for. It is judged twice: as it was asked for, and, where this host resolves
/// names, once more by each address that a name leads to.
///
/// 1. **As asked.** A value of `--block` that is the host asked for refuses it, whatever `--only`
///    says. Without `--only` everything else passes. With it passes what one of its values is; an
///    address is no name, so `--only a.test` refuses a.test's address asked for as such, and
///    whatever other name leads there.
/// 2. **By address**, before it is dialled; what does not pass is not dialled.
///    - A value of `--block` that is the address keeps it out: a name that `--only` lets through
///      never leads to a blocked address.
///    - A name that `--only` lets through by name passes at every other address.
///    - A name that it does not let through by name passes at the addresses that it lets through
///      (`--only 192.0.2.0/24`). For that it must be looked up first, so with addresses in
///      `--only` lookups of names do get out.
///
/// Where the upstream resolves, nobody here sees the addresses: there a name passes by name alone,
/// and an address in `--block` keeps out only what is asked for by address.
///
/// `--block` takes an address for its own in every wrapping that [`super::inside_address`] knows,
/// `--only` only as itself (and v4-mapped, which is the same to every kernel).
///
/// In a question about a host (port 0: a lookup) `--only` lets through what it does at some port,
/// and `--block` keeps out what it does at every port.
///
/// Inside destinations are refused by another rule, which neither of these lifts; and what
/// `--allow-destination` opens must pass these all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// What is let through; nothing else is, unless this is empty.
    pub only: Vec<Pattern>,
    /// What is kept out, and beats `only`.
    pub block: Vec<Pattern>,
}

/// What the rules say of a host as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It passes.
    Passes,
    /// It passes at some addresses, if it leads to them.
    AtAddresses,
    /// It does not pass.
    Refused(Refusal),
}

/// Why something does not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `--only` does not let it through.
    Only,
    /// This value of `--block` keeps it out.
    Block(Pattern),
}

impl Rules {
    /// Whether there are none, so that everything passes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.only.is_empty() && self.block.is_empty()
    }

    /// Judges what was asked for.
    #[must_use]
    pub fn judge(&self, asked: &Destination) -> Judgement {
        let at_addresses = |only: &Pattern| only.is_of_addresses() && only.has_port(asked.port);
        if let Some(block) = self.blocking(asked) {
            Judgement::Refused(Refusal::Block(block.clone()))
        } else if self.lets_through(asked) {
            Judgement::Passes
        } else if matches!(asked.host, Host::Name(_)) && self.only.iter().any(at_addresses) {
            Judgement::AtAddresses
        } else {
            Judgement::Refused(Refusal::Only)
        }
    }

    /// Judges an `address` that `asked` leads to.
    ///
    /// # Errors
    /// It is not to be dialled.
    pub fn judge_address(&self, asked: &Destination, address: IpAddr) -> Result<(), Refusal> {
        let address = Destination { host: Host::Ip(address), port: asked.port };
        if let Some(block) = self.blocking(&address) {
            return Err(Refusal::Block(block.clone()));
        }
        let passes = self.lets_through(asked) || self.lets_through(&address);
        if passes { Ok(()) } else { Err(Refusal::Only) }
    }

    /// A value of `--block` that cannot keep out names which lead to it, where the upstream resolves.
    #[must_use]
    pub fn blind_block(&self) -> Option<&Pattern> {
        self.block.iter().find(|block| block.is_network())
    }

    fn lets_through(&self, destination: &Destination) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only.matches(destination))
    }

    fn blocking(&self, destination: &Destination) -> Option<&Pattern> {
        self.block.iter().find(|block| block.keeps_out(destination))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Rules as on a command line: `only` and `block`, split at blanks.
    fn rules(only: &str, block: &str) -> Rules {
        let list = |text: &str| text.split_whitespace().map(|word| word.parse().unwrap()).collect();
        Rules { only: list(only), block: list(block) }
    }

    /// What the rules say: `passes`, `addresses`, `only`, or the value of `--block`.
    fn judged(rules: &Rules, asked: &str) -> String {
        let question = || Destination { host: asked.parse().unwrap(), port: 0 };
        match rules.judge(&Destination::parse(asked, None).unwrap_or_else(|_| question())) {
            Judgement::Passes => "passes".into(),
            Judgement::AtAddresses => "addresses".into(),
            Judgement::Refused(refusal) => why(&refusal),
        }
    }

    fn why(refusal: &Refusal) -> String {
        match refusal {
            Refusal::Only => "only".into(),
            Refusal::Block(block) => block.to_string(),
        }
    }

    #[test]
    fn what_is_asked_for_is_judged() {
        for (only, block, asked, judgement) in [
            ("", "", "a.test:80", "passes"),
            ("", "", "192.0.2.1:80", "passes"),
            // By name: what is named and nothing else, however it is spelt or reached.
            ("a.test", "", "a.test:80", "passes"),
            ("a.test", "", "A.Test.:443", "passes"),
            ("a.test", "", "x.a.test:80", "only"),
            ("a.test", "", "aa.test:80", "only"),
            ("a.test", "", "a.test.evil.org:80", "only"),
            ("a.test", "", "192.0.2.1:80", "only"),
            ("a.test", "", "[2001:db8::1]:80", "only"),
            ("a.test *.b.test:443", "", "b.test:443", "only"),
            ("a.test *.b.test:443", "", "x.y.b.test:443", "passes"),
            ("a.test *.b.test:443", "", "x.b.test:80", "only"),
            // By address: a name may lead there, an address must be there.
            ("192.0.2.0/24", "", "192.0.2.7:80", "passes"),
            ("192.0.2.0/24", "", "[::ffff:192.0.2.7]:80", "passes"),
            ("192.0.2.0/24", "", "[64:ff9b::192.0.2.7]:80", "only"),
            ("192.0.2.0/24", "", "192.0.3.7:80", "only"),
            ("192.0.2.0/24", "", "a.test:80", "addresses"),
            ("192.0.2.0/24:443", "", "a.test:80", "only"),
            ("any:443", "", "a.test:443", "passes"),
            ("any:443", "", "a.test:80", "only"),
            ("localhost", "", "localhost:80", "passes"),
            ("localhost", "", "a.test:80", "addresses"),
            // Block beats only, and looks into every wrapping.
            ("*.test", "evil.test", "evil.test:80", "evil.test"),
            ("evil.test", "*.test", "evil.test:80", "*.test"),
            ("any", "any", "a.test:80", "any"),
            ("", "a.test:25", "a.test:25", "a.test:25"),
            ("", "a.test:25", "a.test:80", "passes"),
            ("", "any:25", "192.0.2.1:25", "any:25"),
            ("", "192.0.2.0/24", "a.test:80", "passes"),
            ("", "192.0.2.0/24", "192.0.2.9:80", "192.0.2.0/24"),
            ("", "192.0.2.0/24", "0xc0000209:80", "192.0.2.0/24"),
            ("", "192.0.2.0/24", "[::ffff:192.0.2.9]:80", "192.0.2.0/24"),
            ("", "192.0.2.0/24", "[::192.0.2.9]:80", "192.0.2.0/24"),
            ("", "192.0.2.0/24", "[64:ff9b::192.0.2.9]:80", "192.0.2.0/24"),
            ("", "192.0.2.0/24", "[2002:c000:0209::1]:80", "192.0.2.0/24"),
            ("", "192.0.2.0/24", "[2001:0:808:808:0:0:3fff:fdf6]:80", "192.0.2.0/24"),
            ("", "::ffff:192.0.2.0/120", "192.0.2.9:80", "192.0.2.0/24"),
            ("", "::/0", "[::ffff:192.0.2.9]:80", "[::/0]"),
            ("", "::/0", "192.0.2.9:80", "passes"),
            ("", "localhost", "[64:ff9b::127.0.0.1]:80", "localhost"),
            // In a question some port lets through, every port keeps out.
            ("a.test:443", "", "a.test", "passes"),
            ("a.test:443", "", "b.test", "only"),
            ("192.0.2.0/24:443", "", "b.test", "addresses"),
            ("", "a.test:25", "a.test", "passes"),
            ("", "a.test", "a.test", "a.test"),
            ("", "192.0.2.0/24:25", "192.0.2.1", "passes"),
            ("", "192.0.2.0/24", "192.0.2.1", "192.0.2.0/24"),
        ] {
            assert_eq!(judged(&rules(only, block), asked), judgement, "only {only}, block {block}, asked {asked}");
        }
    }

    #[test]
    fn what_a_name_leads_to_is_judged() {
        for (only, block, asked, address, judgement) in [
            ("", "", "a.test:80", "192.0.2.1", "passes"),
            ("a.test", "", "a.test:80", "192.0.2.1", "passes"),
            ("a.test", "192.0.2.1", "a.test:80", "192.0.2.1", "192.0.2.1"),
            ("a.test", "192.0.2.1", "a.test:80", "192.0.2.2", "passes"),
            ("a.test", "192.0.2.1:25", "a.test:80", "192.0.2.1", "passes"),
            ("a.test", "192.0.2.1", "a.test:80", "64:ff9b::192.0.2.1", "192.0.2.1"),
            ("", "192.0.2.0/24", "a.test:80", "::ffff:192.0.2.1", "192.0.2.0/24"),
            ("192.0.2.0/24", "", "a.test:80", "192.0.2.1", "passes"),
            ("192.0.2.0/24", "", "a.test:80", "203.0.113.1", "only"),
            ("192.0.2.0/24", "", "a.test:80", "2002:c000:0201::", "only"),
            ("192.0.2.0/24:443", "", "a.test:80", "192.0.2.1", "only"),
            ("192.0.2.0/24", "192.0.2.7", "a.test:80", "192.0.2.7", "192.0.2.7"),
            // Each for itself: what an address opens at one port a name does not at another.
            ("a.test:443 192.0.2.0/24", "", "a.test:80", "203.0.113.1", "only"),
            ("a.test:443 192.0.2.0/24", "", "a.test:443", "203.0.113.1", "passes"),
        ] {
            let asked = Destination::parse(asked, None).unwrap();
            let told = rules(only, block).judge_address(&asked, address.parse().unwrap());
            let told = told.map_or_else(|refusal| why(&refusal), |()| "passes".into());
            assert_eq!(told, judgement, "only {only}, block {block}, {asked} at {address}");
        }
    }

    #[test]
    fn a_block_that_sees_no_names_is_found() {
        for (block, blind) in [
            ("a.test any:25 localhost", None),
            ("a.test 192.0.2.0/24:80", Some("192.0.2.0/24:80")),
            ("2001:db8::1", Some("[2001:db8::1]")),
        ] {
            assert_eq!(rules("", block).blind_block().map(ToString::to_string).as_deref(), blind, "{block}");
        }
    }

    proptest! {
        #[test]
        fn what_is_blocked_passes_by_no_spelling(address: u32, prefix in 8_u8..=32) {
            let address = std::net::Ipv4Addr::from(address);
            let net = ipnet::Ipv4Net::new(address, prefix).unwrap().trunc();
            let rules = rules("any", &net.to_string());
            let octets = address.octets();
            let [a, b, c, d] = octets;
            for spelling in [
                address.to_string(),
                format!("{}", u32::from(address)),
                format!("{:#x}", u32::from(address)),
                format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
                format!("{address}."),
                format!("::ffff:{address}"),
                format!("64:ff9b::{address}"),
                format!("2002:{a:02x}{b:02x}:{c:02x}{d:02x}::1"),
            ] {
                let asked = Destination::new(&spelling, 80).unwrap();
                let Judgement::Refused(Refusal::Block(_)) = rules.judge(&asked) else {
                    panic!("{spelling} passes --block {net}")
                };
            }
        }
    }
}
