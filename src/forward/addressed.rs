//! Datagrams with both their addresses. A socket at every address has none of its own: to which one a datagram
//! was sent the kernel tells beside it, and an answer must come from there, or it is no answer.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo, sockaddr_in6};
use nix::sys::socket::sockopt::{Ipv4OrigDstAddr, Ipv4PacketInfo, Ipv6OrigDstAddr, Ipv6RecvPacketInfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, SockaddrIn6, SockaddrStorage, recvmsg, sendmsg,
    setsockopt,
};
use rustix::net::sockopt::set_ipv6_freebind;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// A datagram that has come, less its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) length: usize,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// A socket whose datagrams say to which of its addresses they were sent.
pub(super) struct Addressed {
    socket: UdpSocket,
    port: u16,
}

impl Addressed {
    /// Has the kernel tell of `socket` to which address each datagram was sent, for answers from there.
    pub(super) fn answering(socket: UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        if address.is_ipv6() {
            setsockopt(&socket, Ipv6RecvPacketInfo, &true)?;
            // An address that is here only by a route is taken for nobody's (ipv6(7) lacks it; ip(7): IP_FREEBIND).
            set_ipv6_freebind(&socket, true)?;
        } else {
            setsockopt(&socket, Ipv4PacketInfo, &true)?;
        }
        Ok(Self { port: address.port(), socket })
    }

    /// Has the kernel tell of `socket`, which is transparent, where each datagram was to go, port included.
    pub(super) fn captured(socket: UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        match address.is_ipv6() {
            true => setsockopt(&socket, Ipv6OrigDstAddr, &true)?,
            false => setsockopt(&socket, Ipv4OrigDstAddr, &true)?,
        }
        Ok(Self { port: address.port(), socket })
    }

    /// The port that it is bound to.
    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Reads the next datagram into `buffer`; what does not fit is lost.
    pub(super) async fn receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        self.socket.async_io(Interest::READABLE, || self.try_receive(buffer)).await
    }

    fn try_receive(&self, buffer: &mut [u8]) -> io::Result<Received> {
        // The longest that can come: an address with a port.
        let mut control = cmsg_space!(sockaddr_in6);
        let mut pieces = [IoSliceMut::new(buffer)];
        let flags = MsgFlags::MSG_DONTWAIT;
        let message = recvmsg::<SockaddrStorage>(self.socket.as_raw_fd(), &mut pieces, Some(&mut control), flags)?;
        let destination = message.cmsgs()?.find_map(|told| self.destination(&told));
        let source = message.address.as_ref().and_then(address_of);
        let (Some(source), Some(destination)) = (source, destination) else {
            return Err(io::Error::other("a datagram came without its addresses"));
        };
        Ok(Received { length: message.bytes, source, destination })
    }

    fn destination(&self, told: &ControlMessageOwned) -> Option<SocketAddr> {
        Some(match told {
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                SocketAddr::new(Ipv4Addr::from(info.ipi_addr.s_addr.to_ne_bytes()).into(), self.port)
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                SocketAddr::new(Ipv6Addr::from(info.ipi6_addr.s6_addr).into(), self.port)
            }
            ControlMessageOwned::Ipv4OrigDstAddr(address) => SocketAddrV4::from(SockaddrIn::from(*address)).into(),
            ControlMessageOwned::Ipv6OrigDstAddr(address) => SocketAddrV6::from(SockaddrIn6::from(*address)).into(),
            _ => return None,
        })
    }

    /// Answers who sent `asked`, from where that was sent to.
    pub(super) async fn answer(&self, answer: &[u8], asked: &Received) -> io::Result<()> {
        self.socket.async_io(Interest::WRITABLE, || self.try_answer(answer, asked)).await
    }

    fn try_answer(&self, answer: &[u8], asked: &Received) -> io::Result<()> {
        let (fd, pieces, flags) = (self.socket.as_raw_fd(), [IoSlice::new(answer)], MsgFlags::MSG_DONTWAIT);
        let to = SockaddrStorage::from(asked.source);
        let sent = match asked.destination.ip() {
            IpAddr::V4(address) => {
                let ipi_spec_dst = in_addr { s_addr: u32::from_ne_bytes(address.octets()) };
                let from = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst, ipi_addr: in_addr { s_addr: 0 } };
                sendmsg(fd, &pieces, &[ControlMessage::Ipv4PacketInfo(&from)], flags, Some(&to))
            }
            IpAddr::V6(address) => {
                let ipi6_addr = in6_addr { s6_addr: address.octets() };
                let from = in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                sendmsg(fd, &pieces, &[ControlMessage::Ipv6PacketInfo(&from)], flags, Some(&to))
            }
        };
        sent.map(drop).map_err(io::Error::from)
    }
}

fn address_of(storage: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = storage.as_sockaddr_in().map(|address| SocketAddrV4::from(*address).into());
    v4.or_else(|| storage.as_sockaddr_in6().map(|address| SocketAddrV6::from(*address).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends from a client at `from`, by a socket at `at`, to `to`, and back.
    async fn there_and_back(at: &str, from: &str, to: &str) -> (Received, SocketAddr) {
        let server = Addressed::answering(UdpSocket::bind(at).await.unwrap()).unwrap();
        let client = UdpSocket::bind(from).await.unwrap();
        client.send_to(b"hello", (to.parse::<IpAddr>().unwrap(), server.port())).await.unwrap();
        let mut buffer = [0; 16];
        let received = server.receive(&mut buffer).await.unwrap();
        assert_eq!((&buffer[..received.length], received.source), (&b"hello"[..], client.local_addr().unwrap()));
        server.answer(b"yes", &received).await.unwrap();
        let (length, answerer) = client.recv_from(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"yes");
        (received, answerer)
    }

    #[tokio::test]
    async fn an_answer_comes_from_the_address_that_was_asked() {
        for (at, from, to) in [
            ("0.0.0.0:0", "127.0.0.1:0", "127.3.2.1"),
            ("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1"),
            ("[::]:0", "[::1]:0", "::1"),
            ("[::1]:0", "[::1]:0", "::1"),
        ] {
            let (received, answerer) = there_and_back(at, from, to).await;
            assert_eq!((received.destination, answerer.ip()), (answerer, to.parse().unwrap()), "{at}");
        }
    }

    #[tokio::test]
    async fn a_socket_for_both_families_answers_both() {
        let server = Addressed::answering(UdpSocket::bind("[::]:0").await.unwrap()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        client.send_to(b"hello", ("127.3.2.1", server.port())).await.unwrap();
        let received = server.receive(&mut [0; 16]).await.unwrap();
        server.answer(b"yes", &received).await.unwrap();
        let (_, answerer) = client.recv_from(&mut [0; 16]).await.unwrap();
        assert_eq!(answerer, SocketAddr::from(([127, 3, 2, 1], server.port())));
    }
}
