//! appfw-run: run a program whose only way to the network is a forwarder on a dedicated address.
//!
//! ```text
//! argv ── cli ── plan ─┬─ confinement ─┬─ units ─┬─ transient (D-Bus) ─▶ launch ─▶ exit code
//!                      └─ environment ─┘         └─ files (text)
//!        app ─▶ forward (listener ─▶ request ─▶ destination ─▶ upstream ─▶ relay)
//! ```

pub mod cli;
pub mod destination;
pub mod forward;
pub mod tor;
pub mod via;
