//! What is proven of a network namespace: that it is not the launcher's, and that nothing leads out of it. The
//! interfaces say the second: loopback, and a pair whose ends are each other, have no outside.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result, bail};
use netlink_bindings::rt_link::{Ifinfomsg, Request};
use netlink_socket2::NetlinkSocket;

use super::DISCARD;
use crate::cli::Capture;
use crate::inside::network::PAIR;
use crate::plan::CAPTURE_PORT;

/// Addresses of the documentation (RFC 5737, RFC 3849), which no host has.
const ELSEWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// This process is not in the namespace whose inode number is `outside`, and in one that holds loopback alone, or
/// our pair as well.
///
/// # Errors
/// Says what else is there.
pub(super) fn is_closed(outside: Option<u64>, has_pair: bool) -> Result<()> {
    let own = std::fs::metadata("/proc/self/ns/net").context("cannot tell the own network namespace")?.ino();
    if outside == Some(own) {
        bail!(
            "systemd gave the app no network namespace of its own, the host's network is open to it; namespaces are not permitted here (a container?), so nothing was run"
        );
    }
    judge(&links().context("cannot list network interfaces")?, has_pair)
}

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    index: u32,
    /// What it is stacked on or the other end of, if that is in this namespace.
    other: Option<u32>,
}

fn links() -> io::Result<BTreeMap<String, Link>> {
    let mut kernel = NetlinkSocket::new();
    let request = Request::new().op_getlink_dump(&Ifinfomsg::new());
    let mut answers = kernel.request(&request)?;
    let mut links = BTreeMap::new();
    while let Some(answer) = answers.recv() {
        let (header, attributes) = answer?;
        let name = attributes.get_ifname().map_err(io::Error::other)?.to_string_lossy().into_owned();
        // The number is of another namespace where that one's is told.
        let is_here = attributes.get_link_netnsid().is_err();
        let other = attributes.get_link().ok().filter(|_| is_here);
        links.insert(name, Link { index: header.ifi_index as u32, other });
    }
    Ok(links)
}

fn judge(links: &BTreeMap<String, Link>, has_pair: bool) -> Result<()> {
    let ends: Vec<String> =
        PAIR.iter().filter(|_| has_pair).map(|end| end.name.to_string_lossy().into_owned()).collect();
    let mut expected = ends.clone();
    expected.push("lo".to_owned());
    if !links.keys().eq(&expected) {
        let held: Vec<&str> = links.keys().map(String::as_str).collect();
        let alone = if has_pair { expected.join(", ") } else { "lo alone".to_owned() };
        bail!("the app's network namespace holds {}, expected {alone}", held.join(", "));
    }
    for (end, opposite) in ends.iter().zip(ends.iter().rev()) {
        if links[end].other != Some(links[opposite].index) {
            bail!("the other end of {end} is not in the app's network namespace, so it leads out and nothing was run");
        }
    }
    Ok(())
}

/// What is sent to anywhere stays here: there is no way, or, with capture, the way is loopback and the forwarder's
/// sockets for it are there. By connect(2), which asks for the way and sends nothing.
///
/// # Errors
/// Says which address has another way.
pub(super) fn leads_nowhere(capture: Capture) -> Result<()> {
    for address in ELSEWHERE {
        let way = way_to(address);
        let is_v6 = address.is_ipv6();
        match (way, capture) {
            (Ok(Some(from)), Capture::Streams | Capture::Datagrams) if from.is_loopback() => {
                let any: IpAddr = if is_v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
                super::forwarder(SocketAddr::new(any, CAPTURE_PORT))?;
            }
            (Ok(None), Capture::Off) => {}
            // Where IPv6 is switched off.
            (Ok(None), _) if is_v6 => {}
            (Ok(None), _) => bail!("nothing is captured: there is no route to {address}, so nothing was run"),
            (Ok(Some(from)), _) => bail!("there is a way to {address} out of the app's network namespace, from {from}"),
            (Err(error), _) => return Err(error).context("cannot tell where the app's network leads"),
        }
    }
    Ok(())
}

/// From which of its addresses this machine would send there; `None` if it couldn't.
fn way_to(address: IpAddr) -> io::Result<Option<IpAddr>> {
    use nix::libc::{EACCES, EADDRNOTAVAIL, EAFNOSUPPORT, ENETUNREACH};
    let asked = super::datagrams(address).and_then(|socket| {
        socket.connect(SocketAddr::new(address, DISCARD))?;
        socket.local_addr()
    });
    match asked {
        Ok(from) => Ok(Some(from.ip())),
        Err(error) => match error.raw_os_error() {
            Some(EACCES | EADDRNOTAVAIL | EAFNOSUPPORT | ENETUNREACH) => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn namespace(links: &[(&str, u32, Option<u32>)]) -> BTreeMap<String, Link> {
        links.iter().map(|(name, index, other)| ((*name).to_owned(), Link { index: *index, other: *other })).collect()
    }

    #[test]
    fn only_loopback_and_a_pair_of_its_own_ends_are_accepted() {
        let lo = ("lo", 1, None);
        let (one, other) = (("appfw0", 7, Some(8)), ("appfw1", 8, Some(7)));
        judge(&namespace(&[lo]), false).unwrap();
        judge(&namespace(&[lo, one, other]), true).unwrap();
        for (links, has_pair, sentence) in [
            (&[lo, one, other][..], false, "holds appfw0, appfw1, lo, expected lo alone"),
            (&[lo], true, "holds lo, expected appfw0, appfw1, lo"),
            (&[lo, ("eth0", 2, None)], false, "holds eth0, lo, expected lo alone"),
            (&[lo, one, other, ("eth0", 2, None)], true, "holds appfw0, appfw1, eth0, lo, expected"),
            // Ends in another namespace, or of other pairs.
            (&[lo, ("appfw0", 7, None), other], true, "the other end of appfw0 is not in"),
            (&[lo, one, ("appfw1", 8, Some(9))], true, "the other end of appfw1 is not in"),
        ] {
            let message = judge(&namespace(links), has_pair).unwrap_err().to_string();
            assert!(message.contains(sentence), "{message}");
        }
    }

    #[test]
    fn a_pair_of_ours_has_both_its_ends_here() {
        crate::inside::network::in_namespace(|| {
            judge(&links().unwrap(), false).unwrap();
            crate::inside::network::set_up(Capture::Off).unwrap();
            judge(&links().unwrap(), true).unwrap();
            leads_nowhere(Capture::Off).unwrap();
            let missing = leads_nowhere(Capture::Streams).unwrap_err().to_string();
            assert!(missing.starts_with("nothing is captured"), "{missing}");
        });
    }

    #[test]
    fn captured_ways_are_told_from_ways_out() {
        crate::inside::network::in_namespace(|| {
            crate::inside::network::set_up(Capture::Streams).unwrap();
            let out = leads_nowhere(Capture::Off).unwrap_err().to_string();
            assert!(out.starts_with("there is a way to 192.0.2.1"), "{out}");
            let unheard = leads_nowhere(Capture::Streams).unwrap_err().to_string();
            assert!(unheard.starts_with("nothing listens at 0.0.0.0:1081"), "{unheard}");
            let _both = std::net::TcpListener::bind("0.0.0.0:1081").unwrap();
            let unheard = leads_nowhere(Capture::Streams).unwrap_err().to_string();
            assert!(unheard.starts_with("nothing listens at [::]:1081"), "{unheard}");
        });
    }
}
