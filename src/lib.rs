//! appfw-run: run a program whose only way to the network is a forwarder on a dedicated address.
//!
//! ```text
//! argv ── cli ─┬─ plan ─┬─ confinement, view ─┬─ units ─┬─ transient (D-Bus) ─▶ launch ─▶ exit code
//!    profile ──┘        └─ environment ───────┘         └─ text    (--dry-run)
//!    permanent, confine: the same plan and units as files ── ready (at each start) ─▶ inside
//!        app ─▶ forward (listener ─▶ peer ─▶ request ─▶ admission ─▶ upstream ─▶ relay)
//! ```
//!
//! Read in this order, the modules are the flow of one launch. The middle (plan, confinement,
//! view, environment, network, units, exit) touches no file, bus or clock.

pub mod cli;

pub mod destination;
pub mod dns;
pub mod name;
pub mod network;
pub mod via;

pub mod profile;

pub mod filters;
pub mod host;
pub mod listening;
pub mod plan;

pub mod browser;
pub mod packaged;

pub mod buses;
pub mod confinement;
pub mod environment;
pub mod session;
pub mod units;
pub mod view;

pub mod confine;
pub mod installed;
pub mod permanent;
pub mod ready;

pub mod address;
pub mod circuits;
pub mod state;
pub mod stdio;
pub mod terminal;

pub mod manager;
pub mod members;
pub mod verify;

pub mod standalone;

pub mod launch;
pub mod say;

pub mod control;
pub mod keeper;
pub mod reception;
pub mod refusals;
pub mod wait;

pub mod lifeline;
pub mod stop;
pub mod taken;

pub mod inside;
mod netlink;
pub mod sock_diag;

pub mod forward;
pub mod publish;
pub mod tor;

pub mod exit;
mod nearest;
mod walk;

// The fake machine of the integration tests, which name this crate from outside.
#[cfg(test)]
extern crate self as appfw;
#[cfg(test)]
#[path = "../tests/fixture/mod.rs"]
mod fixture;
