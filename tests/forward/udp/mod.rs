//! UDP ASSOCIATE over real sockets: what arrives where, and what does not.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use appfw::forward::Limits;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::lab::*;

mod bounds;
mod direct;
mod log;
pub mod upstream;

/// One association and its client.
struct Client {
    control: TcpStream,
    relay: SocketAddr,
    socket: UdpSocket,
}

/// Asks for an association for datagrams from `source`; the reply's code if it is refused.
async fn asked(forwarder: SocketAddr, source: &[u8]) -> Result<(TcpStream, SocketAddr), u8> {
    let mut control = TcpStream::connect(forwarder).await.unwrap();
    control.write_all(&[&[5, 1, 0, 5, 3, 0], source].concat()).await.unwrap();
    let mut reply = [0; 12];
    timeout(PATIENCE, control.read_exact(&mut reply)).await.expect("no reply").unwrap();
    let [5, 0, 5, code, 0, 1, a, b, c, d, high, low] = reply else { panic!("{reply:?}") };
    if code != 0 {
        return Err(code);
    }
    Ok((control, SocketAddr::from(([a, b, c, d], u16::from_be_bytes([high, low])))))
}

const ANY_SOURCE: &[u8] = b"\x01\0\0\0\0\0\0";

impl Client {
    async fn new(forwarder: SocketAddr) -> Self {
        Self::with(forwarder, UdpSocket::bind("127.0.0.1:0").await.unwrap(), ANY_SOURCE).await
    }

    async fn with(forwarder: SocketAddr, socket: UdpSocket, source: &[u8]) -> Self {
        let (control, relay) = asked(forwarder, source).await.unwrap();
        assert_eq!(relay, forwarder);
        Self { control, relay, socket }
    }

    async fn send(&self, to: &[u8], payload: &str) {
        self.say(&[&[0, 0, 0], to, payload.as_bytes()].concat()).await;
    }

    async fn say(&self, datagram: &[u8]) {
        self.socket.send_to(datagram, self.relay).await.unwrap();
    }

    /// From where the next datagram says that it is, and its payload.
    async fn receive(&self) -> (Vec<u8>, String) {
        let mut buffer = vec![0; 65_536];
        let received = timeout(PATIENCE, self.socket.recv_from(&mut buffer)).await.expect("no datagram");
        let (length, from) = received.unwrap();
        assert_eq!(from, self.relay);
        assert_eq!(buffer[..3], [0, 0, 0]);
        let address = match buffer[3] {
            1 => 7,
            4 => 19,
            3 => 4 + usize::from(buffer[4]),
            other => panic!("{other}"),
        };
        let payload = String::from_utf8_lossy(&buffer[3 + address..length]).into_owned();
        (buffer[3..3 + address].to_vec(), payload)
    }
}

/// A destination as the protocol writes it.
fn ip(address: SocketAddr) -> Vec<u8> {
    let host = match address.ip() {
        IpAddr::V4(ip) => [&[1][..], &ip.octets()].concat(),
        IpAddr::V6(ip) => [&[4][..], &ip.octets()].concat(),
    };
    [&host[..], &address.port().to_be_bytes()].concat()
}

/// The same by name.
fn name(name: &str, port: u16) -> Vec<u8> {
    [&[3, u8::try_from(name.len()).unwrap()], name.as_bytes(), &port.to_be_bytes()].concat()
}

/// What a server received, and from whom.
pub type Heard = Arc<Mutex<Vec<(String, SocketAddr)>>>;

fn payloads(heard: &Heard) -> Vec<String> {
    heard.lock().unwrap().iter().map(|(payload, _)| payload.clone()).collect()
}

/// Echoes at `at`, and remembers.
async fn echo_at(at: SocketAddr) -> (SocketAddr, Heard) {
    let socket = UdpSocket::bind(at).await.unwrap();
    let address = socket.local_addr().unwrap();
    let heard = Heard::default();
    let kept = Arc::clone(&heard);
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            kept.lock().unwrap().push((String::from_utf8_lossy(&buffer[..length]).into_owned(), from));
            let _ = socket.send_to(&buffer[..length], from).await;
        }
    });
    (address, heard)
}

pub async fn udp_echo() -> (SocketAddr, Heard) {
    echo_at("127.0.0.1:0".parse().unwrap()).await
}

async fn start_udp(via: &str, allowed: &[&str]) -> SocketAddr {
    run_with_relay(forwarder(via, allowed, Limits::default())).await
}

/// Whether the forwarder ends the association by itself.
async fn is_ended(client: &mut Client) -> bool {
    matches!(timeout(PATIENCE, client.control.read(&mut [0; 1])).await, Ok(Ok(0) | Err(_)))
}
