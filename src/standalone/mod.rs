//! A launch without a systemd: the launcher starts `appfw inside`, which builds the wall, and the
//! forwarder, and ends both.

pub mod background;
mod commands;
mod forwarder;
mod log;
mod stop;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

pub use commands::{Commands, text};
use forwarder::Forwarders;
pub use log::Log;
pub use stop::stop;

use crate::control::Pass;
use crate::host::User;
use crate::inside::network;
use crate::keeper::{Keeper, Mapping};
use crate::manager::{Life, Who};
use crate::members::processes;
use crate::name::{cgroup_directory, unified_cgroup};
use crate::reception::App;
use crate::wait::Reports;

/// The process that `inside` is, until the app is over.
pub struct Process {
    child: Child,
    pid: u32,
    life: Life,
    forwarders: Option<Forwarders>,
    publishers: Option<Forwarders>,
}

impl Process {
    /// Starts `inside`; returns the launcher's end of its control socket as well.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(commands: &Commands, user: &User, detached: bool) -> Result<(Self, UnixStream)> {
        let failed = "cannot start appfw inside";
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().context(failed)?;
        ours.set_nonblocking(true).context(failed)?;
        let (program, arguments) = commands.inside.split_first().context(failed)?;
        let mut command = Command::new(program);
        command.args(arguments).env_clear().stdin(OwnedFd::from(theirs)).kill_on_drop(true);
        // What it says before it is heard is for the caller; the app's own output comes with the order.
        command.stdout(Stdio::null());
        if detached {
            // Whoever reads the caller's errors to their end waits for the launcher alone.
            command.stderr(Stdio::null());
        }
        if user.uid != nix::unistd::geteuid().as_raw() {
            // Which leaves it none of root's groups either.
            command.uid(user.uid).gid(user.gid);
        }
        let child = command.spawn().context(failed)?;
        let pid = child.id().context(failed)?;
        let life = Life { over: false, main: None };
        let process = Self { child, pid, life, forwarders: None, publishers: None };
        Ok((process, UnixStream::from_std(ours).context(failed)?))
    }

    /// A command of appfw's, executed from what `inside` is: whatever the app has put in the place of the file
    /// since. Before the command stands what is executed.
    fn again(&self, command: Option<&Vec<String>>) -> Option<Vec<String>> {
        Some(std::iter::once(format!("/proc/{}/exe", self.pid)).chain(command?.iter().cloned()).collect())
    }

    /// Has the forwarder started by the first connection to one of `sockets`; returns where it reports. A via
    /// with a password is `specs`: the app could come by a file's path, and change what is read there.
    #[must_use]
    pub fn forwards(&mut self, commands: &Commands, sockets: Vec<OwnedFd>, specs: &[String], log: Log) -> Reports {
        let Some(command) = self.again(commands.forwarder.as_ref()) else { return Reports::None };
        let (forwarders, reports) = Forwarders::keep(command, sockets, Vec::new(), specs, log);
        self.forwarders = Some(forwarders);
        Reports::Children(reports)
    }

    /// Has who leads published `ports` to the app, in these `namespaces`, started by the first connection.
    #[must_use]
    pub fn publishes(
        &mut self,
        commands: &Commands,
        ports: Vec<OwnedFd>,
        namespaces: Vec<OwnedFd>,
        log: Log,
    ) -> Reports {
        let Some(command) = self.again(commands.publisher.as_ref()) else { return Reports::None };
        let (publishers, reports) = Forwarders::keep(command, ports, namespaces, &[], log);
        self.publishers = Some(publishers);
        Reports::Children(reports)
    }
}

/// A launcher that is itself confined finds its directory hidden, and as root no capabilities to build with.
///
/// # Errors
/// This process is in the namespace wall.
pub fn refuse_nested() -> Result<()> {
    if is_nested() {
        bail!(
            "this is run by appfw-run already, and a launch within a launch has no way out: start it from outside, so nothing was run"
        );
    }
    Ok(())
}

/// What manages launches and units asks a systemd, or processes that are outside: neither is to be had there.
///
/// # Errors
/// This process is in the namespace wall.
pub fn refuse_managing() -> Result<()> {
    if is_nested() {
        bail!("this is run by appfw-run, from whose walls launches and units are not managed: run it from outside");
    }
    Ok(())
}

/// As the main process of a user's confined service this is its first one at each start: who is there already was left by an
/// earlier start (KillMode=), perhaps from before the wall.
///
/// # Errors
/// There is somebody.
pub fn refuse_remains() -> Result<()> {
    // What a main process starts inherits the variable, and has another number (systemd.exec(5)).
    let own = std::process::id();
    if std::env::var("SYSTEMD_EXEC_PID").ok() != Some(own.to_string()) {
        return Ok(());
    }
    let text = std::fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let Some(cgroup) = unified_cgroup(&text) else { return Ok(()) };
    let unit = cgroup.rsplit('/').next().unwrap_or_default();
    // A unit of our own leaves nobody, and others may add commands to it.
    if unit.starts_with("appfw-") {
        return Ok(());
    }
    let directory = cgroup_directory(cgroup);
    // There is none where the hierarchies of version 1 are mounted as well.
    let all = if Path::new(&directory).is_dir() { processes(Path::new(&directory))? } else { Vec::new() };
    match all.into_iter().find(|process| *process != own) {
        Some(process) => bail!(
            "process {process} of an earlier start is outside of the wall still, so nothing was run: systemctl --user kill --signal=KILL {unit}"
        ),
        None => Ok(()),
    }
}

fn is_nested() -> bool {
    nix::net::if_::if_nametoindex(network::PAIR[0].name).is_ok()
}

/// A chroot may have no devices; without this one no process of ours starts, and few programs do.
///
/// # Errors
/// It is not there.
pub fn expect_null_device() -> Result<()> {
    let opened = std::fs::File::options().read(true).write(true).open("/dev/null");
    opened.map(drop).context("cannot open /dev/null, so nothing was run: make it with mknod -m 666 /dev/null c 1 3")
}

impl Keeper for Process {
    fn name(&self) -> String {
        "appfw inside".to_owned()
    }

    fn log(&self) -> String {
        String::new()
    }

    fn mapping(&self) -> Mapping {
        Mapping::Identity(self.pid)
    }

    fn life(&self) -> Life {
        self.life
    }

    async fn changed(&mut self) -> Result<Life> {
        let status = self.child.wait().await.context("cannot wait for appfw inside")?;
        self.life = Life { over: true, main: Some(status.into()) };
        Ok(self.life)
    }

    async fn signal(&self, app: Option<&mut App>, who: Who, signal: Signal) {
        match (app, who) {
            (Some(app), Who::All) => app.pass(Pass::All(signal as i32)).await,
            (Some(app), Who::Main) => app.pass(Pass::Main(signal as i32)).await,
            // Nothing of the app's is there yet, and `inside` is not to be asked twice.
            (None, _) => {
                if let Ok(pid) = i32::try_from(self.pid) {
                    let _ = kill(Pid::from_raw(pid), signal);
                }
            }
        }
    }

    async fn processes(&self) -> Vec<(u32, String)> {
        // The app's main process is a child of the first process in its PID namespace, as its orphans are.
        let below = descendants(self.pid);
        below.into_iter().skip(1).filter_map(|pid| Some((pid, command_of(pid)?))).collect()
    }

    async fn without_forwarder(&self) -> Option<String> {
        self.forwarders.as_ref()?.failure()
    }
}

/// The processes below `pid`, each after its parent.
fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(parent) = found.get(next) {
        let children = std::fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        found.extend(children.unwrap_or_default().split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        next += 1;
    }
    found.remove(0);
    found
}

/// As `ps` shows it; `None` for one that is gone or a zombie.
fn command_of(pid: u32) -> Option<String> {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).ok().filter(|bytes| !bytes.is_empty())?;
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    Some(words.map(String::from_utf8_lossy).collect::<Vec<_>>().join(" "))
}
