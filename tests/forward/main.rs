//! The forwarder with real sockets on 127.0.0.1, in this process, on ports that the kernel picks.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod hostile;
mod lab;
mod peers;
mod rebinding;
mod refusals;
mod relay;
mod rules;
mod upstreams;
