//! The app's network namespace, with the sockets that are made in it for the forwarder.

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener as StdListener, UdpSocket as StdSocket};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::sync::Arc;

use appfw::forward::{Forwarder, Raw, serve, serve_captured, serve_captured_datagrams, serve_datagrams};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::socket::{setsockopt, sockopt::IpTransparent};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// What leads everything into the loopback, and from there to the transparent sockets: a local route makes every
/// address the namespace's own. The second interface leads nowhere.
const ROUTES: &str = "ip link set lo up && ip link add appfw0 type veth peer name appfw1 && ip link set appfw0 up \
    && ip link set appfw1 up && ip route add local default dev lo src 127.100.90.50 && ip -6 route add local default dev lo";
const RULES: &str = "table inet appfw {
    chain prerouting {
        type filter hook prerouting priority mangle
        ip daddr != 127.0.0.0/8 tcp flags & (syn|ack) == syn tproxy ip to :1081 accept
        ip6 daddr != ::1 tcp flags & (syn|ack) == syn tproxy ip6 to :1081 accept
        ip daddr != 127.0.0.0/8 udp dport PORTS tproxy ip to :1081 accept
        ip6 daddr != ::1 udp dport PORTS tproxy ip6 to :1081 accept
    }
}";
/// Of UDP, but for DNS, whose own sockets are at every address.
pub const BUT_DNS: &str = "!= 53";
pub const ALL: &str = "0-65535";

/// Where what is captured is led to, and where the forwarder is found by who knows it.
const CAPTURED: u16 = 1081;
pub const DEDICATED: [u8; 4] = [127, 100, 90, 50];

/// A network namespace; it ends with the last socket in it.
pub struct Namespace(File);

impl Namespace {
    /// One where TCP is captured, and UDP to `ports`; `None` without root.
    pub fn capturing(ports: &str) -> Option<Self> {
        let made = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).ok()?;
            File::open("/proc/thread-self/ns/net").ok()
        });
        let Some(made) = made.join().unwrap() else {
            assert!(std::env::var_os("APPFW_MUST_WORK").is_none(), "APPFW_MUST_WORK is set, but this may not unshare");
            eprintln!("skipped: needs root, who may make a network namespace");
            return None;
        };
        let namespace = Self(made);
        namespace.run(ROUTES);
        namespace.run(&format!("nft '{}'", RULES.replace("PORTS", ports)));
        Some(namespace)
    }

    /// Does something by a thread in it.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let enter = || {
            setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            work()
        };
        std::thread::scope(|scope| scope.spawn(enter).join().unwrap())
    }

    fn run(&self, script: &str) {
        let done = self.within(|| Command::new("sh").args(["-c", script]).stdin(Stdio::null()).output().unwrap());
        assert!(done.status.success(), "{script}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn socket(&self, is_v6: bool, kind: SocketType) -> OwnedFd {
        let family = if is_v6 { AddressFamily::INET6 } else { AddressFamily::INET };
        let protocol = (kind == SocketType::RAW).then_some(ipproto::RAW);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        self.within(|| socket_with(family, kind, flags, protocol).unwrap())
    }

    /// A socket at every address of a family, as `inside` makes it.
    fn anywhere(&self, is_v6: bool, kind: SocketType, port: u16) -> OwnedFd {
        let socket = self.socket(is_v6, kind);
        setsockopt(&socket, IpTransparent, &true).unwrap();
        let address = if is_v6 {
            sockopt::set_ipv6_v6only(&socket, true).unwrap();
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))
        } else {
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))
        };
        bind(&socket, &address).unwrap();
        if kind == SocketType::STREAM {
            listen(&socket, 4096).unwrap();
        }
        socket
    }

    /// The transparent listener.
    pub fn listener(&self, is_v6: bool) -> StdListener {
        self.anywhere(is_v6, SocketType::STREAM, CAPTURED).into()
    }

    /// The transparent socket for datagrams, and the raw one for its answers.
    pub fn datagrams(&self, is_v6: bool) -> (StdSocket, OwnedFd) {
        (self.anywhere(is_v6, SocketType::DGRAM, CAPTURED).into(), self.socket(is_v6, SocketType::RAW))
    }

    pub fn dns(&self, is_v6: bool) -> StdSocket {
        self.anywhere(is_v6, SocketType::DGRAM, 53).into()
    }

    pub fn proxy(&self) -> StdListener {
        self.within(|| StdListener::bind((Ipv4Addr::from(DEDICATED), 1080)).unwrap())
    }

    /// Leads all of it to `forwarder`, but for DNS, in this process.
    pub fn lead_to(&self, forwarder: &Arc<Forwarder>) {
        for is_v6 in [false, true] {
            let listener = TcpListener::from_std(self.listener(is_v6)).unwrap();
            tokio::spawn(serve_captured(listener, Arc::clone(forwarder)));
            let (socket, raw) = self.datagrams(is_v6);
            let (socket, raw) = (UdpSocket::from_std(socket).unwrap(), Raw::new(raw).unwrap());
            tokio::spawn(serve_captured_datagrams(socket, raw, Arc::clone(forwarder)));
        }
    }

    pub fn lead_proxy_to(&self, forwarder: &Arc<Forwarder>) {
        let listener = self.proxy();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        tokio::spawn(serve(listener, Arc::clone(forwarder), std::future::pending()));
    }

    pub fn lead_dns_to(&self, forwarder: &Arc<Forwarder>) {
        for is_v6 in [false, true] {
            tokio::spawn(serve_datagrams(UdpSocket::from_std(self.dns(is_v6)).unwrap(), Arc::clone(forwarder)));
        }
    }

    /// A program's connection.
    pub async fn connect(&self, to: &str) -> std::io::Result<TcpStream> {
        let to: SocketAddr = to.parse().unwrap();
        let socket = self.socket(to.is_ipv6(), SocketType::STREAM);
        TcpSocket::from_std_stream(socket.into()).connect(to).await
    }

    /// A program's socket for datagrams, with what anybody may ask of the kernel to get any address.
    pub fn udp(&self, at: &str) -> UdpSocket {
        let at: SocketAddr = at.parse().unwrap();
        let socket = self.socket(at.is_ipv6(), SocketType::DGRAM);
        match at {
            SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true).unwrap(),
            SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true).unwrap(),
        }
        bind(&socket, &at).unwrap();
        UdpSocket::from_std(socket.into()).unwrap()
    }
}
