//! What the app sees of the file system: which sockets and files are hidden, replaced or read-only.
//! Decided with the plan, sent to `inside`, which makes it so once the network's wall is proven. TO BE
//! AUDITED, with confinement.rs: what is hidden would answer for the network. Pure.
//!
//! Not as PID 1's InaccessiblePaths= and kin: each of those costs it passes over the whole mount
//! table (src/shared/mount-util.c), which for an app of root's add up to twice the rest of a launch.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

use crate::buses::{Buses, SYSTEM_BUS};
use crate::host::Host;
use crate::plan::{Identity, Plan, Resolver, Supervisor};
use crate::session::{self, Session};
use crate::state;
use crate::units::{INNER, Places};

/// Where daemons have their sockets. A mount on a socket itself is dropped when its daemon unlinks it
/// (a restart, `systemctl daemon-reexec`), so the directory is the app's own, holding what it may see.
const SEALED: &str = "/run";

/// What systemd hands to services, the forwarder's password among it.
const CREDENTIALS: &str = "/run/credentials";

/// Directories of it that hold nothing.
const EMPTY: [&str; 3] = [
    CREDENTIALS,
    // The system bus: AttachProcessesToUnit has no polkit check, resolve1 answers names.
    "/run/dbus",
    // Session buses, user managers' private sockets, gpg-agent, user podman, of every user.
    "/run/user",
];

/// What of /run/systemd the app sees; all else there is hidden: PID 1's private socket, resolved's
/// varlink sockets, runtime units, io.systemd.* of any version. Logging leads nowhere.
const SHOWN_OF_SYSTEMD: &str = "/run/systemd/journal";

/// Where a service tells that it is ready (sd_notify(3)).
const NOTIFY: &str = "/run/systemd/notify";

/// The directory by whose existence programs tell that systemd runs (sd_booted(3)): an empty one.
const BOOTED: &str = "/run/systemd/system";

/// resolved's sockets and files, shown where the host's resolver is the app's.
const RESOLVED: &str = "/run/systemd/resolve";

/// Name-service caches and responders, hidden unless the host's resolver is the app's.
const NAME_SERVICES: [&str; 2] = ["/run/nscd", "/run/avahi-daemon"];

/// Sockets whose holders act on the network, or as root, for whoever asks.
const AGENTS: [&str; 31] = [
    // Ways out, with their passwords.
    "/etc/appfw/credentials",
    "/run/docker.sock",
    "/run/docker",
    "/run/podman",
    "/run/containerd",
    "/run/crio",
    "/run/cri-dockerd.sock",
    "/run/k3s",
    "/run/rpcbind.sock",
    "/run/buildkit",
    "/run/libvirt",
    "/run/lxd",
    "/var/lib/lxd/unix.socket",
    "/var/snap/lxd/common/lxd",
    "/run/incus",
    "/var/lib/incus/unix.socket",
    "/run/snapd.socket",
    "/run/snapd-snap.socket",
    "/run/tor",
    // A command typed into a session outside runs outside.
    "/run/screen",
    "/run/screens",
    "/tmp/screens",
    "/run/cups",
    // sssd's other responders; pipes/nss stays, the passwd database needs it.
    "/var/lib/sss/pipes/private",
    "/var/lib/sss/pipes/autofs",
    "/var/lib/sss/pipes/ifp",
    "/var/lib/sss/pipes/ssh",
    "/var/lib/sss/pipes/sudo",
    "/run/udev/control",
    "/run/samba/winbindd",
    "/run/nslcd",
];

/// The user's own of systemd's credentials (`credential =`), in the directories of configuration and at run time.
const STORE: &str = "credstore";

/// The same below a user's home, and what the launcher reads.
const CONFIGURATION: &str = ".config/appfw";
const CREDENTIAL_STORE: &str = ".config/credstore";

/// Agents below the app's home: gpg's fetch keys over the network (dirmngr).
const AGENTS_AT_HOME: [&str; 10] = [
    // Ways out, with their passwords.
    CONFIGURATION,
    CREDENTIAL_STORE,
    ".ssh/agent",
    ".gnupg/S.keyboxd",
    ".gnupg/S.scdaemon",
    ".gnupg/S.dirmngr",
    ".gnupg/S.gpg-agent",
    ".gnupg/S.gpg-agent.browser",
    ".gnupg/S.gpg-agent.extra",
    ".gnupg/S.gpg-agent.ssh",
];

/// Sockets, or directories of sockets, by which programs outside can be made to act: ssh-agent(1)'s,
/// tmux(1)'s, screen(1)'s, emacs's, the buses of dbus-launch(1); and what other launches of users without a runtime
/// directory keep there, passwords among it.
const SESSIONS: [&str; 6] = ["/tmp/ssh-", "/tmp/tmux-", "/tmp/screens", "/tmp/emacs", "/tmp/dbus-", "/tmp/appfw-"];

/// Directories of configuration that ssh(1) refuses unless root or the user owns each file (readconf.c,
/// SSHCONF_CHECKPERM), with those that Fedora's includes. In a user namespace of one user root's files
/// are nobody's.
const COPIED: [&str; 2] = ["/etc/ssh/ssh_config.d", "/etc/crypto-policies/back-ends"];

/// Where files become commands that root runs outside the wall.
const READ_ONLY_FOR_ROOT: [&str; 14] = [
    // What every launch reads.
    "/etc/appfw",
    "/etc/systemd",
    "/usr/lib/systemd",
    "/usr/local/lib/systemd",
    "/etc/crontab",
    "/etc/cron.d",
    "/etc/cron.hourly",
    "/etc/cron.daily",
    "/etc/cron.weekly",
    "/etc/cron.monthly",
    "/var/spool/cron",
    "/etc/udev",
    "/usr/lib/udev",
    "/run/udev",
];

/// Where a program of root's would act on the kernel, as ProtectKernelTunables=,
/// ProtectKernelLogs=, ProtectKernelModules= and ProtectControlGroups= have it (systemd's
/// src/core/namespace.c).
const KERNEL_READ_ONLY: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/latency_stats",
    "/proc/mtrr",
    "/proc/scsi",
    "/proc/sys",
    "/proc/sysrq-trigger",
    "/proc/timer_stats",
    "/sys",
];
const CGROUPS: &str = "/sys/fs/cgroup";
const KERNEL_HIDDEN: [&str; 6] =
    ["/proc/apm", "/proc/kallsyms", "/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/usr/lib/modules"];

/// The view, in the order in which it is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Read-only with all that is mounted below, where there.
    pub read_only: Vec<PathBuf>,
    /// Directories seen as read-only copies that the app's user owns, where there.
    pub copied: Vec<PathBuf>,
    /// Holds what it holds now, less what is hidden, and nothing that is made there later: a socket
    /// whose daemon is started or restarted while the app runs stays out of its sight.
    pub sealed: PathBuf,
    /// Directories in it that hold nothing of the host's, each after the one it lies in.
    pub empty: Vec<PathBuf>,
    /// An ordinary user's own directory there, private; all else of it that isn't the host's is then
    /// read-only, as `inside` runs as that user.
    pub runtime: Option<PathBuf>,
    /// Files of the caller's session seen in it, where there and no directories.
    pub session: Vec<Bind>,
    /// Seen there all the same, where there.
    pub shown: Vec<PathBuf>,
    /// Another file in its place.
    pub replaced: Vec<Bind>,
    /// Not to be used at all, where there.
    pub hidden: Vec<PathBuf>,
    /// The same for what is called so and a word more, as sessions' sockets are.
    pub sessions: Vec<PathBuf>,
    /// Made where they aren't there yet, and hidden with what links in them lead to: what the user's launches read, and
    /// their directory in /tmp. One that is made while the app runs would be open to it, or its own.
    pub made: Vec<PathBuf>,
    /// The same where they are sockets: the caller's environment says so.
    pub sockets: Vec<PathBuf>,
    /// A directory of the app's user, made and closed to others.
    pub own: Option<PathBuf>,
}

impl View {
    /// Its paths are told as text.
    ///
    /// # Errors
    /// Names one that is none.
    pub fn expect_text(&self) -> Result<()> {
        let Self {
            read_only, copied, sealed: _, empty, runtime, session, shown, replaced, hidden, sessions, made, ..
        } = self;
        let lists = [read_only, copied, empty, shown, hidden, sessions, made, &self.sockets].into_iter().flatten();
        let binds = session.iter().chain(replaced).flat_map(|bind| [&bind.source, &bind.target]);
        let mut all = lists.chain(binds).chain(runtime).chain(&self.own);
        match all.find(|path| path.to_str().is_none()) {
            Some(path) => bail!(
                "{} has to do with what the app sees, and appfw handles such paths as UTF-8, which it is not, so nothing was run: HOME, XDG_CONFIG_HOME, SSH_AUTH_SOCK or another variable names it",
                path.display()
            ),
            None => Ok(()),
        }
    }

    /// The view of a plan's app.
    #[must_use]
    pub fn new(plan: &Plan, host: &Host, places: &Places) -> Self {
        let user = plan.app.user();
        let own = |name: &str, target: &Path| Bind { source: places.state.join(name), target: target.to_owned() };
        let mut view = Self {
            sealed: SEALED.into(),
            empty: ["/run/systemd", BOOTED].into_iter().chain(EMPTY).chain([INNER]).map(PathBuf::from).collect(),
            shown: vec![SHOWN_OF_SYSTEMD.into()],
            hidden: AGENTS.map(PathBuf::from).to_vec(),
            own: plan.own_directory.clone(),
            ..Self::default()
        };
        if user.is_root() {
            view.read_only = READ_ONLY_FOR_ROOT.iter().chain(&KERNEL_READ_ONLY).map(PathBuf::from).collect();
            view.hidden.extend(KERNEL_HIDDEN.map(PathBuf::from));
        } else {
            // Its user's manager has lent that user a part of it: an app that moved there would outlive its launch.
            view.read_only = vec![CGROUPS.into()];
            // A runtime directory with nothing of the session in it but what a window and its sound need.
            view.runtime = session::runtime_directory(plan);
            view.session = Session::new(plan, &host.environment).shown;
            view.session.extend(Buses::shown(plan, places));
            view.made = vec![state::base_in_tmp(Path::new("/"), user.uid)];
            view.made.extend(configurations(plan, host));
            view.made.extend(buses(plan, host, &user.home));
        }
        if plan.buses == Buses::System {
            view.shown.push(SYSTEM_BUS.into());
        }
        if plan.supervisor != Supervisor::System && matches!(&plan.app, Identity::Caller(user) if !user.is_root()) {
            view.copied = COPIED.map(PathBuf::from).to_vec();
        }
        match plan.resolver {
            Resolver::Host => view.shown.push(RESOLVED.into()),
            Resolver::Off | Resolver::Forwarder => {
                view.hidden.extend(NAME_SERVICES.map(PathBuf::from));
                view.replaced.extend(host.resolv_conf.iter().map(|target| own("resolv.conf", target)));
                view.replaced
                    .extend(host.nsswitch.iter().map(|_| own("nsswitch.conf", Path::new("/etc/nsswitch.conf"))));
            }
        }
        view.hidden.extend(AGENTS_AT_HOME.iter().map(|file| user.home.join(file)));
        view.hidden.extend(plan.via_files.iter().cloned());
        view.sessions = SESSIONS.map(PathBuf::from).to_vec();
        view.sockets = sockets(host);
        // The via's password, and a session's sockets, where they aren't in what holds nothing anyway.
        let runtime = variable(host, "XDG_RUNTIME_DIR").map(PathBuf::from);
        let own = places.state.parent().map(Path::to_owned).into_iter().chain(runtime.clone());
        let is_seen = |path: &PathBuf| {
            let is_gone = view.empty.iter().any(|empty| path.starts_with(empty));
            path.is_absolute() && !is_gone && !view.sealed.starts_with(path)
        };
        let seen: Vec<_> = own.filter(is_seen).collect();
        view.hidden.extend(seen);
        if matches!(&plan.app, Identity::Caller(user) if !user.is_root()) {
            // What isn't there yet, and launches read once it is.
            let stores: Vec<_> = runtime.filter(is_seen).map(|runtime| runtime.join(STORE)).into_iter().collect();
            view.made.extend(stores);
        }
        if let Some(socket) =
            plan.via.socket().filter(|path| !view.hidden.iter().any(|hidden| path.starts_with(hidden)))
        {
            // Who speaks to the upstream itself is past the forwarder's rules and its part in Tor's isolation.
            view.hidden.push(socket.to_owned());
        }
        view
    }
}

/// What our own drop-in may show of /run to a service, in its place.
pub(crate) const SHOWN_TO_SERVICES: [&str; 3] = [SHOWN_OF_SYSTEMD, NOTIFY, RESOLVED];

/// Of these, what each service is shown.
pub(crate) const JOURNAL_AND_NOTIFY: [&str; 2] = [SHOWN_OF_SYSTEMD, NOTIFY];

/// What a service of another's making is kept from, by PID 1's own settings: its main process isn't ours, and could
/// not be executed in a view that `inside` makes. What lies in /run itself is hidden as it is at the start, and seen
/// again if its daemon makes it anew.
pub(crate) struct OfService {
    /// `TemporaryFileSystem=`: directories that hold nothing of the host's but what is shown, each after the one it lies in.
    pub(crate) empty: Vec<PathBuf>,
    /// `BindReadOnlyPaths=-`
    pub(crate) shown: Vec<PathBuf>,
    /// `InaccessiblePaths=-`
    pub(crate) hidden: Vec<PathBuf>,
    /// `ReadOnlyPaths=-`
    pub(crate) read_only: Vec<PathBuf>,
}

impl OfService {
    pub(crate) fn new(plan: &Plan, is_root: bool, home: Option<&Path>) -> Self {
        // What systemd hands to services is hidden by itself but for the service's own (apply_mount_namespace).
        let empty = EMPTY.iter().filter(|path| **path != CREDENTIALS);
        let mut hidden: Vec<PathBuf> = empty.chain(&AGENTS).chain(&[INNER]).map(PathBuf::from).collect();
        let mut shown: Vec<PathBuf> = JOURNAL_AND_NOTIFY.map(PathBuf::from).to_vec();
        if plan.buses == Buses::System {
            hidden.retain(|path| !Path::new(SYSTEM_BUS).starts_with(path));
        }
        match plan.resolver {
            Resolver::Host => shown.push(RESOLVED.into()),
            Resolver::Off | Resolver::Forwarder => hidden.extend(NAME_SERVICES.map(PathBuf::from)),
        }
        hidden.extend(home.iter().flat_map(|home| AGENTS_AT_HOME.iter().map(|file| home.join(file))));
        let of_via = plan.via.socket().into_iter().chain(plan.via_files.iter().map(PathBuf::as_path));
        let open = of_via.filter(|path| !hidden.iter().any(|hidden| path.starts_with(hidden)));
        let open: Vec<PathBuf> = open.map(Path::to_owned).collect();
        hidden.extend(open);
        Self {
            empty: ["/run/systemd", BOOTED].map(PathBuf::from).to_vec(),
            shown,
            hidden,
            read_only: if is_root { READ_ONLY_FOR_ROOT.map(PathBuf::from).to_vec() } else { Vec::new() },
        }
    }
}

/// Where the next launches of the app's user, of this environment or of a unit's, look for ways out and profiles.
fn configurations(plan: &Plan, host: &Host) -> Vec<PathBuf> {
    let bases = match &plan.app {
        Identity::Caller(user) => bases(host, &user.home, "XDG_CONFIG_HOME", ".config"),
        // Of whose environment nothing is known. `inside` makes them as that user.
        Identity::Other(user) => vec![user.home.join(".config")],
    };
    bases.iter().flat_map(|base| ["appfw", STORE].map(|name| base.join(name))).collect()
}

/// Where a session bus reads what it starts for a name that nobody has: for whoever may call that, and outside.
fn buses(plan: &Plan, host: &Host, home: &Path) -> Vec<PathBuf> {
    let Buses::Filtered { .. } = plan.buses else { return Vec::new() };
    let more = host.variable("XDG_DATA_DIRS").map(std::env::split_paths).into_iter().flatten();
    let bases = bases(host, home, "XDG_DATA_HOME", ".local/share").into_iter().chain(more);
    bases.filter(|base| base.is_absolute()).map(|base| base.join("dbus-1/services")).collect()
}

/// A directory of the XDG Base Directory Specification: as the caller's environment has it, and as that of a unit has.
fn bases(host: &Host, home: &Path, variable: &str, usual: &str) -> Vec<PathBuf> {
    let here = host.directory.clone().unwrap_or_default();
    let set = host.variable(variable).map(PathBuf::from).filter(|place| place.is_absolute());
    let homes = host.variable("HOME").map(|home| here.join(home)).into_iter().chain([home.to_owned()]);
    let places = set.into_iter().chain(homes.map(|home| home.join(usual)));
    let mut places: Vec<_> = places.filter(|place| place.is_absolute()).collect();
    places.sort_unstable();
    places.dedup();
    places
}

/// The caller's ssh-agent and session bus.
fn sockets(host: &Host) -> Vec<PathBuf> {
    let bus = variable(host, "DBUS_SESSION_BUS_ADDRESS").and_then(OsStr::to_str).unwrap_or_default();
    // D-Bus specification, "Server Addresses": addresses by `;`, their keys by `,`, values escaped by `%`.
    let buses = bus.split(';').flat_map(|address| address.split([':', ',']));
    let buses = buses.filter_map(|key| key.strip_prefix("path="));
    let buses = buses.map(|path| PathBuf::from(OsString::from_vec(percent_decode_str(path).collect())));
    let here = host.directory.clone().unwrap_or_default();
    let agent = variable(host, "SSH_AUTH_SOCK").filter(|agent| !agent.is_empty()).map(|agent| here.join(agent));
    agent.into_iter().chain(buses).filter(|path| path.is_absolute()).collect()
}

fn variable<'a>(host: &'a Host, name: &str) -> Option<&'a OsStr> {
    host.environment.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_os_str())
}

/// A file seen at another place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bind {
    /// The file.
    pub source: PathBuf,
    /// The place where it is seen.
    pub target: PathBuf,
}

#[cfg(test)]
mod tests;
