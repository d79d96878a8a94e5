//! One question to the kernel by netlink(7), and its answer.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use netlink_packet_core::{
    NLM_F_REQUEST, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, sockopt};
use nix::sys::time::TimeVal;

/// An answer about one socket or one route, its attributes included, is some 300 bytes long.
const ANSWER_BYTES: usize = 8 * 1024;
/// The kernel answers within the send; the receive time-out is for a kernel that lies.
const ANSWER_SECONDS: i64 = 1;

/// The kernel's answer to `question`, or the error that it gives instead.
///
/// # Errors
/// The kernel cannot be asked.
pub fn ask<M>(protocol: SockProtocol, question: M) -> io::Result<Result<M, io::Error>>
where
    M: NetlinkSerializable + NetlinkDeserializable,
{
    let socket: OwnedFd = socket::socket(AddressFamily::Netlink, SockType::Datagram, SockFlag::SOCK_CLOEXEC, protocol)?;
    socket::setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER_SECONDS, 0))?;
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(question));
    message.finalize();
    let mut buffer = vec![0; message.buffer_len().max(ANSWER_BYTES)];
    message.serialize(&mut buffer[..]);
    socket::send(socket.as_raw_fd(), &buffer[..message.buffer_len()], MsgFlags::empty())?;

    let count = socket::recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
    match NetlinkMessage::<M>::deserialize(&buffer[..count]).map_err(io::Error::other)?.payload {
        NetlinkPayload::InnerMessage(answer) => Ok(Ok(answer)),
        NetlinkPayload::Error(error) => Ok(Err(error.to_io())),
        _ => Err(io::Error::other("the kernel's answer is of an unknown kind")),
    }
}
