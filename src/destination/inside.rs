//! Which destinations lie inside: on this host or in the network around it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Says what makes `address` an inside one, `None` if it is outside. `own` are the host's addresses.
///
/// An IPv4 address carried inside an IPv6 one is judged as itself, whatever carries it: a gateway
/// or the kernel may unwrap it again. Documentation ranges count as outside, they lead nowhere
/// (and the test lab uses them as its world).
pub fn inside_address(address: IpAddr, own: &[IpAddr]) -> Option<&'static str> {
    if own.contains(&address) {
        return Some("an address of this host");
    }
    match address {
        IpAddr::V4(address) => inside_v4(address),
        IpAddr::V6(address) => inside_v6(address)
            .or_else(|| embedded_v4(address).find_map(|embedded| inside_address(embedded.into(), own))),
    }
}

fn inside_v4(address: Ipv4Addr) -> Option<&'static str> {
    let kind = match address.octets() {
        [0, ..] => "unspecified",
        [127, ..] => "loopback",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "private",
        [100, 64..=127, ..] => "carrier-grade NAT",
        [169, 254, ..] => "link-local",
        // Protocol assignments: DS-Lite gateways, and metadata services of some clouds.
        [192, 0, 0, _] => "reserved for the network's own use",
        [224..=239, ..] => "multicast",
        [255, 255, 255, 255] => "broadcast",
        [240..=255, ..] => "reserved",
        _ => return None,
    };
    Some(kind)
}

fn inside_v6(address: Ipv6Addr) -> Option<&'static str> {
    let kind = match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "unspecified",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
        // RFC 8215: for translation within one network only, so wherever it leads is inside.
        [0x64, 0xff9b, 1, ..] => "local NAT64",
        [0xfc00..=0xfdff, ..] => "private",
        [0xfe80..=0xfebf, ..] => "link-local",
        [0xfec0..=0xfeff, ..] => "site-local",
        [0xff00..=0xffff, ..] => "multicast",
        _ => return None,
    };
    Some(kind)
}

/// What `address` may turn out to be on its way: itself, and the IPv4 addresses that it carries.
pub fn carried(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let embedded = match address {
        IpAddr::V4(_) => None,
        IpAddr::V6(address) => Some(embedded_v4(address).map(IpAddr::from)),
    };
    std::iter::once(address).chain(embedded.into_iter().flatten())
}

/// The IPv4 addresses that an IPv6 address carries.
pub(super) fn embedded_v4(address: Ipv6Addr) -> impl Iterator<Item = Ipv4Addr> {
    let from = |high: u16, low: u16| Ipv4Addr::from(u32::from(high) << 16 | u32::from(low));
    let found = match address.segments() {
        // v4-compatible, v4-mapped, v4-translated (RFC 2765), NAT64 (RFC 6052)
        [0, 0, 0, 0, 0, 0, a, b]
        | [0, 0, 0, 0, 0, 0xffff, a, b]
        | [0, 0, 0, 0, 0xffff, 0, a, b]
        | [0x64, 0xff9b, 0, 0, 0, 0, a, b] => [Some(from(a, b)), None],
        // 6to4: the address of the site's router
        [0x2002, a, b, ..] => [Some(from(a, b)), None],
        // Teredo: the server, and the client with every bit turned
        [0x2001, 0, a, b, _, _, c, d] => [Some(from(a, b)), Some(from(!c, !d))],
        // ISATAP
        [_, _, _, _, 0 | 0x200, 0x5efe, a, b] => [Some(from(a, b)), None],
        _ => [None, None],
    };
    found.into_iter().flatten()
}

/// Whether a normalised `name` means this host, whatever a resolver says. `own` are its names.
pub fn inside_name(name: &str, own: &[String]) -> bool {
    // Debian's /etc/hosts, RFC 6761, and nss-myhostname(8).
    const NAMES: [&str; 14] = [
        "localhost",
        "localdomain",
        "localhost4",
        "localhost6",
        "ip6-localhost",
        "ip6-loopback",
        "ip6-localnet",
        "ip6-mcastprefix",
        "ip6-allnodes",
        "ip6-allrouters",
        "_gateway",
        "_outbound",
        "_localdnsstub",
        "_localdnsproxy",
    ];
    const SUFFIXES: [&str; 2] = [".localhost", ".localdomain"];

    let is_own = |own: &String| {
        let own = own.trim_end_matches('.').to_ascii_lowercase();
        let short = own.split('.').next().unwrap_or_default();
        // The bare name, the full one, and the one that mDNS gives out.
        !short.is_empty() && (name == own || name.strip_suffix(".local").unwrap_or(name) == short)
    };
    NAMES.contains(&name) || SUFFIXES.iter().any(|suffix| name.ends_with(suffix)) || own.iter().any(is_own)
}
