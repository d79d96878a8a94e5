//! The launcher whose child this forwarder is: it hands the sockets over, hears what happens, and is
//! ended with.

use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as Std;

use anyhow::{Context, Result, bail};
use tokio::net::UnixStream;

use crate::control;

/// The connection to it, at standard input, and the sockets to serve.
///
/// # Errors
/// It isn't there.
pub(super) fn handed() -> Result<(Std, Vec<OwnedFd>)> {
    let launcher = control::from_stdin()?;
    let mut sockets = Vec::new();
    if control::receive_with(&launcher, &mut sockets)? != [control::ACKNOWLEDGED] {
        bail!("standard input is not the launcher, who hands the sockets over");
    }
    Ok((launcher, sockets))
}

/// Waits for its end.
///
/// # Errors
/// It can't be waited for.
pub(super) async fn ended(launcher: Std) -> Result<()> {
    let failed = "cannot tell whether the launcher is there";
    launcher.set_nonblocking(true).context(failed)?;
    let launcher = UnixStream::from_std(launcher).context(failed)?;
    loop {
        launcher.readable().await.context(failed)?;
        match launcher.try_read(&mut [0; 16]) {
            Ok(0) => return Ok(()),
            // It says nothing more.
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Ok(()),
        }
    }
}
