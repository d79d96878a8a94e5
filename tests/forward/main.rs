//! The forwarder with real sockets on 127.0.0.1, in this process, on ports that the kernel picks.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod broken_hops;
mod captured;
mod chains;
mod dns;
mod endurance;
mod exchanges;
mod hops;
mod hostile;
mod journal;
mod lab;
mod peers;
mod plain;
mod process;
mod rebinding;
mod refusals;
mod relay;
mod rules;
mod services;
mod socks;
mod transfer;
mod udp;
mod upstreams;
