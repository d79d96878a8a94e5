//! What the plan must know of the machine and of the caller, read once.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::unistd;
use rustix::fs::{Access, access};

use crate::session;

/// A user of the passwd database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Numeric user.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Home directory.
    pub home: PathBuf,
    /// Login shell.
    pub shell: PathBuf,
}

impl User {
    /// Whether it is uid 0.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.uid == 0
    }

    /// By name or number.
    ///
    /// # Errors
    /// No such user, or the database cannot be read.
    pub fn find(word: &str) -> Result<Self> {
        let found = match word.parse() {
            Ok(uid) => unistd::User::from_uid(unistd::Uid::from_raw(uid)),
            Err(_) => unistd::User::from_name(word),
        };
        match found.with_context(|| format!("cannot look up user {word:?}"))? {
            Some(user) => Ok(user.into()),
            None => bail!("there is no user {word:?}"),
        }
    }

    /// The caller. A container may run its programs as a user whom its passwd database does not have.
    fn caller() -> Result<Self> {
        let uid = unistd::geteuid();
        let found = unistd::User::from_uid(uid).with_context(|| format!("cannot look up user {uid}"))?;
        // setpriv(1), and who starts a container, leave the home of somebody else.
        let is_own =
            |home: &PathBuf| home.is_absolute() && home.metadata().is_ok_and(|found| found.uid() == uid.as_raw());
        let nameless = || Self {
            name: uid.to_string(),
            uid: uid.as_raw(),
            gid: unistd::getegid().as_raw(),
            home: std::env::var_os("HOME").map(PathBuf::from).filter(is_own).unwrap_or("/".into()),
            shell: "/bin/sh".into(),
        };
        Ok(found.map_or_else(nameless, Into::into))
    }
}

impl From<unistd::User> for User {
    fn from(user: unistd::User) -> Self {
        Self { name: user.name, uid: user.uid.as_raw(), gid: user.gid.as_raw(), home: user.dir, shell: user.shell }
    }
}

/// The machine and the caller, as the plan sees them.
#[derive(Clone)]
pub struct Host {
    /// The caller.
    pub caller: User,
    /// The caller's environment.
    pub environment: Vec<(OsString, OsString)>,
    /// The caller's working directory, if it still exists and is not closed to the caller, as after sudo or su.
    pub directory: Option<PathBuf>,
    /// The caller's umask.
    pub umask: u32,
    /// Which of the descriptors 0, 1 and 2 are terminals.
    pub terminals: [bool; 3],
    /// The inode number of the launcher's network namespace.
    pub network_namespace: u64,
    /// The inode number of the launcher's user namespace.
    pub user_namespace: u64,
    /// Where `appfw` is.
    pub appfw: PathBuf,
    /// Whether root alone can put another program in its place.
    pub appfw_is_roots: bool,
    /// Whether every user, in every unit, can execute it there, and root alone replace it.
    pub appfw_is_public: bool,
    /// The file that /etc/resolv.conf is, its links followed; `None` if there is none.
    pub resolv_conf: Option<PathBuf>,
    /// Whether there is an /etc/resolv.conf, even if it is a link that leads nowhere now: it may at the next start.
    pub has_resolv_conf: bool,
    /// The text of /etc/nsswitch.conf, if there is one.
    pub nsswitch: Option<String>,
    /// For the default name.
    pub random: u32,
    /// Whether a systemd is booted.
    pub booted: bool,
    /// The bus of the caller's own systemd.
    pub user_bus: Option<PathBuf>,
    /// The program that filters a message bus, where it is installed.
    pub dbus_proxy: Option<PathBuf>,
    /// systemd's major version, if it could be asked.
    pub systemd: Option<u32>,
    /// The group of a path, if it exists.
    pub group_of: fn(&Path) -> Option<u32>,
    /// Looks a user up, by name or number.
    pub find_user: fn(&str) -> Result<User>,
}

impl Host {
    /// Reads what is below `root` (`/` but in tests) and of this process.
    ///
    /// # Errors
    /// Says what of it could not be read.
    pub fn read(root: &Path) -> Result<Self> {
        let namespace = |kind: &str| {
            let path = root.join("proc/self/ns").join(kind);
            path.metadata().map(|found| found.ino()).with_context(|| format!("cannot read {}", path.display()))
        };
        let nsswitch = root.join("etc/nsswitch.conf");
        // sd_booted(3)
        let booted = root.join("run/systemd/system").is_dir();
        let appfw = find_appfw()?;
        Ok(Self {
            caller: User::caller()?,
            environment: std::env::vars_os().collect(),
            directory: std::env::current_dir().ok().filter(|directory| access(directory, Access::EXEC_OK).is_ok()),
            umask: umask(root)?,
            terminals: [
                std::io::stdin().is_terminal(),
                std::io::stdout().is_terminal(),
                std::io::stderr().is_terminal(),
            ],
            network_namespace: namespace("net")?,
            user_namespace: namespace("user")?,
            appfw_is_roots: refuse_writable(&appfw).is_ok(),
            appfw_is_public: is_public(&appfw),
            appfw,
            resolv_conf: root.join("etc/resolv.conf").canonicalize().ok(),
            has_resolv_conf: root.join("etc/resolv.conf").symlink_metadata().is_ok(),
            nsswitch: match std::fs::read_to_string(&nsswitch) {
                Ok(text) => Some(text),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
                Err(error) => return Err(error).with_context(|| format!("cannot read {}", nsswitch.display())),
            },
            random: random()?,
            booted,
            user_bus: std::env::var_os("XDG_RUNTIME_DIR")
                .and_then(|runtime| closed(root, Path::new(&runtime)))
                .and_then(user_bus)
                .filter(|_| booted),
            dbus_proxy: Some(root.join("usr/bin/xdg-dbus-proxy")).filter(|program| program.is_file()),
            systemd: None,
            group_of: |path| path.metadata().ok().map(|found| found.gid()),
            find_user: User::find,
        })
    }

    /// The same for a unit, which nobody's terminal, directory or umask is at (systemd.exec(5), "UMask=").
    #[must_use]
    pub fn for_units(self) -> Self {
        Self { directory: None, umask: 0o022, terminals: [false; 3], ..self }
    }

    /// The caller's runtime directory, where it is one of those that no app sees anything of: another one an earlier app
    /// may have filled.
    #[must_use]
    pub fn runtime_directory(&self, root: &Path) -> Option<PathBuf> {
        closed(root, Path::new(self.variable("XDG_RUNTIME_DIR")?))
    }

    /// A variable of the caller's, unless it is empty.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&OsStr> {
        let found = self.environment.iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value.as_os_str()).filter(|value| !value.is_empty())
    }
}

/// Without links: who made them could lead them elsewhere.
fn closed(root: &Path, runtime: &Path) -> Option<PathBuf> {
    let real = runtime.canonicalize().ok().filter(|_| runtime.is_absolute())?;
    let below = real.strip_prefix(session::runtimes(root)).ok()?;
    (below != Path::new("")).then_some(real.clone())
}

/// The bus that the user's systemd is on; where it is not on one, nobody could follow a launch.
fn user_bus(runtime: PathBuf) -> Option<PathBuf> {
    let (bus, private) = (runtime.join("bus"), runtime.join("systemd/private"));
    (runtime.is_absolute() && bus.exists() && private.exists()).then_some(bus)
}

/// Programs of the system are below /usr or /opt, which no setting of our units hides.
fn is_public(program: &Path) -> bool {
    let below = program.starts_with("/usr") || program.starts_with("/opt");
    let is_anybodys = |path: &Path| path.metadata().is_ok_and(|found| found.mode() & 0o001 != 0);
    // /opt/alice may be hers.
    below && refuse_writable(program).is_ok() && program.ancestors().all(is_anybodys)
}

/// What root runs again and again must be root's alone to change.
///
/// # Errors
/// Names who else may change it.
pub fn refuse_writable(program: &Path) -> Result<()> {
    for part in program.ancestors() {
        let found = part.metadata().with_context(|| format!("cannot look at {}", part.display()))?;
        if found.uid() != 0 || found.mode() & 0o022 != 0 {
            bail!(
                "{} is run at each start, outside of the wall, and {} can be changed by others than root: install appfw below /usr",
                program.display(),
                part.display()
            );
        }
    }
    Ok(())
}

/// Whether nobody but root can change a file or what stands in its place, links followed.
#[must_use]
pub fn is_roots(file: &Path) -> bool {
    let real = file.canonicalize();
    refuse_writable(file).is_ok() && real.is_ok_and(|real| refuse_writable(&real).is_ok())
}

/// `appfw` stands beside this executable, or in the directory given at build time; never found by
/// PATH, which the caller's environment chooses. `inside` checks that the versions are the same.
fn find_appfw() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where appfw-run itself is")?;
    let beside = own.with_file_name("appfw");
    let built_in = option_env!("APPFW_BINDIR").map(|directory| Path::new(directory).join("appfw"));
    let candidates: Vec<PathBuf> = std::iter::once(beside).chain(built_in).collect();
    match candidates.iter().find(|candidate| candidate.is_file()) {
        Some(appfw) => Ok(appfw.clone()),
        None => bail!(
            "the program appfw is missing, looked for {}; install it beside appfw-run",
            candidates.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ")
        ),
    }
}

/// The umask, without setting it: proc(5), "Umask" in /proc/PID/status.
fn umask(root: &Path) -> Result<u32> {
    let path = root.join("proc/self/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let field = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    Ok(field.and_then(|octal| u32::from_str_radix(octal.trim(), 8).ok()).unwrap_or(0o022))
}

fn random() -> Result<u32> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("no random numbers")?;
    Ok(u32::from_ne_bytes(bytes))
}
