//! What is asked of a manager about units that are files.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use zbus::zvariant::Value;

use super::{Kind, Manager, NO_SUCH_UNIT, is_named, patiently};

/// Whether a unit's file is one that a manager, the system's or a user's, has written for a launch.
#[must_use]
pub fn is_transient(file: &Path) -> bool {
    file.parent().is_some_and(|directory| directory.ends_with("systemd/transient"))
}

impl Manager<'_> {
    /// Has unit files read again.
    ///
    /// # Errors
    /// systemd refuses.
    pub async fn reload(&self) -> Result<()> {
        patiently(async || self.proxy.reload().await).await.context("systemd does not reload its units")
    }

    /// Has a unit started at every boot, as its `[Install]` says.
    ///
    /// # Errors
    /// systemd refuses.
    pub async fn enable(&self, unit: &str) -> Result<()> {
        let enabled = patiently(async || self.proxy.enable_unit_files(&[unit], false, false).await).await;
        enabled.map(drop).with_context(|| format!("cannot enable {unit}"))
    }

    /// No longer. What isn't there is not enabled.
    ///
    /// # Errors
    /// systemd refuses.
    pub async fn disable(&self, unit: &str) -> Result<()> {
        let disabled = patiently(async || self.proxy.disable_unit_files(&[unit], false).await).await;
        match disabled {
            Err(error) if is_named(&error, NO_SUCH_UNIT) => Ok(()),
            disabled => disabled.map(drop).with_context(|| format!("cannot disable {unit}")),
        }
    }

    /// Whether it is started at every boot.
    pub async fn is_enabled(&self, unit: &str) -> bool {
        self.file_state(unit).await.is_some_and(|state| state == "enabled")
    }

    /// What systemctl(1) calls the state of a unit's file, without loading it; `None` if there is none.
    pub async fn file_state(&self, unit: &str) -> Option<String> {
        patiently(async || self.proxy.get_unit_file_state(unit).await).await.ok()
    }

    /// The directories that unit files are read from.
    ///
    /// # Errors
    /// systemd does not tell.
    pub async fn unit_path(&self) -> Result<Vec<String>> {
        patiently(async || self.proxy.inner().get_property("UnitPath").await)
            .await
            .context("systemd does not tell where it reads units")
    }

    /// The file that a unit is loaded from; none of what isn't there.
    pub async fn file_of(&self, unit: &str) -> Option<PathBuf> {
        let path = self.property(unit, Kind::Unit, "FragmentPath").await.ok()?;
        <&str>::try_from(&path).ok().filter(|path| !path.is_empty()).map(PathBuf::from)
    }

    /// Those of the units that are loaded that say to share this one's namespaces.
    ///
    /// # Errors
    /// systemd does not tell.
    pub async fn joined_by(&self, unit: &str) -> Result<Vec<String>> {
        let list = async || self.proxy.list_units_by_patterns(&[], &["*.service", "*.socket"]).await;
        let loaded = patiently(list).await.context("systemd does not tell which units there are")?;
        let mut found = Vec::new();
        for (other, ..) in loaded {
            let joins = self.property(&other, Kind::Unit, "JoinsNamespaceOf").await?;
            if Vec::<String>::try_from(joins).is_ok_and(|joins| joins.iter().any(|joined| joined == unit)) {
                found.push(other);
            }
        }
        Ok(found)
    }

    /// Whether a unit runs, or is about to.
    pub async fn is_active(&self, unit: &str) -> bool {
        let state = self.property(unit, Kind::Unit, "ActiveState").await;
        state.is_ok_and(|state| !["inactive", "failed"].iter().any(|over| *state == Value::from(*over)))
    }

    /// Whether its files have changed since they were read.
    pub async fn needs_reload(&self, unit: &str) -> bool {
        let needs = self.property(unit, Kind::Unit, "NeedDaemonReload").await;
        needs.is_ok_and(|needs| bool::try_from(needs).unwrap_or(true))
    }

    /// Whether a unit has been active since then, as by the files that were written until then.
    pub async fn runs_since(&self, unit: &str, written: SystemTime) -> bool {
        // What runs to its end (Type=oneshot) is not active before that.
        let state = self.property(unit, Kind::Unit, "ActiveState").await;
        let is_starting = state.is_ok_and(|state| *state == Value::from("activating"));
        let entered = if is_starting { "InactiveExitTimestamp" } else { "ActiveEnterTimestamp" };
        let began = self.property(unit, Kind::Unit, entered).await.ok();
        let began = began.and_then(|began| u64::try_from(began).ok()).map(Duration::from_micros);
        let written = written.duration_since(SystemTime::UNIX_EPOCH).ok();
        began.zip(written).is_some_and(|(began, written)| began >= written)
    }

    /// Has it forgotten that a unit failed, if it did.
    pub async fn forget(&self, unit: &str) {
        let _ = self.proxy.reset_failed_unit(unit).await;
    }

    /// Keeps a unit from being unloaded when it is over, for as long as this connection lasts: how it ended can be read.
    pub async fn hold(&self, unit: &str) {
        const SYSTEMD: Option<&str> = Some("org.freedesktop.systemd1");
        // A unit that isn't loaded is by that, unlike by the manager's RefUnit().
        let call = self.bus.call_method(SYSTEMD, super::path(unit), Some(Kind::Unit.interface()), "Ref", &());
        // Without it what is over may be gone, and counts as never started.
        let _ = call.await;
    }
}
