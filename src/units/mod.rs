//! Units as typed settings: one value that two renderers read, [`transient`] for the bus and
//! [`text`] for people and files, so that the one cannot be weaker than the other. Pure.

pub mod text;
pub mod transient;

mod app;
mod forwarder;
mod launcher;
mod lifeline;
mod publisher;
mod socket;

pub use app::ORDER;
pub(crate) use app::{TOR, inside};
pub(crate) use forwarder::{forwarding, sharing};
pub use launcher::LINKERS;
pub(crate) use publisher::publishing;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::circuits;
use crate::host::Host;
use crate::listening::Listening;
use crate::name::SLICE;
use crate::network::IpLists;
use crate::plan::{Plan, Stdio, Supervisor};
use crate::view::{Bind, View};

/// What units that share a namespace (`JoinsNamespaceOf=`) have in common beside the network: whoever is first has made it
/// for all, or the others go without (src/core/execute.c, exec_shared_runtime_acquire()).
pub const SHARED: [&str; 2] = [PRIVATE_TMP, "PrivateIPC"];

/// A `/tmp` and a `/var/tmp` of its own.
pub const PRIVATE_TMP: &str = "PrivateTmp";

/// One setting of a unit: the directive as systemd's man pages write it, and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// For example `IPAddressDeny`.
    pub directive: &'static str,
    /// Its value.
    pub value: Value,
}

/// Values by their shape; the D-Bus signature of each stands in [`transient`].
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `yes` or `no`.
    Bool(bool),
    /// A plain word.
    Word(String),
    /// A number.
    Number(u32),
    /// A number, or `infinity`, which is the largest.
    Unsigned(u64),
    /// A number that may be negative.
    Signed(i32),
    /// Per cent of one CPU.
    Quota(u64),
    /// A word in text, a number on the bus.
    Choice {
        /// As unit files have it.
        word: &'static str,
        /// As the kernel has it.
        number: i32,
    },
    /// A time span, microseconds on the bus.
    Span(Duration),
    /// A list; in text one line, blank-separated.
    Words(Vec<String>),
    /// `IPAddressAllow=` and `IPAddressDeny=`, both families in one list.
    Networks(Vec<IpNet>),
    /// `BindPaths=`.
    Binds(Vec<Bind>),
    /// `TemporaryFileSystem=`: path and mount options.
    FileSystems(Vec<(String, String)>),
    /// Pairs of a name and a path, `LoadCredential=`.
    Pairs(Vec<(String, String)>),
    /// A filter: `~` before its names denies them.
    Filter {
        /// Whether the names are allowed or denied.
        allow: bool,
        /// Names, sets or families.
        names: Vec<String>,
    },
    /// `RestrictAddressFamilies=none`.
    NoFamilies,
    /// `SystemCallErrorNumber=`.
    Errno(nix::errno::Errno),
    /// `CapabilityBoundingSet=`: one mask, because repeated `~CAP` lists replace one another on the bus.
    Capabilities(u64),
    /// `RestrictNamespaces=cgroup`: the one kind that is left takes CAP_SYS_ADMIN. Where none is, systemd writes an
    /// empty list, which at its next reload means that all are.
    NoNamespaces,
    /// `ListenStream=` and `ListenDatagram=`, in the order in which the service gets the sockets.
    Listen(Vec<Listening>),
    /// `ExecStart=`, without expansion of `$` and `%`.
    Exec(Vec<String>),
    /// `ExecStartPre=+`: as root, by the unit's namespaces alone; without expansion as well.
    Privileged(Vec<String>),
    /// `RestartPreventExitStatus=`: one exit code.
    ExitCode(u8),
    /// A descriptor of the launcher, by its place in the list passed along.
    Descriptor(usize),
}

/// One unit.
#[derive(Debug, Clone, PartialEq)]
pub struct Unit {
    /// Its name, which says its type.
    pub name: String,
    /// `[Unit]`.
    pub unit: Vec<Setting>,
    /// `[Service]` or `[Socket]`.
    pub kind: Vec<Setting>,
    /// `[Install]`: of files alone, as who enables them reads it.
    pub install: Vec<Setting>,
}

impl Unit {
    fn new(plan: &Plan, name: String, description: String) -> Self {
        let mut unit = Self { name, unit: Vec::new(), kind: Vec::new(), install: Vec::new() };
        unit.unit("Description", Value::Word(description));
        if !plan.is_permanent() {
            // Ended units are forgotten, failed ones too: a launch leaves nothing behind.
            unit.unit("CollectMode", Value::Word("inactive-or-failed".into()));
        }
        unit.kind("Slice", Value::Word(SLICE.into()));
        unit
    }

    fn unit(&mut self, directive: &'static str, value: Value) {
        self.unit.push(Setting { directive, value });
    }

    fn kind(&mut self, directive: &'static str, value: Value) {
        self.kind.push(Setting { directive, value });
    }

    /// All settings but `[Install]`.
    pub fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.unit.iter().chain(&self.kind)
    }

    /// The value of a setting.
    #[must_use]
    pub fn get(&self, directive: &str) -> Option<&Value> {
        self.settings().find(|setting| setting.directive == directive).map(|setting| &setting.value)
    }
}

/// The units of one launch.
#[derive(Debug, Clone, PartialEq)]
pub struct Units {
    /// Ends the launch when the launcher dies; none where there is no launcher.
    pub lifeline: Option<Unit>,
    /// The forwarder's listening socket; none where `inside` makes the sockets.
    pub socket: Option<Unit>,
    /// The forwarder; none with `--via none`.
    pub forwarder: Option<Unit>,
    /// The host's side of published ports, where no launcher makes it.
    pub publisher_socket: Option<Unit>,
    /// What leads published ports to the app; none without any.
    pub publisher: Option<Unit>,
    /// The app.
    pub app: Unit,
    /// What the app sees of the file system, which its unit's main process makes.
    pub view: View,
}

/// Where a launch's files are, and which of the launcher's descriptors its units take.
#[derive(Debug, Clone)]
pub struct Places {
    /// The launch's directory under /run/appfw or /run/user/UID/appfw.
    pub state: PathBuf,
    /// Whether the state is where the launch's systemd has its runtime directories, and can remove it with the launch.
    pub in_run: bool,
    /// Whether the caller has a terminal to be put back as it was.
    pub terminal: bool,
    /// The file of a via with a password.
    pub credential: PathBuf,
    /// Where unit files are.
    pub units: PathBuf,
}

impl Places {
    /// The places of a plan whose state lies below `base`.
    #[must_use]
    pub fn new(base: &Path, plan: &Plan) -> Self {
        let state = base.join(plan.name.to_string());
        Self {
            credential: state.join("via"),
            units: TRANSIENT.into(),
            state,
            in_run: match plan.supervisor {
                Supervisor::User => base == Path::new(&format!("/run/user/{}/appfw", plan.app.user().uid)),
                Supervisor::System | Supervisor::Standalone => base == Path::new(INNER),
            },
            terminal: matches!(plan.stdio, Stdio::Terminal { .. }),
        }
    }

    /// The parent directory of all launches.
    #[must_use]
    pub fn base(&self) -> &Path {
        self.state.parent().unwrap_or(&self.state)
    }

    /// The file by which the launches of a profile share Tor's circuits.
    #[must_use]
    pub fn circuits(&self, plan: &Plan) -> Option<PathBuf> {
        Some(self.base().join(circuits::file(plan.shares_circuits()?)))
    }
}

/// The state of all launches of root, which no app sees, and no forwarder but for its own files.
pub const INNER: &str = "/run/appfw";

/// Where the system manager writes the units of launches.
const TRANSIENT: &str = "/run/systemd/transient";

/// The descriptors that travel with the life-line's unit, in this order. None travels with the
/// app's or the forwarder's: PID 1 closes those of a unit that is loaded but not yet started.
pub mod descriptor {
    /// The reading end of the life-line.
    pub const LIFELINE: usize = 0;
    /// The caller's terminal.
    pub const TERMINAL: usize = 1;
}

impl Units {
    /// Renders a plan.
    #[must_use]
    pub fn new(plan: &Plan, host: &Host, places: &Places) -> Self {
        Self {
            lifeline: (!plan.is_permanent()).then(|| lifeline::unit(plan, host, places)),
            socket: plan.has_socket_unit().then(|| socket::unit(plan, places)),
            forwarder: plan.has_forwarder().then(|| forwarder::unit(plan, host, places)),
            publisher_socket: plan.has_publisher_socket().then(|| publisher::socket(plan)),
            publisher: (!plan.publish.is_empty()).then(|| publisher::unit(plan, host, places)),
            app: app::unit(plan, host, places),
            view: View::new(plan, host, places),
        }
    }

    /// The unit of an ordinary user that lasts: the launcher with these arguments.
    #[must_use]
    pub fn of_launcher(plan: &Plan, host: &Host, places: &Places, words: Vec<String>) -> Self {
        Self {
            lifeline: None,
            socket: None,
            forwarder: None,
            publisher_socket: None,
            publisher: None,
            app: launcher::unit(plan, host, words),
            view: View::new(plan, host, places),
        }
    }

    /// All units, the app last.
    pub fn iter(&self) -> impl Iterator<Item = &Unit> {
        let parts = self.socket.iter().chain(&self.forwarder).chain(&self.publisher_socket).chain(&self.publisher);
        self.lifeline.iter().chain(parts).chain(std::iter::once(&self.app))
    }
}

/// `IPAddressDeny=` and `IPAddressAllow=`, where they are not empty.
pub(crate) fn lists(lists: IpLists) -> impl Iterator<Item = Setting> {
    [("IPAddressDeny", lists.deny), ("IPAddressAllow", lists.allow)]
        .into_iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(directive, list)| Setting { directive, value: Value::Networks(list) })
}

/// Where a unit executes `appfw`, and the bind that it needs for it: none where every user can
/// execute it in place, else one to `target`, so that it works from ~/.cargo/bin and target/.
fn appfw(host: &Host, target: PathBuf) -> (String, Option<Bind>) {
    if host.appfw_is_public {
        return (host.appfw.display().to_string(), None);
    }
    (target.display().to_string(), Some(Bind { source: host.appfw.clone(), target }))
}

fn words<const N: usize>(list: [&str; N]) -> Value {
    Value::Words(list.map(str::to_owned).to_vec())
}

fn word(text: &str) -> Value {
    Value::Word(text.to_owned())
}
