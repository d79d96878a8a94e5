//! `appfw confine`: a service that is installed already gets a wall by a drop-in, and units that serve it. Its own file
//! is never touched, and taking the drop-in away again leaves everything as it was.
//!
//! ```text
//! SERVICE ── service (D-Bus) ── refuse ── plan ─┬─ dropin   ─▶ SERVICE.d/zz-appfw.conf ─┐
//!                                               └─ servants ─▶ appfw-NAME-forward.*      ├─ installed
//!                                                              /etc/appfw/…              ┘
//! each start of SERVICE ── `appfw ready` ── the same again, compared ── the proof
//! ```

pub mod dropin;
pub mod exec;
pub mod listeners;
pub mod options;
pub mod paths;
pub mod refuse;
pub mod service;

mod alias;
mod files;
mod install;
mod list;
mod own;
mod proven;
mod ready;
mod remains;
mod servants;
mod streams;
mod tree;
mod unconfine;
mod unit_file;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::name::{self, LaunchName};

pub use files::Files;
pub use install::run;
pub use list::{marks, services};
pub use ready::ready;
pub use servants::{Servants, maker};
pub use unconfine::undo;

/// Where an administrator's units are (systemd.unit(5)).
const UNITS: &str = "/etc/systemd/system";

/// Last by name, so that no drop-in but one made to come later changes what it says.
const DROP_IN: &str = "zz-appfw.conf";

/// Our own configuration.
const OWN: &str = "/etc/appfw";

/// The files that confined services see in the place of the host's.
const CONFINED: &str = "/etc/appfw/confined";

/// Upstreams with a password.
const CREDENTIALS: &str = "/etc/appfw/credentials";

/// The name of what serves `service`.
///
/// # Errors
/// It is too long.
pub fn name_of(service: &str) -> Result<LaunchName> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_.-".contains(c) { c } else { '_' };
    let stem = service.trim_end_matches(".service");
    let name: String = stem.chars().map(plain).collect();
    // What no option begins with.
    let name = name.strip_prefix('-').map_or_else(|| name.clone(), |rest| format!("_{rest}"));
    if name.len() > name::MAX {
        bail!("{service} has a name of more than {} characters, and what serves it would be called by that", name::MAX);
    }
    LaunchName::new(&name).with_context(|| {
        format!("what serves {service} would be called by its name, which cannot be: confine it under another one (a unit file of its own with the same settings)")
    })
}

/// The drop-in of `service`.
#[must_use]
pub fn drop_in_path(service: &str) -> PathBuf {
    drop_in_in(Path::new(UNITS), service)
}

/// The same below another directory of units.
fn drop_in_in(units: &Path, service: &str) -> PathBuf {
    units.join(format!("{service}.d")).join(DROP_IN)
}

/// The directory of the files that what is called so sees in the place of the host's.
fn confined(name: &LaunchName) -> PathBuf {
    Path::new(CONFINED).join(name.to_string())
}

#[cfg(test)]
mod tests;
