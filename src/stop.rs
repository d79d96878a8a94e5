//! `appfw stop NAME`: ends a launch and all its processes.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use nix::sys::signal::Signal;

use crate::host::Host;
use crate::manager::{self, Kind, Manager, Who, is_transient};
use crate::name::LaunchName;
use crate::plan::Supervisor;
use crate::say::Say;
use crate::standalone;
use crate::state::{self, Running};

/// How long the app may take after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(50);

/// [`stop`], from a program without a runtime yet.
///
/// # Errors
/// Those of [`stop`].
pub fn run(name: &str) -> Result<()> {
    manager::block_on(stop(name))
}

/// Asks the app to end, waits for it, and stops its unit.
///
/// # Errors
/// This is behind a wall; there is no such launch; systemd refuses.
pub async fn stop(name: &str) -> Result<()> {
    standalone::refuse_managing()?;
    let name = LaunchName::new(name)?;
    let host = Host::read(Path::new("/"))?;
    let bases = state::bases(Path::new("/"), &host)?;
    if let Some(running) = bases.iter().find_map(|base| Running::find(base, &name)) {
        return standalone::stop(&running, PATIENCE).await;
    }
    if !host.booted {
        bail!(absent(&name));
    }
    let unit = name.app();
    let of_user = bases.iter().find(|base| state::supervisor(base, &name) == Some(Supervisor::User));
    let bus = match of_user {
        // Where the user's systemd is, the launch's state is as well.
        Some(base) => manager::connect_to(&base.with_file_name("bus")).await?,
        None => manager::connect().await?,
    };
    let manager = Manager::new(&bus).await?;
    if is_over(&manager, &unit).await? {
        bail!(absent(&name));
    }
    if manager.file_of(&unit).await.is_some_and(|path| !is_transient(&path)) {
        // Else it would be started again.
        return manager.patient(Say::of_appfw(false, false)).stop(&unit).await;
    }
    manager.kill(&unit, Who::All, Signal::SIGTERM as i32).await?;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while tokio::time::Instant::now() < deadline {
        if is_over(&manager, &unit).await? {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    manager.stop(&unit).await
}

fn absent(name: &LaunchName) -> String {
    format!("there is no launch {name}; appfw-run --unit {name} … would start one")
}

async fn is_over(manager: &Manager<'_>, unit: &str) -> Result<bool> {
    let state = manager.property(unit, Kind::Unit, "ActiveState").await?;
    Ok(matches!(<&str>::try_from(&state), Ok("inactive" | "failed")))
}
