//! Whose connection it is. In the address wall everybody on the host can connect to the forwarder;
//! only the app's own cgroup is served.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload, Nla as _};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponse, SocketId, StateFlags};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::TimeVal;

/// include/uapi/linux/inet_diag.h; the crate stops before it.
const INET_DIAG_CGROUP_ID: u16 = 21;
/// INET_DIAG_NOCOOKIE: any socket with these addresses.
const NO_COOKIE: [u8; 8] = [0xff; 8];
/// An answer about one socket, its attributes included, is some 300 bytes long.
const ANSWER_BYTES: usize = 8 * 1024;
/// The kernel answers within the send; the receive time-out is for a kernel that lies.
const ANSWER_SECONDS: i64 = 1;
/// Directories looked through below the app's own. An app that makes more has itself to blame.
const MAX_CGROUPS: usize = 4096;

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// The app.
    App,
    /// Somebody else on this host.
    Stranger,
    /// Nobody any more, or nobody that the kernel can tell.
    Gone,
}

/// Lets one cgroup in, and what is below it.
#[derive(Debug)]
pub struct PeerWall {
    cgroup: PathBuf,
}

impl PeerWall {
    /// A wall around the cgroup directory `cgroup`, which need not exist yet.
    pub fn new(cgroup: PathBuf) -> Self {
        Self { cgroup }
    }

    /// Who made the socket at the other end of a connection.
    ///
    /// A socket keeps the cgroup it was made in. The directory is read anew each time: the unit
    /// restarts with another one, and the app makes sub-cgroups as it likes.
    pub fn peer(&self, client: SocketAddr, local: SocketAddr) -> io::Result<Peer> {
        match cgroup_of(client, local)? {
            Some(id) if contains(&self.cgroup, id)? => Ok(Peer::App),
            Some(_) => Ok(Peer::Stranger),
            None => Ok(Peer::Gone),
        }
    }
}

/// Whether `id` is the inode of `directory`, or of one below it; cgroup2 uses it as the cgroup's id.
fn contains(directory: &Path, id: u64) -> io::Result<bool> {
    let mut left = vec![directory.to_owned()];
    for _ in 0..MAX_CGROUPS {
        let Some(directory) = left.pop() else { break };
        match std::fs::metadata(&directory) {
            Ok(metadata) if metadata.ino() == id => return Ok(true),
            Ok(_) => {}
            // It went while we looked: nobody is in it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        }
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let entries = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        left.extend(entries.map(|entry| entry.path()));
    }
    Ok(false)
}

/// The id of the cgroup that made the socket bound to `client` and connected to `local`.
fn cgroup_of(client: SocketAddr, local: SocketAddr) -> io::Result<Option<u64>> {
    let request = InetRequest {
        family: if client.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id: SocketId {
            source_port: client.port(),
            destination_port: local.port(),
            source_address: client.ip(),
            destination_address: local.ip(),
            interface_id: 0,
            cookie: NO_COOKIE,
        },
    };
    let Some(response) = ask(request)? else { return Ok(None) };
    // Where the exact socket is gone the kernel may answer with a listener on its port.
    let found = &response.header.socket_id;
    let pair = (found.source_address, found.source_port, found.destination_address, found.destination_port);
    if pair != (client.ip(), client.port(), local.ip(), local.port()) {
        return Ok(None);
    }
    let id = response.nlas.iter().find(|nla| nla.kind() == INET_DIAG_CGROUP_ID);
    Ok(id.and_then(|nla| {
        let mut value = [0; 8];
        (nla.value_len() == value.len()).then(|| nla.emit_value(&mut value))?;
        Some(u64::from_ne_bytes(value))
    }))
}

/// One question to the kernel's socket diagnostics, and its answer; `None` if there is no such socket.
fn ask(request: InetRequest) -> io::Result<Option<InetResponse>> {
    let socket: OwnedFd = socket::socket(
        AddressFamily::Netlink,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )?;
    socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut buffer = vec![0; message.buffer_len().max(ANSWER_BYTES)];
    message.serialize(&mut buffer[..]);
    socket::send(socket.as_raw_fd(), &buffer[..message.buffer_len()], MsgFlags::empty())?;

    let count = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    let answer = NetlinkMessage::<SockDiagMessage>::deserialize(&buffer[..count]).map_err(io::Error::other)?;
    match answer.payload {
        NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(response)) => Ok(Some(*response)),
        NetlinkPayload::Error(error) => match error.to_io() {
            error if error.kind() == io::ErrorKind::NotFound => Ok(None),
            error => Err(error),
        },
        _ => Err(io::Error::other("the kernel's answer about a socket is of an unknown kind")),
    }
}
