//! The system manager over D-Bus: the only module that speaks to it. It takes a connection and
//! never opens one deep inside, so that tests serve a fake manager over a socket pair.

mod files;
mod jobs;

pub use files::is_transient;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_stream::StreamExt;
use zbus::Connection;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};

use crate::exit::Ended;
use crate::name::unified_cgroup;
use crate::say::Say;
use crate::units::{Units, transient};

/// What dbus-daemon says for a systemd that a hundred launches call at once.
const QUEUE_FULL: &str = "org.freedesktop.DBus.Error.LimitsExceeded";
/// What is said in polkit's name where it would have to ask, and nobody can be asked.
const NOBODY_TO_ASK: &str = "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired";
const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";

/// A unit that is loaded: its name, and what systemctl list-units(1) shows beside it.
type Listed = (String, String, String, String, String, String, OwnedObjectPath, u32, String, OwnedObjectPath);

/// What became of symbolic links: kind, link and target of each.
type FileChanges = Vec<(String, String, String)>;

/// Properties of a unit.
pub type Properties = HashMap<String, OwnedValue>;

#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1",
    gen_blocking = false
)]
trait Manager {
    #[zbus(allow_interactive_auth)]
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &[transient::Property<'_>],
        aux: &[(&str, Vec<transient::Property<'_>>)],
    ) -> zbus::Result<OwnedObjectPath>;

    #[zbus(allow_interactive_auth)]
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    #[zbus(allow_interactive_auth)]
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    #[zbus(allow_interactive_auth)]
    fn kill_unit(&self, name: &str, who: &str, signal: i32) -> zbus::Result<()>;

    #[zbus(allow_interactive_auth)]
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;

    #[zbus(allow_interactive_auth)]
    fn reload(&self) -> zbus::Result<()>;

    #[zbus(allow_interactive_auth)]
    fn enable_unit_files(&self, files: &[&str], runtime: bool, force: bool) -> zbus::Result<(bool, FileChanges)>;

    #[zbus(allow_interactive_auth)]
    fn disable_unit_files(&self, files: &[&str], runtime: bool) -> zbus::Result<FileChanges>;

    #[zbus(allow_interactive_auth)]
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;

    fn get_unit_file_state(&self, file: &str) -> zbus::Result<String>;

    fn get_unit_processes(&self, name: &str) -> zbus::Result<Vec<(String, u32, String)>>;

    fn list_units_by_patterns(&self, states: &[&str], patterns: &[&str]) -> zbus::Result<Vec<Listed>>;

    #[zbus(property(emits_changed_signal = "false"))]
    fn version(&self) -> zbus::Result<String>;

    #[zbus(signal)]
    fn job_removed(&self, id: u32, job: OwnedObjectPath, unit: String, result: String) -> zbus::Result<()>;
}

#[zbus::proxy(
    interface = "org.freedesktop.DBus.Properties",
    default_service = "org.freedesktop.systemd1",
    gen_blocking = false
)]
trait UnitProperties {
    fn get_all(&self, interface: &str) -> zbus::Result<Properties>;

    fn get(&self, interface: &str, property: &str) -> zbus::Result<OwnedValue>;

    #[zbus(signal)]
    fn properties_changed(
        &self,
        interface: &str,
        changed: HashMap<&str, Value<'_>>,
        invalidated: Vec<&str>,
    ) -> zbus::Result<()>;
}

/// A unit's changes.
pub struct Changes(PropertiesChangedStream);

impl Changes {
    /// The properties that changed next; `None` once the bus is lost.
    pub async fn next(&mut self) -> Option<Properties> {
        let change = self.0.next().await?;
        let changed = change.args().map(|args| args.changed).unwrap_or_default();
        let owned = changed.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.try_into().ok()?)));
        Some(owned.collect())
    }
}

/// Runs a story that asks a systemd, on this thread alone.
///
/// # Errors
/// The story's.
pub fn block_on(story: impl Future<Output = Result<()>>) -> Result<()> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(story)
}

/// The system bus.
///
/// # Errors
/// It cannot be reached.
pub async fn connect() -> Result<Connection> {
    Connection::system().await.context("cannot reach the system bus, by which systemd is asked to build the wall")
}

/// The bus of the user's own systemd.
///
/// # Errors
/// It cannot be reached.
pub async fn connect_to(bus: &Path) -> Result<Connection> {
    let failed = || format!("cannot reach the user's bus {}, by which its systemd is asked", bus.display());
    let address = zbus::Address::from(zbus::address::Transport::Unix(zbus::address::transport::Unix::new(
        zbus::address::transport::UnixSocket::File(bus.to_owned()),
    )));
    let builder = zbus::connection::Builder::address(address).with_context(failed)?;
    builder.build().await.with_context(failed)
}

/// Has the kernel ready for processes that change their cgroup: the first one after a while waits
/// for an RCU grace period, 6 ms and more (cgroup_threadgroup_rwsem, kernel/cgroup/cgroup.c; not with
/// the mount option favordynmods). Moving the launcher to where it is has that happen while the bus
/// is being talked to. Where it may not, as an ordinary user, the launch takes its time.
pub fn expect_cgroups() {
    std::thread::spawn(|| {
        let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if let Some(own) = unified_cgroup(&text) {
            let _ = std::fs::write(format!("/sys/fs/cgroup{own}/cgroup.procs"), "0");
        }
    });
}

/// systemd's major version, if it tells.
pub async fn version(bus: &Connection) -> Option<u32> {
    let version = Manager::new(bus).await.ok()?.proxy.version().await.ok()?;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// The manager, as this launch uses it.
pub struct Manager<'a> {
    bus: &'a Connection,
    proxy: ManagerProxy<'a>,
    journal: &'static str,
    /// Whom it tells what takes long, if that may.
    say: Option<Say>,
}

impl<'a> Manager<'a> {
    /// # Errors
    /// The bus refuses.
    pub async fn new(bus: &'a Connection) -> Result<Self> {
        let proxy = ManagerProxy::builder(bus)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .context("cannot talk to systemd")?;
        Ok(Self { bus, proxy, journal: "journalctl -u", say: None })
    }

    /// The same, of a user's own systemd.
    #[must_use]
    pub fn of_user(self) -> Self {
        Self { journal: "journalctl --user -u", ..self }
    }

    /// The command that shows what a unit said, without the unit's name.
    #[must_use]
    pub fn journal(&self) -> &'static str {
        self.journal
    }

    /// Hands all units over in one call: the life-line's start is queued, and with it that of the
    /// socket and the forwarder that it asks for; the app is loaded only, so that it can be read
    /// back first. None is waited for: the app's own start does that.
    ///
    /// # Errors
    /// A name in use, a refusal by polkit, a setting this systemd does not know.
    pub async fn load(&self, units: &Units, descriptors: &[OwnedFd]) -> Result<()> {
        let main = units.lifeline.as_ref().context("only a launch's units are handed over")?;
        let aux: Vec<(&str, Vec<transient::Property<'_>>)> = units
            .iter()
            .filter(|unit| unit.name != main.name)
            .map(|unit| {
                let mut properties = transient::properties(unit, descriptors);
                if unit.name == units.app.name {
                    // Keeps the unit readable after its end, and makes PID 1 send us its changes.
                    properties.push(("AddRef", Value::from(true)));
                }
                (unit.name.as_str(), properties)
            })
            .collect();
        let properties = transient::properties(main, descriptors);
        patiently(async || self.proxy.start_transient_unit(&main.name, "fail", &properties, &aux).await)
            .await
            .with_context(|| format!("systemd did not take the launch's units ({})", units.app.name))?;
        Ok(())
    }

    /// Starts the app and waits until its main process has been executed (Type=exec).
    ///
    /// # Errors
    /// The job failed, or that of a unit the app needs: its main process never ran.
    pub async fn start(&self, units: &Units) -> Result<()> {
        let app = &units.app.name;
        let call = async || self.proxy.start_unit(app, "fail").await;
        let call = async { patiently(call).await.with_context(|| format!("systemd did not start {app}")) };
        let journal = self.journal;
        match (self.finished(app, "start", call).await?.as_str(), &units.socket) {
            ("done", _) => Ok(()),
            ("dependency", Some(socket)) => {
                let needed = std::iter::once(socket).chain(&units.lifeline).map(|unit| unit.name.as_str());
                let (needed, socket) = (needed.collect::<Vec<_>>().join(" or "), &socket.name);
                bail!("{needed} failed, without which {app} does not start; see: {journal} {socket}")
            }
            (result, _) => bail!("systemd could not start {app} (job {result}); see: {journal} {app}"),
        }
    }

    /// A unit's properties of one kind.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn properties(&self, unit: &str, kind: Kind) -> Result<Properties> {
        let found = self.unit(unit).await?;
        let read = patiently(async || found.get_all(kind.interface()).await).await;
        read.with_context(|| format!("cannot read back {unit}"))
    }

    /// One property of a unit.
    ///
    /// # Errors
    /// It cannot be read.
    pub async fn property(&self, unit: &str, kind: Kind, name: &str) -> Result<OwnedValue> {
        let found = self.unit(unit).await?;
        let value = patiently(async || found.get(kind.interface(), name).await).await;
        value.with_context(|| format!("cannot read {name}= of {unit}"))
    }

    /// A watch on a unit's changes.
    ///
    /// # Errors
    /// The bus refuses it.
    pub async fn watch(&self, unit: &str) -> Result<Changes> {
        let changes = self.unit(unit).await?.receive_properties_changed().await;
        changes.map(Changes).with_context(|| format!("cannot watch {unit}"))
    }

    async fn unit(&self, unit: &str) -> Result<UnitPropertiesProxy<'a>> {
        UnitPropertiesProxy::builder(self.bus)
            .path(path(unit))
            .with_context(|| format!("{unit} is no unit name"))?
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .with_context(|| format!("cannot talk to systemd about {unit}"))
    }

    /// Sends a signal to the unit's processes: all, or the main one.
    ///
    /// # Errors
    /// The unit has no process, or systemd refuses.
    pub async fn kill(&self, unit: &str, who: Who, signal: i32) -> Result<()> {
        let who = match who {
            Who::All => "all",
            Who::Main => "main",
        };
        patiently(async || self.proxy.kill_unit(unit, who, signal).await)
            .await
            .with_context(|| format!("cannot signal {unit}"))
    }

    /// Takes back what is left of a launch: the app, if it runs still, and the life-line, which may not end by itself; then
    /// the socket, with which the forwarder goes. What is gone already is no failure.
    pub async fn take_back(&self, units: &Units, app_is_over: bool) {
        for unit in [Some(&units.app), units.lifeline.as_ref()].into_iter().flatten().filter(|_| !app_is_over) {
            let _ = self.stop(&unit.name).await;
        }
        if let Some(unit) = units.socket.as_ref().or(units.forwarder.as_ref()) {
            let _ = self.stop(&unit.name).await;
        }
    }

    /// The processes of a unit: number and command line.
    ///
    /// # Errors
    /// The unit cannot be read.
    pub async fn processes(&self, unit: &str) -> Result<Vec<(u32, String)>> {
        let list = patiently(async || self.proxy.get_unit_processes(unit).await)
            .await
            .with_context(|| format!("cannot list {unit}"))?;
        Ok(list.into_iter().map(|(_, pid, command)| (pid, command)).collect())
    }
}

/// Makes a call, again after a moment where that may help: the bus's queue for systemd is full; the units of an
/// earlier launch of the same name are unloaded a moment after its end (that the name is free is known from the
/// state directory).
async fn patiently<T>(call: impl AsyncFn() -> zbus::Result<T>) -> Result<T> {
    const PAUSE: Duration = Duration::from_millis(20);
    let started = Instant::now();
    loop {
        let answered = call().await;
        let patience = match &answered {
            Err(zbus::Error::MethodError(error, ..)) if error.as_str() == QUEUE_FULL => Duration::from_secs(20),
            Err(zbus::Error::MethodError(error, ..)) if error.as_str() == UNIT_EXISTS => Duration::from_secs(2),
            _ => Duration::ZERO,
        };
        if started.elapsed() >= patience {
            return answered.map_err(explained);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Whether it is an error that the bus calls so.
fn is_named(error: &anyhow::Error, name: &str) -> bool {
    matches!(error.downcast_ref(), Some(zbus::Error::MethodError(found, ..)) if found.as_str() == name)
}

/// In words that say what to do, where the bus has none.
fn explained(error: zbus::Error) -> anyhow::Error {
    match &error {
        zbus::Error::MethodError(name, ..) if name.as_str() == NOBODY_TO_ASK => anyhow::anyhow!(
            "polkit has nobody to ask here: use sudo appfw-run --uid USER …, or run it where a polkit agent is (a desktop session), or leave --system out"
        ),
        _ => error.into(),
    }
}

/// Which of a unit's properties: those of its type, or those that all units have. To answer for the
/// latter as a whole PID 1 looks through every drop-in directory (NeedDaemonReload).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Of every unit.
    Unit,
    /// Of a service.
    Service,
    /// Of a socket.
    Socket,
    /// Of a slice.
    Slice,
}

impl Kind {
    fn interface(self) -> &'static str {
        match self {
            Self::Unit => "org.freedesktop.systemd1.Unit",
            Self::Service => "org.freedesktop.systemd1.Service",
            Self::Socket => "org.freedesktop.systemd1.Socket",
            Self::Slice => "org.freedesktop.systemd1.Slice",
        }
    }
}

/// Whom a signal reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Who {
    /// Every process of the unit.
    All,
    /// Its main process.
    Main,
}

/// The object path of a unit: everything but letters and digits as `_xx` (sd_bus_path_encode(3)).
fn path(unit: &str) -> ObjectPath<'static> {
    let mut path = String::from("/org/freedesktop/systemd1/unit/");
    for (place, byte) in unit.bytes().enumerate() {
        let plain = byte.is_ascii_alphabetic() || byte.is_ascii_digit() && place > 0;
        if plain {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("_{byte:02x}"));
        }
    }
    ObjectPath::from_string_unchecked(path)
}

/// What a unit's properties say of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// It is inactive or failed, with no job queued.
    pub over: bool,
    /// How its main process ended, if it has.
    pub main: Option<Ended>,
}

impl Life {
    /// Reads it; what is missing counts as running.
    #[must_use]
    pub fn of(properties: &Properties) -> Self {
        let text = |name: &str| properties.get(name).and_then(|value| <&str>::try_from(value).ok());
        let number = |name: &str| properties.get(name).and_then(|value| i32::try_from(value).ok()).unwrap_or(0);
        let job = properties
            .get("Job")
            .and_then(|value| value.downcast_ref::<(u32, ObjectPath<'_>)>().ok())
            .is_some_and(|(id, _)| id != 0);
        // A unit that is loaded and not started yet is inactive, too: a change of that time may still come.
        let entered = properties.get("InactiveEnterTimestampMonotonic").and_then(|value| u64::try_from(value).ok());
        let ended = match text("ActiveState") {
            Some("inactive") => entered != Some(0),
            state => state == Some("failed"),
        };
        Self { over: ended && !job, main: Ended::from_main(number("ExecMainCode"), number("ExecMainStatus")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_that_was_never_started_is_not_over() {
        let life = |state: &str, entered: Option<u64>| {
            let mut read = Properties::from([("ActiveState".to_owned(), Value::from(state).try_to_owned().unwrap())]);
            let entered = entered.map(|entered| Value::from(entered).try_to_owned().unwrap());
            read.extend(entered.map(|entered| ("InactiveEnterTimestampMonotonic".to_owned(), entered)));
            Life::of(&read).over
        };
        assert!(!life("inactive", Some(0)) && life("inactive", Some(7)) && life("inactive", None));
        assert!(life("failed", Some(0)) && !life("active", Some(7)));
    }

    #[test]
    fn unit_paths_are_encoded_as_systemd_does() {
        assert_eq!(path("appfw-a.b_c.service").as_str(), "/org/freedesktop/systemd1/unit/appfw_2da_2eb_5fc_2eservice");
        assert_eq!(path("-.slice").as_str(), "/org/freedesktop/systemd1/unit/_2d_2eslice");
    }
}
