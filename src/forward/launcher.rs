//! The launcher: it hands sockets over that it was handed itself, hears what happens, and a forwarder that
//! is its child ends with it.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as Std;
use std::path::Path;

use anyhow::{Context, Result, bail};
use sd_notify::NotifyState;
use tokio::net::UnixStream;

use super::Reporter;
use crate::control;

/// What comes of it.
pub(crate) struct Launcher {
    pub(crate) reporter: Reporter,
    /// To be served, beside those of LISTEN_FDS.
    pub(crate) sockets: Vec<OwnedFd>,
    /// The via whose password stands in no file.
    pub(crate) specs: Vec<String>,
    /// The connection that this forwarder ends with, where no systemd ends it.
    pub(crate) lifeline: Option<Std>,
}

impl Launcher {
    /// Connects to it where it is, by `report` or at standard input, and takes what is `handed` over.
    ///
    /// # Errors
    /// It isn't there.
    pub(crate) fn meet(report: Option<&Path>, handed: bool) -> Result<Self> {
        let Some(path) = report else {
            if !handed {
                return Ok(Self::to_hear(Reporter::default()));
            }
            let launcher = control::from_stdin()?;
            let (sockets, specs) = taken(&launcher)?;
            let reporter = Reporter::to(launcher.try_clone().context("cannot duplicate a descriptor")?)?;
            return Ok(Self { reporter, sockets, specs, lifeline: Some(launcher) });
        };
        // Those of a forwarder that died come back from the manager that keeps them (sd_notify(3), FDSTORE).
        if !handed || std::env::var_os("LISTEN_FDS").is_some() {
            return Ok(Self::to_hear(Reporter::connect(path)?));
        }
        let launcher = Std::connect(path).context("cannot connect to the launcher, who hands the sockets over")?;
        let (sockets, specs) = taken(&launcher)?;
        let borrowed: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
        sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::Custom("FDPOLL=0")], &borrowed)
            .context("cannot have the sockets kept by systemd")?;
        Ok(Self { sockets, specs, ..Self::to_hear(Reporter::to(launcher)?) })
    }

    /// One that hears, and hands nothing over.
    fn to_hear(reporter: Reporter) -> Self {
        Self { reporter, sockets: Vec::new(), specs: Vec::new(), lifeline: None }
    }
}

fn taken(launcher: &Std) -> Result<(Vec<OwnedFd>, Vec<String>)> {
    let mut sockets = Vec::new();
    let hello = control::receive_with(launcher, &mut sockets)?;
    match hello.split_first() {
        Some((&control::ACKNOWLEDGED, specs)) => {
            let specs = std::str::from_utf8(specs).context("the launcher's via is no text")?;
            Ok((sockets, specs.lines().map(str::to_owned).collect()))
        }
        _ => bail!("this is not the launcher, who hands the sockets over"),
    }
}

/// Waits for its end.
///
/// # Errors
/// It can't be waited for.
pub(crate) async fn ended(launcher: Std) -> Result<()> {
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
