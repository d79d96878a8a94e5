//! Programs that know no proxy, in a network namespace of their own where all that they send is captured. Needs root.

use std::sync::Arc;
use std::time::Duration;

use appfw::dns::Dns;
use appfw::forward::{Forwarder, Limits};
use hickory_proto::rr::RecordType;
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::dns::{address, hear_framed, query, say_framed};
use crate::lab::*;
use namespace::{ALL, BUT_DNS, Namespace};

mod datagrams;
mod handed;
mod namespace;
mod streams;

/// A namespace that is led to a forwarder of this process.
fn start(ports: &str, forwarder: Forwarder) -> Option<Namespace> {
    let namespace = Namespace::capturing(ports)?;
    let forwarder = Arc::new(forwarder.with_dns(Dns::Synthetic, Vec::new()).unwrap());
    namespace.lead_to(&forwarder);
    namespace.lead_proxy_to(&forwarder);
    if ports == BUT_DNS {
        namespace.lead_dns_to(&forwarder);
    }
    Some(namespace)
}

/// What a program's resolver finds by asking `server`, which answers it itself.
async fn resolve(namespace: &Namespace, server: &str, name: &str, kind: RecordType) -> std::net::IpAddr {
    let socket = namespace.udp(if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" });
    // Connected, the kernel takes an answer from nobody else.
    socket.connect(server).await.unwrap();
    socket.send(&query(name, kind).to_vec().unwrap()).await.unwrap();
    let answer = receive(&socket).await;
    address(&hickory_proto::op::Message::from_vec(&answer).unwrap())
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = vec![0; 65_536];
    let length = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("no answer").unwrap();
    buffer.truncate(length);
    buffer
}
