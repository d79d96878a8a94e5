//! The proof that the wall stands, from inside, without privileges and without waiting for
//! time-outs: systemd applies every network setting on a best-effort basis and carries on without
//! (src/core/cgroup.c, exec-invoke.c), so that nothing but traffic shows whether it is there.
//! Nothing sent here can leave the machine: targets are loopback, or the socket is tied to lo. None of the sockets is bound
//! to an address or a port, which the app may be kept from (`SocketBindDeny=`): the kernel chooses when something is sent.

mod namespace;

use std::ffi::OsString;
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::libc::{in_addr, in_pktinfo};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, SockaddrIn, sendmsg, setsockopt, socket, sockopt,
};

use crate::cli::{InsideArgs, WallKind};
use crate::name::unified_cgroup;
use crate::network::IpLists;
use crate::sock_diag;

/// The discard port: nothing is expected to listen where the probes go.
const DISCARD: u16 = 9;
/// How long an answer over loopback may take on a machine under load.
const PATIENCE: Duration = Duration::from_secs(5);

const NO_SOCKET: &str = "cannot make a socket for the proof";

const NOT_IN_FORCE: &str = "the kernel or a container keeps systemd from attaching its BPF filter (docs/troubleshooting.md), so nothing was run";

/// Proves what `args` expect.
///
/// # Errors
/// One sentence that says what is open and what to do. The app must then not run.
pub fn prove(args: &InsideArgs) -> Result<()> {
    let lists = IpLists { allow: args.allow.clone(), deny: args.deny.clone() };
    if let Some(cgroup) = &args.cgroup {
        own_cgroup(cgroup)?;
    }
    if args.wall != WallKind::Address {
        let has_pair = args.wall == WallKind::Namespace && (args.build || args.forwarder.is_some());
        namespace::is_closed(args.outside, has_pair)?;
    }
    private_users(args.outside_user)?;
    if args.wall == WallKind::Namespace {
        // It has no filter: there is nothing to keep out.
        namespace::leads_nowhere(args.capture)?;
    } else {
        egress(&lists, args)?;
        ingress(&lists, args)?;
    }
    if let Some(address) = args.forwarder {
        forwarder(address.into())?;
    }
    Ok(())
}

/// This process is in a network namespace that holds nothing yet, and not in `outside`.
///
/// # Errors
/// Nothing may be made here.
pub fn is_new(outside: u64) -> Result<()> {
    namespace::is_closed(Some(outside), false)
}

/// Nothing leads out of this process's network namespace, whether its network was made already or not.
///
/// # Errors
/// Something may.
pub fn is_apart() -> Result<()> {
    namespace::is_closed(None, true).or_else(|_| namespace::is_closed(None, false))
}

/// PAM and AttachProcessesToUnit move processes out of the cgroup that is filtered.
fn own_cgroup(expected: &str) -> Result<()> {
    let text = std::fs::read_to_string("/proc/self/cgroup").context("cannot tell the own cgroup")?;
    match unified_cgroup(&text) {
        Some(path) if path.ends_with(expected) => Ok(()),
        Some(path) => bail!("the app was moved to the cgroup {path}, which has no wall; expected {expected}"),
        None => bail!(
            "there is no unified cgroup hierarchy, which the wall needs: boot with systemd.unified_cgroup_hierarchy=1"
        ),
    }
}

/// Without a user namespace of its own the app reaches the same user's other processes.
fn private_users(outside: Option<u64>) -> Result<()> {
    let own = std::fs::metadata("/proc/self/ns/user").context("cannot tell the own user namespace")?.ino();
    if outside == Some(own) {
        bail!(
            "systemd gave the app no user namespace, so it could act through other programs of its user; user namespaces are not permitted here (user.max_user_namespaces, a container?), so nothing was run"
        );
    }
    Ok(())
}

/// Datagrams to denied addresses must be refused with EPERM.
fn egress(lists: &IpLists, args: &InsideArgs) -> Result<()> {
    if let Some(canary) = args.canary {
        // An unconfined datagram must not leave the machine either.
        expect_denied(&tied_to_loopback()?, IpAddr::V4(canary))?;
    }
    let own = neighbour(args.forwarder, lists).map(IpAddr::V4);
    // Where ::1 is open there is no other address of version 6 that leads nowhere else: without a route
    // the kernel has its own error before the filter is asked.
    let v6 = Some(IpAddr::V6(Ipv6Addr::LOCALHOST)).filter(|v6| !lists.passes(*v6));
    for target in own.into_iter().chain(v6) {
        match datagrams(target) {
            Ok(socket) => expect_denied(&socket, target)?,
            // No IPv6 on this machine, or none for this namespace.
            Err(error) if target.is_ipv6() && no_family(&error) => {}
            Err(error) => return Err(error).context(NO_SOCKET),
        }
    }
    Ok(())
}

/// For datagrams to such an address.
fn datagrams(target: IpAddr) -> io::Result<UdpSocket> {
    let family = if target.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    Ok(socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?.into())
}

fn tied_to_loopback() -> Result<UdpSocket> {
    let socket = datagrams(Ipv4Addr::LOCALHOST.into()).context(NO_SOCKET)?;
    setsockopt(&socket, sockopt::BindToDevice, &OsString::from("lo")).context("cannot tie a socket to lo")?;
    Ok(socket)
}

fn expect_denied(socket: &UdpSocket, target: IpAddr) -> Result<()> {
    match socket.send_to(&[0], SocketAddr::new(target, DISCARD)) {
        Err(error) if error.raw_os_error() == Some(nix::libc::EPERM) => Ok(()),
        Err(error) if target.is_ipv6() && no_family(&error) => Ok(()),
        Ok(_) => bail!("{target} is open though it is denied: {NOT_IN_FORCE}"),
        Err(error) => bail!("{target} is not denied by the filter ({error}): {NOT_IN_FORCE}"),
    }
}

fn no_family(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(|code| {
        // ENETUNREACH isn't among them: an unfiltered v6 stack may say that, too.
        [nix::libc::EAFNOSUPPORT, nix::libc::EADDRNOTAVAIL].contains(&code)
    })
}

/// The two directions are two programs, attached one by one. A datagram from a denied source is
/// sent first, one from an allowed source second, both to an allowed address: over loopback the
/// order holds, so if the second arrives first, the first was dropped. Shown where the lists have
/// such a pair of loopback addresses.
fn ingress(lists: &IpLists, args: &InsideArgs) -> Result<()> {
    let Some(allowed) = args.forwarder.map(|address| *address.ip()) else { return Ok(()) };
    let Some(denied) = neighbour(args.forwarder, lists).filter(|_| lists.passes(IpAddr::V4(allowed))) else {
        return Ok(());
    };
    let socket = tied_to_loopback()?;
    socket.set_read_timeout(Some(PATIENCE)).context(NO_SOCKET)?;
    let dropped = |what: String| match args.filtered {
        true => format!(
            "{what}: --ingress-filter and --egress-filter must let datagrams of the app's loopback pass, by which the wall is proven"
        ),
        false => what,
    };
    let cannot_send = || dropped("cannot send over the app's loopback".to_owned());
    // By this the socket gets the port to which the others go.
    socket.send_to(&[0], (allowed, DISCARD)).with_context(cannot_send)?;
    let port = socket.local_addr().context(NO_SOCKET)?.port();
    let target = SocketAddrV4::new(allowed, port);
    send_from(&socket, denied, target).with_context(cannot_send)?;
    send_from(&socket, allowed, target)
        .with_context(|| dropped(format!("{allowed} is closed though it is allowed")))?;
    let (_, source) =
        socket.recv_from(&mut [0; 1]).with_context(|| dropped(format!("nothing arrives from {allowed}")))?;
    if source.ip() == denied {
        bail!("a datagram from {denied} came in though it is denied: {NOT_IN_FORCE}");
    }
    Ok(())
}

/// A datagram from an address of this machine's that the socket need not have.
fn send_from(socket: &UdpSocket, source: Ipv4Addr, target: SocketAddrV4) -> io::Result<()> {
    let source = in_addr { s_addr: u32::from_ne_bytes(source.octets()) };
    let from = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: source };
    let (text, target) = ([IoSlice::new(&[0])], SockaddrIn::from(target));
    let from = [ControlMessage::Ipv4PacketInfo(&from)];
    sendmsg(socket.as_raw_fd(), &text, &from, MsgFlags::empty(), Some(&target))?;
    Ok(())
}

/// The next loopback address after the forwarder's that the app must not reach. What single addresses
/// are open beside it (`--allow-destination`) never makes up all that are tried.
fn neighbour(forwarder: Option<SocketAddrV4>, lists: &IpLists) -> Option<Ipv4Addr> {
    let own = forwarder.map_or(*crate::plan::ADDRESS.ip(), |address| *address.ip());
    let beside = (1..).map(|step| {
        let [_, a, b, c] = u32::from(own).wrapping_add(step).to_be_bytes();
        Ipv4Addr::new(127, a, b, c)
    });
    // 127.0.0.0 and 127.255.255.255 are broadcast addresses.
    let single = beside.filter(|address| !matches!(address.octets()[3], 0 | 255));
    single.take(lists.allow.len() + 1).find(|address| !lists.passes(IpAddr::V4(*address)))
}

/// The forwarder's socket listens here, in this very namespace. It isn't connected to: the first
/// connection starts the forwarder, and that the way there is open was shown by datagrams.
fn forwarder(address: SocketAddr) -> Result<()> {
    match sock_diag::listens(address) {
        Ok(true) => Ok(()),
        Ok(false) => bail!("nothing listens at {address}: the app is not in the namespace of the forwarder's socket"),
        Err(error) => bail!("cannot tell whether the forwarder's socket is here ({error}), so nothing was run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_neighbour_is_another_loopback_address_that_is_denied() {
        let opened = |list: &[&str]| IpLists::only(list.iter().map(|network| network.parse().unwrap()));
        let beside = |own: &str, lists: &IpLists| {
            neighbour(Some(SocketAddrV4::new(own.parse().unwrap(), 1080)), lists).map(|address| address.to_string())
        };
        assert_eq!(neighbour(None, &opened(&[])), Some(Ipv4Addr::new(127, 100, 90, 51)));
        for (own, allowed, next) in [
            ("127.100.90.50", &[][..], Some("127.100.90.51")),
            ("127.100.90.50", &["127.100.90.51/32", "127.100.90.52/32", "127.0.0.1/32"], Some("127.100.90.53")),
            ("127.100.90.254", &[], Some("127.100.91.1")),
            ("127.255.255.253", &[], Some("127.255.255.254")),
            ("127.255.255.254", &[], Some("127.0.0.1")),
            ("127.255.255.254", &["127.0.0.1/32"], Some("127.0.0.2")),
            ("127.0.0.9", &["127.0.0.0/8"], None),
        ] {
            let own_network = format!("{own}/32");
            let lists = opened(&[&[own_network.as_str()], allowed].concat());
            assert_eq!(beside(own, &lists).as_deref(), next, "{own} {allowed:?}");
        }
        // As many as anybody may open by name, one by one.
        let many: Vec<_> = (50..=254).map(|last| format!("127.100.90.{last}/32")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert_eq!(beside("127.100.90.50", &opened(&many)).as_deref(), Some("127.100.91.1"));
    }

    #[test]
    fn an_open_address_is_told_from_a_denied_one() {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let message = expect_denied(&socket, Ipv4Addr::LOCALHOST.into()).unwrap_err().to_string();
        assert!(message.contains("127.0.0.1 is open though it is denied"), "{message}");
    }

    #[test]
    fn what_comes_in_unfiltered_is_told() {
        let lists = IpLists::only(["127.100.90.50/32".parse().unwrap()]);
        let args = InsideArgs { forwarder: Some(crate::plan::ADDRESS), ..InsideArgs::of(WallKind::Strict) };
        let message = ingress(&lists, &args).unwrap_err().to_string();
        assert!(message.contains("from 127.100.90.51 came in though it is denied"), "{message}");
    }

    #[test]
    fn a_process_elsewhere_is_told() {
        assert!(own_cgroup("/appfw.slice/appfw-x.service").unwrap_err().to_string().contains("no wall"));
    }

    #[test]
    fn a_namespace_without_the_forwarders_socket_is_told() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        forwarder(address).unwrap();
        drop(listener);
        assert!(forwarder(address).unwrap_err().to_string().contains("nothing listens"));
    }
}
