//! DNS over real sockets: what is answered, what is refused, and what a synthetic address leads to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use appfw::dns::Dns;
use appfw::forward::{Limits, serve, serve_datagrams, serve_streams};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::lab::*;

mod hostile;
mod resolver;
mod synthetic;

/// A forwarder with DNS: the addresses of its proxy and of its DNS.
async fn resolving(via: &str, allowed: &[&str], dns: &str) -> (SocketAddr, SocketAddr) {
    let forwarder = forwarder(via, allowed, Limits::default());
    let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
    let forwarder = Arc::new(forwarder.with_dns(dns.parse::<Dns>().unwrap(), allowed).unwrap());
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_address = proxy.local_addr().unwrap();
    let (streams, datagrams) = on_both().await;
    let address = streams.local_addr().unwrap();
    tokio::spawn(serve(proxy, Arc::clone(&forwarder), std::future::pending()));
    tokio::spawn(serve_datagrams(datagrams, Arc::clone(&forwarder)));
    tokio::spawn(serve_streams(streams, forwarder));
    (proxy_address, address)
}

pub fn query(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(0x1234, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn client(dns: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns).await.unwrap();
    socket
}

async fn receive(socket: &UdpSocket) -> Message {
    let mut buffer = vec![0; 65536];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no answer").unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn ask_message(dns: SocketAddr, message: &Message) -> Message {
    let socket = client(dns).await;
    socket.send(&message.to_vec().unwrap()).await.unwrap();
    let answer = receive(&socket).await;
    assert_eq!((answer.id, answer.message_type), (message.id, MessageType::Response));
    answer
}

async fn ask(dns: SocketAddr, name: &str, kind: RecordType) -> Message {
    ask_message(dns, &query(name, kind)).await
}

async fn ask_by_tcp(dns: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(dns).await.unwrap();
    say_framed(&mut stream, &message.to_vec().unwrap()).await;
    hear_framed(&mut stream).await
}

pub async fn say_framed(stream: &mut TcpStream, message: &[u8]) {
    let length = u16::try_from(message.len()).unwrap();
    stream.write_all(&[&length.to_be_bytes(), message].concat()).await.unwrap();
}

pub async fn hear_framed(stream: &mut TcpStream) -> Message {
    let length = timeout(PATIENCE, stream.read_u16()).await.expect("no answer").unwrap();
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

pub fn address(answer: &Message) -> IpAddr {
    match answer.answers.iter().map(|record| &record.data).collect::<Vec<_>>()[..] {
        [RData::A(address)] => address.0.into(),
        [RData::AAAA(address)] => address.0.into(),
        _ => panic!("not one address: {answer}"),
    }
}
