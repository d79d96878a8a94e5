//! A connection by a program that knows no proxy, to the address where the service itself would be.

use std::io;

use tokio::net::TcpStream;

use crate::destination::Destination;

/// It, and where it wants to go. Nothing is read of it: the server may be the one who speaks first.
pub(in crate::forward) struct Forwarded {
    pub(in crate::forward) client: TcpStream,
    pub(in crate::forward) destination: Destination,
}

impl Forwarded {
    /// The client was connected before it was known whether it would be served. Of all that there is to
    /// say then, a reset comes closest to "connection refused".
    pub(super) fn refuse(self) -> io::Result<()> {
        self.client.set_zero_linger()
    }
}
