//! Whose units these are: the system's, which are root's, or an ordinary user's own.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use zbus::Connection;

use super::ROOT;
use super::rendering::Directories;
use crate::host::{Host, refuse_writable};
use crate::manager::{self, Manager};
use crate::say::Say;
use crate::standalone;

/// A systemd, and where the files of its units are.
pub struct Realm {
    /// This machine, as the caller sees it.
    pub host: Host,
    /// Where the files are.
    pub directories: Directories,
}

impl Realm {
    /// The caller's.
    ///
    /// # Errors
    /// This is behind a wall; the machine cannot be looked at; an ordinary user has no home.
    pub async fn of_caller() -> Result<Self> {
        standalone::refuse_managing()?;
        let mut host = Host::read(Path::new(ROOT))?;
        if !host.caller.is_root() {
            let directories = Directories::of_user(&host, Path::new(ROOT))?;
            return Ok(Self { host, directories });
        }
        if let Ok(bus) = manager::connect().await {
            host.systemd = manager::version(&bus).await;
        }
        Ok(Self { host, directories: Directories::of_system(Path::new(ROOT)) })
    }

    /// Whether it is the system's.
    #[must_use]
    pub fn is_systems(&self) -> bool {
        self.host.caller.is_root()
    }

    /// What is run at each start: by PID 1 as root; of a user before the wall, where the app of the start before could
    /// have put another program in its place.
    ///
    /// # Errors
    /// Somebody else could, or the app.
    pub fn expect_own_program(&self) -> Result<()> {
        refuse_writable(&self.host.appfw)
    }

    /// Held by who changes its units' files, one after the other; waits for that.
    ///
    /// # Errors
    /// The file for it can't be made.
    pub fn alone(&self, say: &Say) -> Result<Option<Flock<File>>> {
        let runtime = match self.is_systems() {
            true => Some(Path::new(ROOT).join("run")),
            // Without a bus nothing is changed.
            false => self.host.user_bus.as_deref().and_then(Path::parent).map(Path::to_owned),
        };
        let Some(path) = runtime.map(|runtime| runtime.join("appfw.lock")) else { return Ok(None) };
        let failed = || format!("cannot lock {}, by which one appfw at a time changes units", path.display());
        // What others could open, they could hold for ever.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(OFlag::O_NOFOLLOW.bits());
        let file = options.open(&path).with_context(failed)?;
        let locked = Flock::lock(file, FlockArg::LockExclusiveNonblock).or_else(|(file, error)| {
            if error != Errno::EWOULDBLOCK {
                return Err(error);
            }
            say.plain("waits for another appfw, which changes units just now");
            Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| error)
        });
        locked.map(Some).with_context(failed)
    }

    /// The bus that its systemd is on.
    ///
    /// # Errors
    /// It can't be reached, or there is none.
    pub async fn connect(&self) -> Result<Connection> {
        match self.own_bus()? {
            Some(own) => manager::connect_to(own).await,
            None => manager::connect().await,
        }
    }

    /// A user's own bus.
    fn own_bus(&self) -> Result<Option<&Path>> {
        if self.is_systems() {
            return Ok(None);
        }
        let own = self.host.user_bus.as_deref().context(
            "an ordinary user's units and services are their own systemd's, and it is not here ($XDG_RUNTIME_DIR/bus): log in as that user, which su and sudo do not",
        )?;
        Ok(Some(own))
    }

    /// # Errors
    /// There is no systemd for its units.
    pub fn expect_systemd(&self) -> Result<()> {
        self.own_bus().map(drop)
    }

    /// Its systemd.
    ///
    /// # Errors
    /// It doesn't answer.
    pub async fn manager<'a>(&self, bus: &'a Connection) -> Result<Manager<'a>> {
        let manager = Manager::new(bus).await?;
        Ok(if self.is_systems() { manager } else { manager.of_user() })
    }

    /// Whether that reads the files that are to be written: its environment may be another than the caller's.
    ///
    /// # Errors
    /// It doesn't.
    pub async fn expect_read(&self, manager: &Manager<'_>) -> Result<()> {
        let units = &self.directories.units;
        let read = manager.unit_path().await?;
        ensure!(
            read.iter().any(|place| Path::new(place) == units),
            "your systemd reads no units in {}, where XDG_CONFIG_HOME puts them: say env -u XDG_CONFIG_HOME appfw …, or set it for user@{}.service and log in anew",
            units.display(),
            self.host.caller.uid
        );
        Ok(())
    }

    /// The command that asks it.
    #[must_use]
    pub fn systemctl(&self) -> &'static str {
        if self.is_systems() { "systemctl" } else { "systemctl --user" }
    }

    /// When its units start by themselves.
    #[must_use]
    pub fn when(&self) -> String {
        let user = &self.host.caller.name;
        match self.is_systems() || PathBuf::from(ROOT).join("var/lib/systemd/linger").join(user).exists() {
            true => "is started at every boot".to_owned(),
            false => format!(
                "is started when {user} logs in, and ends with the last session (loginctl enable-linger {user}: at every boot)"
            ),
        }
    }
}
