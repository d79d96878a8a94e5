//! Whose units these are: the system's, which are root's, or an ordinary user's own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use zbus::Connection;

use super::ROOT;
use super::rendering::Directories;
use crate::host::{Host, refuse_writable};
use crate::manager::{self, Manager};

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
    /// The machine cannot be looked at; an ordinary user has no home.
    pub async fn of_caller() -> Result<Self> {
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

    /// The bus that its systemd is on.
    ///
    /// # Errors
    /// It can't be reached, or there is none.
    pub async fn connect(&self) -> Result<Connection> {
        if self.is_systems() {
            return manager::connect().await;
        }
        let own = self.host.user_bus.as_deref().context(
            "an ordinary user's units are their own systemd's, and it is not here ($XDG_RUNTIME_DIR/bus): log in, or sudo appfw unit … --uid USER",
        )?;
        manager::connect_to(own).await
    }

    /// Its systemd.
    ///
    /// # Errors
    /// It doesn't answer.
    pub async fn manager<'a>(&self, bus: &'a Connection) -> Result<Manager<'a>> {
        let manager = Manager::new(bus).await?;
        Ok(if self.is_systems() { manager } else { manager.of_user() })
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
