//! The network inside the app's network namespace, made with CAP_NET_ADMIN there, before the app: its
//! loopback, a second interface that leads nowhere, and, with capture, the routes and rules by which every
//! connection arrives at the forwarder's listener. By netlink alone: nothing of /proc/sys is needed, which
//! may be read-only or masked.

mod rules;

use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context, Result};
use netlink_bindings::rt_addr::{self, Ifaddrmsg};
use netlink_bindings::rt_link::{self, Ifinfomsg};
use netlink_bindings::rt_route::{self, Rtmsg};
use netlink_bindings::traits::{NetlinkRequest, Pusher};
use netlink_bindings::utils::{finalize_nested_header, push_header, push_nested_header};
use netlink_socket2::NetlinkSocket;
use nix::libc::{
    AF_INET, AF_INET6, IFF_UP, IFLA_IFNAME, IFLA_INFO_DATA, IFLA_NUM_RX_QUEUES, IFLA_NUM_TX_QUEUES, RT_SCOPE_HOST,
    RT_SCOPE_UNIVERSE, RT_TABLE_LOCAL, RTN_LOCAL, RTPROT_STATIC,
};

use crate::cli::Capture;
use crate::plan::{ADDRESS, PAIR_ADDRESS};

/// The pair's ends. Browsers take a machine for offline that has no interface but loopback.
pub(crate) const PAIR: [Interface; 2] =
    [Interface { name: c"appfw0", index: 0x6170 }, Interface { name: c"appfw1", index: 0x6171 }];

/// Every namespace's own (LOOPBACK_IFINDEX in the kernel's net/net_namespace.h).
const LOOPBACK: u32 = 1;
/// VETH_INFO_PEER (linux/veth.h): the other end, as a whole message of its own.
const VETH_INFO_PEER: u16 = 1;

/// Of each end. Unasked, the kernel makes one for each CPU and takes all but one back, for which it waits for a grace period
/// twice (veth_init_queues, drivers/net/veth.c).
const QUEUES: u32 = 1;

/// IN6_ADDR_GEN_MODE_NONE (linux/if_link.h).
const NO_ADDRESSES: u8 = 1;

/// One of our interfaces. Its number is chosen with it, beyond those that a namespace begins with.
pub(crate) struct Interface {
    pub(crate) name: &'static CStr,
    pub(crate) index: u32,
}

/// Makes the network of this process's network namespace, which must be a new one.
///
/// # Errors
/// Names the step that the kernel refuses. The app must then not run.
pub fn set_up(capture: Capture) -> Result<()> {
    let mut kernel = NetlinkSocket::new();
    up(&mut kernel, LOOPBACK).context("cannot bring up the app's loopback")?;
    pair(&mut kernel)?;
    if capture != Capture::Off {
        routes(&mut kernel)?;
        rules::install(&mut kernel, capture)?;
    }
    Ok(())
}

/// One request, and the kernel's answer.
fn ask(kernel: &mut NetlinkSocket, request: &impl NetlinkRequest) -> io::Result<()> {
    Ok(kernel.request(request)?.recv_ack()?)
}

fn up(kernel: &mut NetlinkSocket, index: u32) -> io::Result<()> {
    let flags = IFF_UP as u32;
    let header = Ifinfomsg { ifi_index: index as i32, ifi_flags: flags, ifi_change: flags, ..Ifinfomsg::new() };
    ask(kernel, &rt_link::Request::new().op_setlink_do(&header))
}

/// A veth pair with both ends here.
fn pair(kernel: &mut NetlinkSocket) -> Result<()> {
    let [one, other] = &PAIR;
    create(kernel, one, other).context("cannot make the app's second interface (a veth pair), so nothing was run")?;
    for end in &PAIR {
        let failed = || format!("cannot bring up the app's second interface, {}", end.name.to_string_lossy());
        // The address that the kernel would give it comes two seconds later, which to browsers is a change
        // of network that ends what they load.
        without_ipv6(no_addresses(kernel, end.index)).with_context(failed)?;
        up(kernel, end.index).with_context(failed)?;
    }
    let header = Ifaddrmsg {
        ifa_family: AF_INET as u8,
        ifa_prefixlen: Ipv4Addr::BITS as u8,
        ifa_scope: RT_SCOPE_UNIVERSE,
        ifa_index: one.index,
        ..Ifaddrmsg::new()
    };
    let mut request = rt_addr::Request::new().set_create().set_excl().op_newaddr_do(&header);
    let address = IpAddr::V4(PAIR_ADDRESS);
    request.encode().push_local(address).push_address(address);
    ask(kernel, &request).context("cannot give the app's second interface its address")
}

fn create(kernel: &mut NetlinkSocket, one: &Interface, other: &Interface) -> io::Result<()> {
    let header = |end: &Interface| Ifinfomsg { ifi_index: end.index as i32, ..Ifinfomsg::new() };
    let mut request = rt_link::Request::new().set_create().set_excl().op_newlink_do(&header(one));
    let named = request.encode().push_ifname(one.name).push_num_tx_queues(QUEUES).push_num_rx_queues(QUEUES);
    let mut information = named.nested_linkinfo().push_kind(c"veth");
    // The kernel's specification, of which the crate is made, stops before this kind's data.
    let bytes = information.as_vec_mut();
    let data = push_nested_header(bytes, IFLA_INFO_DATA);
    let peer = push_nested_header(bytes, VETH_INFO_PEER);
    bytes.extend(header(other).as_slice());
    let name = other.name.to_bytes_with_nul();
    push_header(bytes, IFLA_IFNAME, name.len() as u16);
    bytes.extend(name);
    for kind in [IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES] {
        push_header(bytes, kind, size_of_val(&QUEUES) as u16);
        bytes.extend(QUEUES.to_ne_bytes());
    }
    finalize_nested_header(bytes, peer);
    finalize_nested_header(bytes, data);
    drop(information);
    ask(kernel, &request)
}

/// No IPv6 address that isn't given.
fn no_addresses(kernel: &mut NetlinkSocket, index: u32) -> io::Result<()> {
    let mut request = rt_link::Request::new().op_setlink_do(&Ifinfomsg { ifi_index: index as i32, ..Ifinfomsg::new() });
    request.encode().nested_af_spec().nested_inet6().push_addr_gen_mode(NO_ADDRESSES);
    ask(kernel, &request)
}

/// Every address is this namespace's own: what is sent anywhere arrives on its loopback.
fn routes(kernel: &mut NetlinkSocket) -> Result<()> {
    let failed = "cannot make the routes by which the app's connections are captured; --no-capture does without";
    default_route(kernel, AF_INET, Some(*ADDRESS.ip())).context(failed)?;
    without_ipv6(default_route(kernel, AF_INET6, None)).context(failed)
}

/// `ip route add local default dev lo [src …]`, ahead of whatever the table `main` could have.
fn default_route(kernel: &mut NetlinkSocket, family: i32, source: Option<Ipv4Addr>) -> io::Result<()> {
    let header = Rtmsg {
        rtm_family: family as u8,
        rtm_table: RT_TABLE_LOCAL,
        rtm_protocol: RTPROT_STATIC,
        rtm_scope: RT_SCOPE_HOST,
        rtm_type: RTN_LOCAL,
        ..Rtmsg::new()
    };
    let mut request = rt_route::Request::new().set_create().set_excl().op_newroute_do(&header);
    let mut attributes = request.encode().push_oif(LOOPBACK);
    if let Some(source) = source {
        attributes = attributes.push_prefsrc(source.into());
    }
    drop(attributes);
    ask(kernel, &request)
}

/// Where IPv6 is switched off (the kernel's ipv6.disable=1; net.ipv6.conf.*.disable_ipv6=1) there is nothing
/// to make, and nothing can be sent by it.
fn without_ipv6(result: io::Result<()>) -> io::Result<()> {
    use nix::libc::{EACCES, EAFNOSUPPORT, EOPNOTSUPP};
    result.or_else(|error| match error.raw_os_error() {
        Some(EACCES | EAFNOSUPPORT | EOPNOTSUPP) => Ok(()),
        _ => Err(error),
    })
}

/// Runs `test` in a network namespace of its own, which only root can make in a process of many threads.
#[cfg(test)]
pub(super) fn in_namespace(test: impl FnOnce() + Send + 'static) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("not tried: needs root");
        return;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        test();
    });
    thread.join().unwrap();
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

    use nix::sys::socket::{
        AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
        sockopt,
    };
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::plan::CAPTURE_PORT;

    fn transparent_listener(address: &str) -> TcpListener {
        let address: SocketAddr = address.parse().unwrap();
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let made = socket(family, SockType::Stream, SockFlag::empty(), None).unwrap();
        if address.is_ipv6() {
            setsockopt(&made, sockopt::Ipv6V6Only, &true).unwrap();
        }
        setsockopt(&made, sockopt::IpTransparent, &true).unwrap();
        bind(made.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
        listen(&made, Backlog::new(8).unwrap()).unwrap();
        made.into()
    }

    /// What a datagram's sender is told.
    fn refusal_of_datagram(address: &str) -> Option<i32> {
        let address: SocketAddr = address.parse().unwrap();
        let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        let told = socket.connect(address).and_then(|()| socket.send(b"x")).and_then(|_| socket.recv(&mut [0]));
        told.unwrap_err().raw_os_error()
    }

    /// Whether an echo request is answered.
    fn answers_ping(address: &str) -> bool {
        let address: IpAddr = address.parse().unwrap();
        // Of version 4 the header comes with it.
        let (family, protocol, request, reply, header) = match address.is_ipv4() {
            true => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0, 20),
            false => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129, 0),
        };
        let socket = UdpSocket::from(socket(family, SockType::Raw, SockFlag::empty(), protocol).unwrap());
        socket.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        let mut message = [request, 0, 0, 0, 0, 1, 0, 1];
        if address.is_ipv4() {
            // Its checksum; the kernel's to compute in version 6.
            message[2..4].copy_from_slice(&(!(8_u16 << 8) - 2).to_be_bytes());
        }
        socket.send_to(&message, SocketAddr::new(address, 0)).unwrap();
        let mut received = [0; 64];
        // Requests that come back over loopback are received as well.
        while let Ok(length) = socket.recv(&mut received) {
            if length > header && received[header] == reply {
                return true;
            }
        }
        false
    }

    fn interfaces() -> Vec<String> {
        let named = nix::net::if_::if_nameindex().unwrap();
        named.iter().map(|interface| interface.name().to_string_lossy().into_owned()).collect()
    }

    #[test]
    fn without_capture_there_is_a_second_interface_and_no_way() {
        in_namespace(|| {
            set_up(Capture::Off).unwrap();
            assert_eq!(interfaces(), ["lo", "appfw0", "appfw1"]);
            TcpListener::bind("127.100.90.50:1080").unwrap();
            for address in ["203.0.113.7:443", "192.0.2.51:443", "[2001:db8::7]:443"] {
                let error = TcpStream::connect(address).unwrap_err();
                let unreachable = [nix::libc::ENETUNREACH, nix::libc::EADDRNOTAVAIL];
                assert!(unreachable.contains(&error.raw_os_error().unwrap()), "{address}: {error}");
            }
        });
    }

    #[test]
    fn every_connection_arrives_with_its_destination() {
        in_namespace(|| {
            set_up(Capture::Streams).unwrap();
            let (v4, v6) = (transparent_listener("0.0.0.0:1081"), transparent_listener("[::]:1081"));
            for (address, listener) in [
                ("203.0.113.7:443", &v4),
                ("192.0.2.50:80", &v4),
                ("10.0.0.1:53", &v4),
                ("8.8.8.8:1081", &v4),
                ("[2001:db8::7]:22", &v6),
                ("[fd00::1]:1", &v6),
            ] {
                let mut client = TcpStream::connect(address).unwrap();
                let (mut server, _) = listener.accept().unwrap();
                assert_eq!(server.local_addr().unwrap().to_string(), address);
                let mut read = [0; 4];
                client.write_all(b"asks").unwrap();
                server.read_exact(&mut read).unwrap();
                assert_eq!(&read, b"asks", "{address}");
                server.write_all(b"told").unwrap();
                client.read_exact(&mut read).unwrap();
                assert_eq!(&read, b"told", "{address}");
                drop(client);
                assert_eq!(server.read(&mut [0]).unwrap(), 0, "{address}");
            }
            let client = TcpStream::connect("203.0.113.7:443").unwrap();
            assert_eq!(client.local_addr().unwrap().ip(), *ADDRESS.ip());
            // Its own loopback is its own.
            let own = TcpListener::bind("127.0.0.1:0").unwrap();
            TcpStream::connect(own.local_addr().unwrap()).unwrap();
            own.accept().unwrap();
        });
    }

    #[test]
    fn datagrams_are_refused_at_once_and_nothing_answers_a_ping() {
        in_namespace(|| {
            set_up(Capture::Streams).unwrap();
            for address in ["8.8.8.8:443", "192.0.2.50:443", "[2001:db8::7]:443"] {
                assert_eq!(refusal_of_datagram(address), Some(nix::libc::ECONNREFUSED), "{address}");
            }
            for (address, is_answered) in
                [("8.8.8.8", false), ("192.0.2.50", false), ("2001:db8::7", false), ("127.0.0.1", true), ("::1", true)]
            {
                assert_eq!(answers_ping(address), is_answered, "{address}");
            }
        });
    }

    #[test]
    fn datagrams_are_captured_where_asked_but_for_those_of_dns() {
        in_namespace(|| {
            set_up(Capture::Datagrams).unwrap();
            let captured = UdpSocket::bind(("0.0.0.0", CAPTURE_PORT)).unwrap();
            setsockopt(&captured, sockopt::IpTransparent, &true).unwrap();
            let dns = UdpSocket::bind("0.0.0.0:53").unwrap();
            let client = UdpSocket::bind("0.0.0.0:0").unwrap();
            for (address, socket) in [("8.8.8.8:443", &captured), ("8.8.8.8:53", &dns), ("9.9.9.9:53", &dns)] {
                socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
                client.send_to(address.as_bytes(), address).unwrap();
                let mut buffer = [0; 64];
                let count = socket.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..count], address.as_bytes());
            }
            // Answers come to where the question came from, and not here again.
            let asker = UdpSocket::bind((PAIR_ADDRESS, 0)).unwrap();
            client.send_to(b"answer", asker.local_addr().unwrap()).unwrap();
            asker.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
            assert_eq!(asker.recv(&mut [0; 64]).unwrap(), 6);
        });
    }

    #[test]
    fn a_step_that_fails_is_named() {
        in_namespace(|| {
            set_up(Capture::Streams).unwrap();
            let message = format!("{:#}", set_up(Capture::Streams).unwrap_err());
            assert!(message.starts_with("cannot make the app's second interface"), "{message}");
        });
    }
}
