//! IP lists as `--allow` and `--deny` take them: addresses, networks and systemd's keywords
//! (systemd.resource-control(5), "IPAddressAllow=").

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// systemd's keywords and what they stand for: they exist in unit files only, not on the bus.
const KEYWORDS: [(&str, [&str; 2]); 4] = [
    ("any", ["0.0.0.0/0", "::/0"]),
    ("localhost", ["127.0.0.0/8", "::1/128"]),
    ("link-local", ["169.254.0.0/16", "fe80::/64"]),
    ("multicast", ["224.0.0.0/4", "ff00::/8"]),
];

/// The canaries of a plain rule list: documentation addresses (RFC 5737), which no host has.
const CANARIES: [Ipv4Addr; 3] =
    [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1), Ipv4Addr::new(203, 0, 113, 254)];

/// One unit's `IPAddressAllow=` and `IPAddressDeny=`. Allow beats deny; order means nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IpLists {
    /// What is let through, whatever `deny` says.
    pub allow: Vec<IpNet>,
    /// What is dropped.
    pub deny: Vec<IpNet>,
}

impl IpLists {
    /// Everything denied but `allow`.
    #[must_use]
    pub fn only(allow: impl IntoIterator<Item = IpNet>) -> Self {
        Self { allow: reduced(allow), deny: any() }
    }

    /// Whether systemd's filter lets traffic with `address` pass.
    #[must_use]
    pub fn passes(&self, address: IpAddr) -> bool {
        covers(&self.allow, address) || !covers(&self.deny, address)
    }

    /// Whether both families are denied as a whole.
    #[must_use]
    pub fn denies_any(&self) -> bool {
        any().iter().all(|all| self.deny.contains(all))
    }

    /// A v4 address that is denied and that no entry of `allow` covers: a datagram to it, from a
    /// socket bound to lo, cannot leave the machine and must be refused by the filter.
    #[must_use]
    pub fn canary(&self) -> Option<Ipv4Addr> {
        CANARIES.into_iter().find(|canary| !self.passes(IpAddr::V4(*canary)))
    }

    /// A canary that a plain list can be given: the first one that no `allow` covers.
    #[must_use]
    pub fn free_canary(&self) -> Option<Ipv4Addr> {
        CANARIES.into_iter().find(|canary| !covers(&self.allow, IpAddr::V4(*canary)))
    }
}

/// `any`: both families.
#[must_use]
pub fn any() -> Vec<IpNet> {
    vec![
        IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0)),
        IpNet::V6(Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0)),
    ]
}

/// `localhost`: this host's loopback, of both families.
#[must_use]
pub fn loopback() -> Vec<IpNet> {
    keyword("localhost").map(|(_, networks)| networks).unwrap_or_default()
}

/// Without what lies in another one: of unit files systemd holds no more (in_addr_prefixes_reduce() in
/// src/shared/in-addr-prefix-util.c), and would seem to hold another list than was written.
fn reduced(networks: impl IntoIterator<Item = IpNet>) -> Vec<IpNet> {
    let mut reduced: Vec<IpNet> = Vec::new();
    for network in networks {
        if !reduced.iter().any(|held| held.contains(&network)) {
            reduced.retain(|held| !network.contains(held));
            reduced.push(network);
        }
    }
    reduced
}

/// What lies in both. Of two networks one holds the other, or they have nothing in common.
#[must_use]
pub fn intersection(these: &[IpNet], those: &[IpNet]) -> Vec<IpNet> {
    let common = |this: &IpNet, that: &IpNet| match (this.contains(that), that.contains(this)) {
        (true, _) => Some(*that),
        (_, true) => Some(*this),
        _ => None,
    };
    these.iter().flat_map(|this| those.iter().filter_map(move |that| common(this, that))).collect()
}

/// The network that is one address.
#[must_use]
pub fn host(address: impl Into<IpAddr>) -> IpNet {
    IpNet::from(address.into())
}

/// Whether one of `networks` holds `address`.
#[must_use]
pub fn covers(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Parses the values of one option (`option` is its name, for the message), keywords expanded, without what another
/// one covers.
///
/// # Errors
/// A host name, a keyword misspelt, a network with host bits set: systemd would warn and skip it,
/// which leaves the unit open, so here each is refused, with the nearest valid form named.
pub fn parse_list(option: &str, words: &[String]) -> Result<Vec<IpNet>> {
    let mut list = Vec::new();
    for word in words {
        list.extend(parse(option, word)?);
    }
    Ok(reduced(list))
}

/// The keyword that `word` is, and its networks.
#[must_use]
pub fn keyword(word: &str) -> Option<(&'static str, Vec<IpNet>)> {
    let (keyword, networks) = KEYWORDS.iter().find(|(keyword, _)| *keyword == word)?;
    Some((*keyword, networks.iter().filter_map(|network| network.parse().ok()).collect()))
}

fn parse(option: &str, word: &str) -> Result<Vec<IpNet>> {
    if let Some((_, networks)) = keyword(word) {
        return Ok(networks);
    }
    if let Ok(address) = word.parse::<IpAddr>() {
        return Ok(vec![host(address)]);
    }
    match word.parse::<IpNet>() {
        Ok(network) if network == network.trunc() => Ok(vec![network]),
        Ok(network) => bail!(
            "{option} {word}: the address has bits beyond the prefix; write {} for the network or {} for the one address",
            network.trunc(),
            network.addr()
        ),
        Err(_) => match nearest(word) {
            Some(form) => bail!("{option} {word}: not an address, network or keyword; did you mean {form}?"),
            None if looks_like_name(word) => {
                bail!("{option} {word}: takes addresses; for names use --only/--block")
            }
            None => bail!(
                "{option} {word:?}: not an address or network; write 10.0.0.5, 10.0.0.0/24, 2001:db8::/32, any, localhost, link-local or multicast"
            ),
        },
    }
}

/// The nearest valid form of a mistyped entry, if one is near.
pub(crate) fn nearest(word: &str) -> Option<String> {
    let keyword = KEYWORDS
        .iter()
        .map(|(keyword, _)| *keyword)
        .find(|keyword| word.len() > 1 && strsim::damerau_levenshtein(keyword, &word.to_ascii_lowercase()) <= 2);
    if let Some(keyword) = keyword.filter(|_| !word.contains(['.', ':', '/'])) {
        return Some(keyword.to_owned());
    }
    let (address, prefix) = word.split_once('/').unwrap_or((word, ""));
    let bare = address.trim_matches(['[', ']']);
    if bare != address && bare.parse::<IpAddr>().is_ok() {
        return Some(if prefix.is_empty() { bare.to_owned() } else { format!("{bare}/{prefix}") });
    }
    let octets = address.trim_end_matches('.').split('.').map(str::parse::<u8>).collect::<Result<Vec<_>, _>>();
    if let Ok(mut octets) = octets
        && octets.len() < 4
        && (word.contains('.') || !prefix.is_empty())
    {
        let given = octets.len();
        octets.resize(4, 0);
        let filled = Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]);
        let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32).unwrap_or(given as u8 * 8);
        return Ipv4Net::new(filled, prefix).ok().map(|network| network.trunc().to_string());
    }
    // A prefix longer than the family's is most often meant as the single address.
    address.parse::<IpAddr>().ok().map(|address| host(address).to_string())
}

fn looks_like_name(word: &str) -> bool {
    word.contains(|c: char| c.is_ascii_alphabetic())
        && word.chars().all(|c| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '*'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Result<Vec<IpNet>> {
        parse_list("--deny", &words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn what_another_covers_is_left_out_as_systemd_does() {
        for (words, expected) in [
            (&["any", "8.8.8.8"][..], "0.0.0.0/0 ::/0"),
            (&["8.8.8.8", "any"], "0.0.0.0/0 ::/0"),
            (&["localhost", "127.0.0.1"], "127.0.0.0/8 ::1/128"),
            (&["10.1.0.0/16", "::1", "10.0.0.0/8", "10.1.0.0/16"], "::1/128 10.0.0.0/8"),
            (&["multicast", "224.0.0.0/8"], "224.0.0.0/4 ff00::/8"),
            // Neighbours stay two.
            (&["10.0.0.0/25", "10.0.0.128/25"], "10.0.0.0/25 10.0.0.128/25"),
        ] {
            let list: Vec<String> = list(words).unwrap().iter().map(ToString::to_string).collect();
            assert_eq!(list.join(" "), expected, "{words:?}");
        }
        let own = host(Ipv4Addr::new(127, 100, 90, 50));
        assert_eq!(IpLists::only(std::iter::once(own).chain(loopback())).allow, loopback());
    }

    #[test]
    fn keywords_stand_for_both_families() {
        for (keyword, networks) in KEYWORDS {
            let expected: Vec<IpNet> = networks.iter().map(|network| network.parse().unwrap()).collect();
            assert_eq!(list(&[keyword]).unwrap(), expected);
        }
    }

    #[test]
    fn an_entry_given_twice_stands_once() {
        assert_eq!(list(&["8.8.8.8", "8.8.8.8/32"]).unwrap(), vec!["8.8.8.8/32".parse().unwrap()]);
    }

    #[test]
    fn mistakes_name_the_nearest_valid_form() {
        for (word, hint) in [
            ("al", "did you mean any?"),
            ("localhots", "did you mean localhost?"),
            ("linklocal", "did you mean link-local?"),
            ("10.0.0.5/24", "write 10.0.0.0/24"),
            ("10.0.0/24", "did you mean 10.0.0.0/24?"),
            ("10.", "did you mean 10.0.0.0/8?"),
            ("8.8.8.8/33", "did you mean 8.8.8.8/32?"),
            ("[::1]", "did you mean ::1?"),
            ("dns.google", "takes addresses; for names use --only/--block"),
            ("*.example.org", "takes addresses; for names use --only/--block"),
            ("", "not an address or network"),
            ("1.1.1.1\nIPAddressAllow=any", "not an address or network"),
        ] {
            let message = list(&[word]).unwrap_err().to_string();
            assert!(message.contains(hint), "{word}: {message}");
            assert!(!message.contains('\n'), "{word}: {message}");
        }
    }

    #[test]
    fn allow_beats_deny_as_in_systemd() {
        let lists = IpLists::only(list(&["10.0.0.0/24"]).unwrap());
        assert!(lists.passes("10.0.0.7".parse().unwrap()));
        assert!(!lists.passes("10.0.1.7".parse().unwrap()));
        assert!(!lists.passes("::1".parse().unwrap()));
        assert!(lists.denies_any());
    }

    #[test]
    fn the_canary_is_one_that_no_allow_covers() {
        let lists = IpLists { allow: list(&["192.0.2.0/24"]).unwrap(), deny: vec![] };
        assert_eq!(lists.free_canary(), Some(Ipv4Addr::new(198, 51, 100, 1)));
        assert_eq!(lists.canary(), None);
        let all = IpLists { allow: any(), deny: vec![] };
        assert_eq!(all.free_canary(), None);
    }
}
