//! Where a running service listens: what a wall of its own would take from its clients.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// States of /proc/net/{tcp,udp} (include/net/tcp_states.h): a stream socket that listens, a datagram socket that is
/// not connected.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// A socket that others find.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Listener {
    /// Whether it takes connections or datagrams.
    pub is_stream: bool,
    /// Where.
    pub address: SocketAddr,
    /// Who has it: the name and number of a process.
    pub process: (String, u32),
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, number) = &self.process;
        let protocol = if self.is_stream { "TCP" } else { "UDP" };
        write!(f, "{protocol} {} ({name}, process {number})", self.address)
    }
}

/// Where these processes listen, each address once. `proc` is /proc. What ends meanwhile is left out.
#[must_use]
pub fn of(proc: &Path, processes: &[u32]) -> Vec<Listener> {
    let ephemeral = fs::read_to_string(proc.join("sys/net/ipv4/ip_local_port_range")).unwrap_or_default();
    let ephemeral = ephemeral.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32768);
    let mut found: BTreeMap<(bool, SocketAddr), Listener> = BTreeMap::new();
    for number in processes {
        let process = proc.join(number.to_string());
        let sockets = sockets(&process);
        let name = fs::read_to_string(process.join("comm")).unwrap_or_default().trim_end().to_owned();
        for (table, is_stream) in [("tcp", true), ("tcp6", true), ("udp", false), ("udp6", false)] {
            let text = fs::read_to_string(process.join("net").join(table)).unwrap_or_default();
            for (address, _) in listening(&text, is_stream, ephemeral).filter(|(_, inode)| sockets.contains(inode)) {
                let listener = Listener { is_stream, address, process: (name.clone(), *number) };
                found.entry((is_stream, address)).or_insert(listener);
            }
        }
    }
    found.into_values().collect()
}

/// The `--publish` for each of them, if that is all they need: it carries TCP alone, and a socket of all IPv6 addresses
/// takes IPv4 as well (ipv6(7), IPV6_V6ONLY) unless another one has that port.
#[must_use]
pub fn published(found: &[Listener], proc: &Path) -> Option<String> {
    const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    if !found.iter().all(|listener| listener.is_stream) {
        return None;
    }
    let table = fs::read_to_string(proc.join("net/tcp")).unwrap_or_default();
    let has_v4 = |port: u16| listening(&table, true, 0).any(|(address, _)| address.port() == port);
    let addresses = found.iter().flat_map(|Listener { address, .. }| {
        let takes_v4 = address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED) && !has_v4(address.port());
        takes_v4.then(|| SocketAddr::new(ANY, address.port())).into_iter().chain([*address])
    });
    Some(addresses.map(|address| format!("--publish {address}")).collect::<Vec<_>>().join(" "))
}

/// The inodes of a process's sockets.
fn sockets(process: &Path) -> BTreeSet<u64> {
    let Ok(descriptors) = fs::read_dir(process.join("fd")) else { return BTreeSet::new() };
    let links = descriptors.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let inode = |link: std::path::PathBuf| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    links.filter_map(inode).collect()
}

/// The listening sockets of one of the kernel's tables: address and inode (proc_net_tcp(5)). A datagram socket at a port
/// that the kernel gives away by itself is most likely a client's.
fn listening(table: &str, is_stream: bool, ephemeral: u16) -> impl Iterator<Item = (SocketAddr, u64)> {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let address = address(fields.get(1)?)?;
        let state = *fields.get(3)?;
        let is_found = if is_stream { state == LISTEN } else { state == UNCONNECTED && address.port() < ephemeral };
        Some((address, fields.get(9)?.parse().ok()?)).filter(|_| is_found)
    })
}

/// As the kernel prints it: each 32 bits of the address as a number of this machine's byte order.
fn address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for place in (0..address.len()).step_by(8) {
        let word = address.get(place..place + 8)?;
        bytes.extend(u32::from_str_radix(word, 16).ok()?.to_ne_bytes());
    }
    let ip: IpAddr = match bytes.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn where_a_process_listens_is_told_with_its_name() {
        let stream = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream6 = TcpListener::bind("[::1]:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = of(Path::new("/proc"), &[std::process::id()]);
        for listener in [&stream, &stream6] {
            let address = listener.local_addr().unwrap();
            let one = found.iter().find(|found| found.address == address).unwrap();
            assert!(one.to_string().starts_with(&format!("TCP {address} (")), "{one}");
        }
        assert!(!found.iter().any(|found| found.address == client.local_addr().unwrap()), "{found:?}");
        assert_eq!(of(Path::new("/proc"), &[u32::MAX]), []);
    }

    #[test]
    fn a_datagram_service_is_told_from_a_client() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            1: 00000000:0035 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 11 2 x 0\n\
            2: 00000000:D431 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 12 2 x 0\n\
            3: 0100007F:0035 0100007F:1234 01 00000000:00000000 00:00000000 00000000 0 0 13 2 x 0\n";
        let found: Vec<_> = listening(table, false, 32768).collect();
        assert_eq!(found, [("0.0.0.0:53".parse().unwrap(), 11)]);
    }
}
