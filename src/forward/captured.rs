//! Connections that were captured: a program made them to go elsewhere, and the network of its namespace leads
//! them to a transparent listener, where each one's own end still has the address that it was made to.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};

use crate::destination::Destination;

use super::failure::Failure;
use super::{Forwarder, Purpose, accept};

/// Leads every connection to `listener`, which is transparent, to where it was to go, for ever.
pub async fn serve_captured(listener: TcpListener, forwarder: Arc<Forwarder>) {
    let Ok(address) = listener.local_addr() else { return };
    accept(listener, Purpose::Captured { port: address.port() }, forwarder, std::future::pending()).await;
}

/// Where `client` was to go, who came by a listener at `port`; `None` if that is nowhere, and it is told so.
pub(super) fn asked(forwarder: &Forwarder, client: &TcpStream, port: u16) -> Option<Destination> {
    let destination = client.local_addr().map_err(|error| Failure::system("a captured connection", &error));
    match destination.and_then(|address| destination_of(address, port)) {
        Ok(destination) => Some(destination),
        Err(failure) => {
            forwarder.log_wrong(&failure);
            // As "connection refused" as can be, for one that is connected.
            let _ = client.set_zero_linger();
            None
        }
    }
}

/// What was sent to `address`, and captured by a socket at `port`, is for. The namespace's own loopback is not
/// captured: who comes from there came to the socket itself, and nobody is to be dialled at that.
pub(super) fn destination_of(address: SocketAddr, port: u16) -> Result<Destination, Failure> {
    let ip = address.ip().to_canonical();
    if ip.is_loopback() && address.port() == port {
        let message = format!("{address} is for what is captured on its way elsewhere, and was asked for itself");
        return Err(Failure::malformed(message));
    }
    Destination::from_ip(ip, address.port()).map_err(|error| Failure::malformed(format!("{error:#}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_where_to_go_unless_it_is_the_listeners_own() {
        for (address, destination) in [
            ("192.0.2.1:80", Some("192.0.2.1:80")),
            ("192.0.2.1:1081", Some("192.0.2.1:1081")),
            ("[2001:db8::1]:443", Some("[2001:db8::1]:443")),
            ("[::ffff:192.0.2.1]:80", Some("192.0.2.1:80")),
            ("127.0.0.1:80", Some("127.0.0.1:80")),
            ("192.0.2.1:0", None),
            ("127.100.90.50:1081", None),
            ("[::1]:1081", None),
            ("[::ffff:127.0.0.1]:1081", None),
        ] {
            let found = destination_of(address.parse().unwrap(), 1081);
            assert_eq!(found.ok().map(|found| found.to_string()).as_deref(), destination, "{address}");
        }
    }
}
