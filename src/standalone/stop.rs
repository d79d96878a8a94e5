//! Ends a launch that no systemd keeps.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::time::{Instant, sleep};

use super::descendants;
use crate::state::Running;

const PAUSE: Duration = Duration::from_millis(20);
/// In which the launcher tidies up when its app is over.
const TIDYING: Duration = Duration::from_secs(5);

/// Asks the app to end by its launcher, who passes the signal on, and ends all when `patience` is over.
///
/// # Errors
/// The launcher is another user's.
pub async fn stop(running: &Running, patience: Duration) -> Result<()> {
    signal(running.launcher, Signal::SIGTERM)?;
    if over(running, patience).await {
        return Ok(());
    }
    // With `inside` the whole namespace ends, and the launcher takes it as the app's end.
    for child in descendants(running.launcher).into_iter().filter(|pid| is_inside(*pid)) {
        signal(child, Signal::SIGKILL)?;
    }
    if over(running, TIDYING).await {
        return Ok(());
    }
    // It is stopped, or hangs: then `inside` tidies up.
    signal(running.launcher, Signal::SIGKILL)
}

async fn over(running: &Running, patience: Duration) -> bool {
    let deadline = Instant::now() + patience;
    while running.is_running() {
        if Instant::now() > deadline {
            return false;
        }
        sleep(PAUSE).await;
    }
    true
}

/// One that has ended by now needs none.
fn signal(pid: u32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(i32::try_from(pid)?), signal) {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(error) => Err(anyhow::anyhow!("cannot end process {pid}: {}", error.desc())),
    }
}

fn is_inside(pid: u32) -> bool {
    let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    words.split(|byte| *byte == 0).nth(1) == Some(b"inside")
}
