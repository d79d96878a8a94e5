//! The process that filters: outside the wall, as the caller, no longer than the launcher.

use std::ffi::OsStr;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{Buses, SOCKET, arguments};

/// How long it may take until it listens.
const STARTS: Duration = Duration::from_secs(5);

/// A running proxy. It ends with this, and with this process however that comes: it watches the other end of
/// `_life`.
#[derive(Debug)]
pub struct Proxy {
    _life: UnixStream,
    process: Child,
}

impl Proxy {
    /// Starts what the plan's app needs, its socket in `state`, the launch's directory.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(buses: &Buses, state: &Path) -> Result<Option<Self>> {
        let Buses::Filtered { address, program, own } = buses else { return Ok(None) };
        let failed = || format!("cannot start {}; use --dbus none, or repair it", program.display());
        let (mut life, theirs) = UnixStream::pair().with_context(failed)?;
        // xdg-dbus-proxy(1): a byte when it listens; it ends when the other side is closed.
        let process = Command::new(program)
            .arg("--fd=0")
            .arg(address)
            .arg(state.join(SOCKET))
            .args(arguments(own))
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::inherit())
            .spawn()
            .with_context(failed)?;
        life.set_read_timeout(Some(STARTS)).with_context(failed)?;
        let heard = life.read(&mut [0]);
        let proxy = Self { _life: life, process };
        match heard {
            Ok(1..) => Ok(Some(proxy)),
            Ok(0) => bail!("{} ended at once: is there a bus at {}?", program.display(), address.display()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                bail!("{} does not come up within {} s", program.display(), STARTS.as_secs())
            }
            Err(error) => Err(error).with_context(failed),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The first of the names that somebody on the bus has; or would, for all that can be told of a bus that does
/// not answer.
pub async fn held(address: &OsStr, names: &[String]) -> Option<String> {
    if names.is_empty() {
        return None;
    }
    let asked = async {
        let bus = zbus::connection::Builder::address(address.to_str()?).ok()?.build().await.ok()?;
        let dbus = zbus::fdo::DBusProxy::new(&bus).await.ok()?;
        for name in names {
            let bus_name = zbus::names::BusName::try_from(name.as_str()).ok()?;
            if dbus.name_has_owner(bus_name).await.ok()? {
                return Some(Some(name.clone()));
            }
        }
        Some(None)
    };
    match tokio::time::timeout(STARTS, asked).await {
        Ok(Some(held)) => held,
        Ok(None) | Err(_) => names.first().cloned(),
    }
}
