//! The state of a launch: a directory under /run/appfw (root) or /run/user/UID/appfw, which no
//! app sees. It holds the plan without secrets, the app's resolv.conf and nsswitch.conf, a via that
//! has a password, and the control socket.

mod others;
pub(crate) mod resolver;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use serde::Serialize;

use crate::circuits;
use crate::host::{Host, User};
use crate::plan::{Plan, Supervisor};
use crate::session;

pub use others::{Running, supervisor};
use others::{holder, remove_stale};

/// A launch's directory, held by a lock as long as its launcher lives.
#[derive(Debug)]
pub struct State {
    /// The directory.
    pub directory: PathBuf,
    _lock: Flock<File>,
}

/// The launch's sockets, in its directory.
#[derive(Debug)]
pub struct Sockets {
    /// Where `inside` reports, once.
    pub control: UnixListener,
    /// Where the forwarder reports.
    pub report: UnixListener,
    /// Where who publishes the app's ports gets what it serves, and reports; unused without any.
    pub publish: Option<UnixListener>,
}

/// What is written of a plan: enough for people and later commands, no secret.
#[derive(Serialize)]
struct Record<'a> {
    version: &'static str,
    name: String,
    launcher: u32,
    supervisor: &'static str,
    command: Vec<String>,
    user: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    profile: Option<&'a str>,
    wall: &'static str,
    via: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    forwarder: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dns: Option<String>,
    allow: Vec<String>,
    deny: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    only: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    block: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    allow_destination: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    publish: Vec<String>,
}

/// The parent directory of all launches, from the environment of `host`.
///
/// # Errors
/// A runtime directory whose name cannot be compared.
pub fn base(root: &Path, host: &Host) -> Result<PathBuf> {
    if host.caller.is_root() {
        return Ok(root.join("run/appfw"));
    }
    // What is hidden from the app is told by names: `..` would make another of the same place.
    if let Some(directory) = host.variable("XDG_RUNTIME_DIR").map(Path::new)
        && directory.components().any(|part| part == Component::ParentDir)
    {
        bail!("XDG_RUNTIME_DIR={} has a `..` in it: name the directory itself", directory.display())
    }
    Ok(closed_bases(root, host).next().unwrap_or_else(|| base_in_tmp(root, host.caller.uid)))
}

/// Where no program behind a wall has ever been: there each launch of the user's hides all. Elsewhere, in another runtime
/// directory for one, an earlier one could have laid out what a later launch finds, and what that tells its own parts.
fn closed_bases(root: &Path, host: &Host) -> impl Iterator<Item = PathBuf> {
    let uid = host.caller.uid;
    let is_own = move |directory: &PathBuf| fs::metadata(directory).is_ok_and(|found| is_own(&found, uid));
    let usual = Some(session::runtimes(root).join(uid.to_string()));
    let runtimes = host.runtime_directory(root).into_iter().chain(usual).filter(is_own);
    let home = host.caller.home.strip_prefix("/").into_iter().filter(|home| !home.as_os_str().is_empty());
    let home = home.map(|home| root.join(home)).filter(is_own).map(|home| home.join(AT_HOME)).filter(|base| {
        let there = base.ancestors().find(|above| above.exists());
        there.is_some_and(|there| accessat(CWD, there, Access::WRITE_OK, AtFlags::EACCESS).is_ok())
    });
    runtimes.map(|runtime| runtime.join("appfw")).chain(home)
}

/// Below what is the user's configuration to every launch.
const AT_HOME: &str = ".config/appfw/run";

/// The parent directory of an ordinary user's launches without a runtime directory and without a home.
#[must_use]
pub fn base_in_tmp(root: &Path, uid: u32) -> PathBuf {
    root.join(format!("tmp/appfw-{uid}"))
}

impl State {
    /// Makes the directory of this launch, and removes those that nobody holds any more.
    ///
    /// # Errors
    /// The name is in use; the directory cannot be written.
    pub fn create(base: &Path, plan: &Plan, host: &Host) -> Result<Self> {
        make_own(base, &host.caller)?;
        remove_stale(base, host.caller.uid);
        if let Some(profile) = plan.shares_circuits() {
            circuits::share(&base.join(circuits::file(profile)))?;
        }
        let state = Self::take(base.join(plan.name.to_string()), plan)?;
        state.fill(plan, host).inspect_err(|_| state.remove())?;
        Ok(state)
    }

    /// Makes and holds the directory. One that is empty and that nobody holds is of a launcher that was killed
    /// before it could write down that it is its own.
    fn take(directory: PathBuf, plan: &Plan) -> Result<Self> {
        // Whoever removes stale ones takes no empty one for that meanwhile.
        let base = directory.parent().and_then(|base| File::open(base).ok());
        let _making = base.and_then(|base| Flock::lock(base, FlockArg::LockShared).ok());
        let is_new = match DirBuilder::new().mode(0o700).create(&directory) {
            Ok(()) => true,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error).with_context(|| format!("cannot write {}", directory.display())),
        };
        let held = lock(&directory).inspect_err(|_| {
            if is_new {
                let _ = fs::remove_dir(&directory);
            }
        })?;
        match held {
            Some(lock) if is_new || is_empty(&directory) => Ok(Self { directory, _lock: lock }),
            _ => bail!("the name {} is in use by {}; choose another --unit", plan.name, holder(&directory)),
        }
    }

    fn fill(&self, plan: &Plan, host: &Host) -> Result<()> {
        let directory = &self.directory;
        let failed = || format!("cannot write {}", directory.display());
        let user = plan.app.user();
        if host.caller.is_root() {
            // The app's user must get at the control socket, and no other.
            chown(directory, None, Some(user.gid)).with_context(failed)?;
            fs::set_permissions(directory, fs::Permissions::from_mode(0o710)).with_context(failed)?;
        }
        let write = |name: &str, mode: u32, text: &str| -> Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(directory.join(name))
                .with_context(failed)?;
            // The caller's umask must not make these unreadable to the app, nor the mode wider.
            file.set_permissions(fs::Permissions::from_mode(mode)).with_context(failed)?;
            file.write_all(text.as_bytes()).with_context(failed)
        };
        write("plan.json", 0o600, &serde_json::to_string_pretty(&record(plan))?)?;
        write("resolv.conf", 0o644, &resolver::resolv_conf(plan))?;
        if let Some(nsswitch) = &host.nsswitch {
            write("nsswitch.conf", 0o644, &resolver::with_host_lookups(nsswitch, plan.resolver))?;
        }
        // Without a systemd the launcher tells its forwarder itself; a permanent unit has a credential of its own.
        if plan.via.has_secret() && plan.supervisor != Supervisor::Standalone && !plan.is_permanent() {
            write("via", 0o600, &(plan.via.secret_specs().join("\n") + "\n"))?;
        }
        if !host.appfw_is_public {
            // Where the program is bound to, in the app's unit.
            write("appfw", 0o600, "")?;
        }
        Ok(())
    }

    /// Makes it for a permanent unit that is being started, in the place of what its last start has left.
    ///
    /// # Errors
    /// A launch has the name; the directory cannot be written.
    pub fn renew(base: &Path, plan: &Plan, host: &Host) -> Result<Self> {
        let directory = base.join(plan.name.to_string());
        match fs::symlink_metadata(&directory) {
            // Its launcher holds it for as long as it lives.
            Ok(_) if lock(&directory)?.is_some() => {
                fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
            }
            _ => {}
        }
        Self::create(base, plan, host)
    }

    /// Makes the sockets by which units find the launcher.
    ///
    /// # Errors
    /// The directory cannot be written.
    pub fn sockets(&self, plan: &Plan) -> Result<Sockets> {
        let failed = || format!("cannot write {}", self.directory.display());
        let listen = |name: &str, mode: u32| -> Result<UnixListener> {
            let socket = self.directory.join(name);
            let listener = UnixListener::bind(&socket).with_context(failed)?;
            fs::set_permissions(&socket, fs::Permissions::from_mode(mode)).with_context(failed)?;
            listener.set_nonblocking(true).with_context(failed)?;
            Ok(listener)
        };
        // The others' users aren't known yet: whose process reports is seen when it does.
        let publish = (!plan.publish.is_empty()).then(|| listen("publish", 0o666)).transpose()?;
        let sockets = Sockets { control: listen("control", 0o600)?, report: listen("report", 0o666)?, publish };
        chown(self.directory.join("control"), Some(plan.app.user().uid), None).with_context(failed)?;
        Ok(sockets)
    }

    /// The file that a forwarder which no journal hears writes to.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn log(&self) -> Result<File> {
        let path = self.directory.join("log");
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        opened.with_context(|| format!("cannot write {}", path.display()))
    }

    /// Removes it, if systemd hasn't yet.
    pub fn remove(&self) {
        // What cannot be removed now is stale, and the next launch's to remove. To look for what is in it takes a
        // descriptor, of which there may be none left.
        let _ = fs::remove_dir_all(&self.directory).or_else(|_| fs::remove_dir(&self.directory));
    }
}

/// Where launches of the caller's may be kept: a launch may have been made with another XDG_RUNTIME_DIR than
/// this process has, as from a session, cron or `su`. What is not there, or not the caller's alone, is left out.
///
/// # Errors
/// Those of [`base`].
pub fn bases(root: &Path, host: &Host) -> Result<Vec<PathBuf>> {
    let mut bases = vec![base(root, host)?];
    if !host.caller.is_root() {
        bases.extend(closed_bases(root, host).chain([base_in_tmp(root, host.caller.uid)]));
        bases.dedup();
    }
    bases.retain(|base| fs::symlink_metadata(base).is_ok_and(|found| is_own(&found, host.caller.uid)));
    Ok(bases)
}

/// Whether nobody but this user can have written there.
fn is_own(found: &fs::Metadata, uid: u32) -> bool {
    found.is_dir() && found.uid() == uid && found.mode() & 0o022 == 0
}

/// Where launches would have it else.
const WAY_ROUND: &str = ", or have a session (/run/user/UID) or a home of your own";

/// Root's can be passed through, not listed: an app of another user connects to its launch's socket.
fn make_own(base: &Path, caller: &User) -> Result<()> {
    let mode = if caller.is_root() { 0o711 } else { 0o700 };
    let made = DirBuilder::new().recursive(true).mode(mode).create(base);
    let writable = |error: std::io::Error| match error.kind() {
        ErrorKind::ReadOnlyFilesystem => anyhow::anyhow!(
            "{} is on a read-only file system, and each launch keeps its files there; mount a tmpfs at {} (in a container: --tmpfs {1})",
            base.display(),
            base.parent().unwrap_or(base).display()
        ),
        _ => anyhow::Error::new(error).context(format!("cannot make {}", base.display())),
    };
    // What has the name and is no directory, a link that leads nowhere for one, is told below.
    made.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(writable(error)) })?;
    let found = fs::symlink_metadata(base).with_context(|| format!("cannot look at {}", base.display()))?;
    if !is_own(&found, caller.uid) {
        let way_round = if caller.is_root() { "" } else { WAY_ROUND };
        bail!("{} is not a directory of the caller's alone; remove it{way_round}", base.display());
    }
    // The caller's umask may have made it narrower.
    fs::set_permissions(base, fs::Permissions::from_mode(mode)).map_err(writable)
}

/// A lock on a launch's directory; `None` if another process holds it.
fn lock(directory: &Path) -> Result<Option<Flock<File>>> {
    let opened = File::open(directory).with_context(|| format!("cannot open {}", directory.display()))?;
    match Flock::lock(opened, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error).with_context(|| format!("cannot lock {}", directory.display())),
    }
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).is_ok_and(|mut entries| entries.next().is_none())
}

fn record(plan: &Plan) -> Record<'_> {
    let lists = plan.lists();
    Record {
        version: env!("CARGO_PKG_VERSION"),
        name: plan.name.to_string(),
        launcher: std::process::id(),
        supervisor: plan.supervisor.as_str(),
        command: plan.command.iter().map(|word| word.to_string_lossy().into_owned()).collect(),
        user: &plan.app.user().name,
        profile: plan.profile.as_deref(),
        wall: plan.wall.as_str(),
        via: plan.via.to_string(),
        forwarder: plan.has_forwarder().then(|| plan.address.to_string()),
        dns: plan.has_forwarder().then(|| plan.dns.to_string()),
        allow: lists.allow.iter().map(ToString::to_string).collect(),
        deny: lists.deny.iter().map(ToString::to_string).collect(),
        only: written(&plan.destinations.only),
        block: written(&plan.destinations.block),
        allow_destination: written(&plan.allow_destination),
        publish: written(&plan.publish),
    }
}

fn written(list: &[impl ToString]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{host, host_of, plan_on};

    /// A place for launches of this process's user, and that user's host.
    fn place() -> (tempfile::TempDir, PathBuf, Host) {
        let place = tempfile::tempdir().unwrap();
        let base = place.path().join("appfw");
        let mut host = host();
        host.caller.uid = nix::unistd::geteuid().as_raw();
        (place, base, host)
    }

    fn planned(host: &Host, line: &str) -> Plan {
        plan_on(host, &format!("--system {line}").split(' ').collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_password_stands_in_a_private_file_alone() {
        let (_place, base, host) = place();
        let plan = planned(&host, "--via socks5h://alice:hunter2@203.0.113.20 --unit web curl");
        let state = State::create(&base, &plan, &host).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        let _sockets = state.sockets(&plan).unwrap();
        // Root's can be passed through by the app's user: by its group.
        let passed = if host.caller.is_root() { (0o711, 0o710) } else { (0o700, 0o700) };
        assert_eq!((mode(&base), mode(&state.directory)), passed);
        for (name, expected) in
            [("plan.json", 0o600), ("via", 0o600), ("resolv.conf", 0o644), ("nsswitch.conf", 0o644), ("control", 0o600)]
        {
            let file = state.directory.join(name);
            assert_eq!(mode(&file), expected, "{name}");
            let text = fs::read_to_string(&file).unwrap_or_default();
            assert_eq!(text.contains("hunter2"), name == "via", "{name}");
        }
        state.remove();
        assert!(!state.directory.exists());
    }

    #[test]
    fn the_record_holds_what_the_forwarder_lets_through() {
        let (_place, base, host) = place();
        let read = |line: &str| -> serde_json::Value {
            let plan = planned(&host, line);
            let state = State::create(&base, &plan, &host).unwrap();
            serde_json::from_str(&fs::read_to_string(state.directory.join("plan.json")).unwrap()).unwrap()
        };
        let record = read("--via direct --unit a --only A.test --block *.b.test:443 --allow-destination 10.0.0.1 x");
        let rules = ["only", "block", "allow_destination"].map(|name| record[name][0].as_str().unwrap());
        assert_eq!(rules, ["a.test", "*.b.test:443", "10.0.0.1"]);
        assert!(read("--via direct --unit b x").get("only").is_none());
    }

    #[test]
    fn a_name_in_use_is_told_with_its_holder_and_a_stale_one_is_free() {
        let (_place, base, host) = place();
        let plan = planned(&host, "--via direct --unit web curl");
        let held = State::create(&base, &plan, &host).unwrap();
        let message = format!("{:#}", State::create(&base, &plan, &host).unwrap_err());
        let holder = format!("process {} running \"curl\"", std::process::id());
        assert_eq!(message, format!("the name web is in use by {holder}; choose another --unit"));

        drop(held); // as a launcher that was killed
        fs::create_dir_all(base.join("not-ours/at-all")).unwrap();
        let held = State::create(&base, &plan, &host).unwrap();
        assert!(base.join("not-ours").exists());

        held.remove();
        drop(held);
        fs::create_dir(base.join("web")).unwrap(); // as one that was killed before it wrote anything
        fs::create_dir(base.join("another")).unwrap();
        fs::create_dir(base.join("held")).unwrap();
        let held = lock(&base.join("held")).unwrap();
        State::create(&base, &plan, &host).unwrap();
        assert!(!base.join("another").exists() && base.join("not-ours").exists() && base.join("held").exists());
        drop(held);
        fs::create_dir_all(base.join("web/of-somebody")).unwrap();
        fs::remove_file(base.join("web/plan.json")).unwrap();
        assert!(State::create(&base, &plan, &host).is_err());
    }

    #[test]
    fn a_directory_that_others_could_write_is_refused() {
        let (_place, base, host) = place();
        let plan = planned(&host, "--via direct curl");
        fs::create_dir(&base).unwrap();
        fs::set_permissions(&base, fs::Permissions::from_mode(0o777)).unwrap();
        let message = State::create(&base, &plan, &host).unwrap_err().to_string();
        let way_round = if host.caller.is_root() { "" } else { WAY_ROUND };
        assert!(
            message.ends_with(&format!("is not a directory of the caller's alone; remove it{way_round}")),
            "{message}"
        );
        fs::remove_dir(&base).unwrap();
        for target in ["/tmp", "nowhere"] {
            std::os::unix::fs::symlink(target, &base).unwrap();
            assert_eq!(State::create(&base, &plan, &host).unwrap_err().to_string(), message, "{target}");
            fs::remove_file(&base).unwrap();
        }
    }

    /// An ordinary user, and a root directory with directories of that user's.
    fn someone(directories: &[&str]) -> (tempfile::TempDir, Host) {
        let place = tempfile::tempdir().unwrap();
        let mut host = host_of("alice");
        // Nobody's number but this process's can be had without root; as root's it would be the system's place.
        host.caller.uid = nix::unistd::geteuid().as_raw().max(1000);
        host.caller.home = "/home/alice".into();
        for directory in directories {
            let directory = place.path().join(directory.replace("UID", &host.caller.uid.to_string()));
            fs::create_dir_all(&directory).unwrap();
            chown(&directory, Some(host.caller.uid), None).unwrap();
        }
        (place, host)
    }

    #[test]
    fn launches_are_looked_for_wherever_a_caller_may_have_kept_them() {
        let places =
            ["run/user/UID", "run/user/UID/appfw", "home/alice", "home/alice/.config/appfw/run", "tmp/appfw-UID"];
        let (place, mut alice) = someone(&places);
        let [session, home, elsewhere] = [1, 3, 4]
            .map(|index: usize| place.path().join(places[index].replace("UID", &alice.caller.uid.to_string())));
        assert_eq!(bases(place.path(), &alice).unwrap(), [session.clone(), home.clone(), elsewhere.clone()]);
        // Another user could have put it there.
        fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o777)).unwrap();
        alice.environment = vec![("XDG_RUNTIME_DIR".into(), session.parent().unwrap().into())];
        assert_eq!(bases(place.path(), &alice).unwrap(), [session, home]);
    }

    #[test]
    fn the_state_is_where_no_program_behind_a_wall_has_been() {
        let root = Path::new("/root-of-test");
        assert_eq!(base(root, &host()).unwrap(), root.join("run/appfw"));
        let all = ["run/user/UID", "home/alice", "tmp/runtime-alice"];
        for (there, expected) in [
            (&all[..], "run/user/UID/appfw"),
            (&all[1..], "home/alice/.config/appfw/run"),
            (&all[2..], "tmp/appfw-UID"),
        ] {
            let (place, mut alice) = someone(there);
            let at = |name: &str| place.path().join(name.replace("UID", &alice.caller.uid.to_string()));
            let expected = at(expected);
            let others = ["", "relative", "run/user", "run/user/0", "tmp/runtime-alice", "gone"].map(at);
            for runtime in others {
                alice.environment = vec![("XDG_RUNTIME_DIR".into(), runtime.into())];
                assert_eq!(base(place.path(), &alice).unwrap(), expected);
            }
        }
        // By the name of what it is: what a link leads to can change.
        let (place, mut alice) = someone(&all);
        let (real, link) = (place.path().join(format!("run/user/{}", alice.caller.uid)), place.path().join("tmp/link"));
        std::os::unix::fs::symlink(&real, &link).unwrap();
        alice.environment = vec![("XDG_RUNTIME_DIR".into(), link.into())];
        assert_eq!(base(place.path(), &alice).unwrap(), real.canonicalize().unwrap().join("appfw"));
        alice.environment = vec![("XDG_RUNTIME_DIR".into(), "/run/user/../foo".into())];
        assert!(base(root, &alice).unwrap_err().to_string().contains("has a `..` in it"));
    }
}
