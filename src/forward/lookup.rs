//! Lookups by this host's resolver. It blocks, so each has a thread, and there are so many at once.

use std::io;
use std::net::IpAddr;

use dns_lookup::{AddrInfoHints, LookupError, LookupErrorKind, SockType, getaddrinfo, lookup_addr};
use fast_socks5::ReplyError;
use nix::libc::{AF_INET, AF_INET6, AF_UNSPEC, EAI_NODATA};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::failure::Failure;
use super::limits::{LOOKUP_WAIT, LOOKUPS};

const HOSTS: &str = "/etc/hosts";

/// Of the process, as its threads are.
static PLACES: Semaphore = Semaphore::const_new(LOOKUPS);

/// Which addresses are wanted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
    Both,
}

/// The addresses of exactly `name`, none where it has none of this family; `None` where there is no such name.
///
/// A resolver completes a relative name by its search list (resolv.conf(5)), to one that no rule has seen. So it
/// is given an absolute one, and /etc/hosts, where names have no dot at their end, is read here.
pub(super) async fn addresses(name: &str, family: Family) -> Result<Option<Vec<IpAddr>>, Failure> {
    let asked = name.to_owned();
    let look_up = move || match in_hosts(&hosts()?, &asked) {
        listed if listed.is_empty() => found(getaddrinfo(Some(&format!("{asked}.")), None, Some(hints(family)))),
        listed => Ok(Some(listed.into_iter().filter(|address| is_of(*address, family)).collect())),
    };
    on_thread(name, look_up).await?.map_err(|error| failed(name, &error))
}

/// What the file says. Where it can't be read, the names in it must not go to a resolver.
fn hosts() -> io::Result<Vec<u8>> {
    match std::fs::read(HOSTS) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read,
    }
}

/// The addresses of what the user calls `name` on this host, search list and all.
pub(super) async fn addresses_by_search(name: &str) -> Result<Option<Vec<IpAddr>>, Failure> {
    let asked = name.to_owned();
    let look_up = move || found(getaddrinfo(Some(&asked), None, Some(hints(Family::Both))));
    on_thread(name, look_up).await?.map_err(|error| failed(name, &error))
}

/// The name of `address`.
pub(super) async fn name_of(address: IpAddr) -> Result<String, Failure> {
    let looked_up = on_thread(&address, move || lookup_addr(&address)).await?;
    looked_up.map_err(|error| unresolved(format!("{address} has no name: {}", io::Error::from(error))))
}

/// "It cannot be resolved."
pub(super) fn unresolved(message: String) -> Failure {
    Failure { reply: ReplyError::HostUnreachable, ..Failure::general(message) }
}

fn failed(name: &str, error: &io::Error) -> Failure {
    unresolved(format!("{name} cannot be resolved: {error}"))
}

/// Runs `look_up` on a thread, once there is a place for it.
async fn on_thread<T: Send + 'static>(
    what: &(impl ToString + ?Sized),
    look_up: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let place = match timeout(LOOKUP_WAIT, PLACES.acquire()).await {
        Ok(place) => place,
        Err(_) => {
            let message = format!("{} is not looked up: too many lookups wait for their answers", what.to_string());
            return Err(Failure { status: 503, ..unresolved(message) });
        }
    };
    // Nobody can stop a lookup: it keeps its place until it is over, whoever still waits for it.
    let looking_up = spawn_blocking(move || {
        let _place = place;
        look_up()
    });
    looking_up.await.map_err(|error| Failure::general(format!("{} cannot be looked up: {error}", what.to_string())))
}

/// By getaddrinfo(3), for its error codes: the standard library's lookup does not tell a name that
/// there isn't from a resolver that doesn't answer.
fn found(
    answer: Result<impl Iterator<Item = io::Result<dns_lookup::AddrInfo>>, LookupError>,
) -> io::Result<Option<Vec<IpAddr>>> {
    match answer {
        Ok(found) => Ok(Some(found.flatten().map(|found| found.sockaddr.ip()).collect())),
        // The name is there, but not with an address of this family.
        Err(error) if error.error_num() == EAI_NODATA => Ok(Some(Vec::new())),
        Err(error) if matches!(error.kind(), LookupErrorKind::NoName) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn hints(family: Family) -> AddrInfoHints {
    let address = match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
        Family::Both => AF_UNSPEC,
    };
    AddrInfoHints { address, socktype: SockType::Stream.into(), ..AddrInfoHints::default() }
}

fn is_of(address: IpAddr, family: Family) -> bool {
    match family {
        Family::V4 => address.is_ipv4(),
        Family::V6 => address.is_ipv6(),
        Family::Both => true,
    }
}

/// The addresses that hosts(5) gives a name.
fn in_hosts(hosts: &[u8], name: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|word| word.eq_ignore_ascii_case(name)).then_some(address)
    };
    String::from_utf8_lossy(hosts).lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_read_as_the_resolver_does() {
        let hosts =
            b"# 192.0.2.1 db\n192.0.2.2\tweb.test  DB db2 # 192.0.2.9 db3\n2001:db8::2 db\n192.0.2.300 db\n\xff db\n";
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        for (name, listed) in [
            ("db", &["192.0.2.2", "2001:db8::2"][..]),
            ("db2", &["192.0.2.2"]),
            ("web.test", &["192.0.2.2"]),
            ("db3", &[]),
            ("192.0.2.2", &[]),
            ("web", &[]),
        ] {
            assert_eq!(in_hosts(hosts, name), addresses(listed), "{name}");
        }
    }

    #[tokio::test]
    async fn a_listed_name_has_the_addresses_of_its_line_and_no_others() {
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(addresses("localhost", Family::V4).await.unwrap(), Some(vec![loopback]));
        assert!(addresses("localhost", Family::V6).await.unwrap().unwrap().iter().all(IpAddr::is_ipv6));
        assert!(addresses("localhost", Family::Both).await.unwrap().unwrap().contains(&loopback));
    }
}
