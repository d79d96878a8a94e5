//! What of the file system a service's settings name: shown elsewhere, opened, writable, emptied. Each is walked anew at
//! every start, so none may lead elsewhere then, and none to what the wall hides or keeps as it is.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use zbus::zvariant::Value as Variant;

use super::dropin::DropIn;

use super::service::{Bind, Service, listed};
use super::streams;
use super::tree::Tree;
use crate::manager::Properties;
use crate::view::JOURNAL_AND_NOTIFY;

/// Of the settings that name paths, those that are no bind mounts; and the interfaces, as these are of no other use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Paths {
    /// `StandardInput=` and its kin, where they are files: the directive, and how it is opened.
    pub streams: Vec<(&'static str, String)>,
    /// What else root opens for it, by its directive: a terminal, credentials.
    pub opened: Vec<(&'static str, PathBuf)>,
    /// `ReadWritePaths=`.
    pub writable: Vec<PathBuf>,
    /// Directories that systemd makes for it and gives to its user, and links to them, by the directive.
    pub made: Vec<(&'static str, PathBuf)>,
    /// `TemporaryFileSystem=`.
    pub empty: Vec<PathBuf>,
    /// Whether its own loopback interface is closed to it (`RestrictNetworkInterfaces=`).
    pub is_without_loopback: bool,
}

impl Paths {
    /// From the properties of the service. Those that are missing are of later versions.
    #[must_use]
    pub fn of(service: &Properties) -> Self {
        let text = |name: &str| match service.get(name).map(|held| &**held) {
            Some(Variant::Str(text)) => text.as_str(),
            _ => "",
        };
        // Of each entry, or of its fields that one.
        let column = |name: &str, which: usize| -> Vec<String> {
            let items = match service.get(name).map(|held| &**held) {
                Some(Variant::Array(items)) => items.inner(),
                _ => &[],
            };
            let word = |item: &Variant<'_>| match item {
                Variant::Structure(pair) => {
                    pair.fields().get(which).and_then(|path| <&str>::try_from(path).ok()).map(str::to_owned)
                }
                item => <&str>::try_from(item).ok().map(str::to_owned),
            };
            items.iter().filter_map(word).collect()
        };
        let words = |name: &str| column(name, 0);
        let streams = streams::DIRECTIVES.map(|directive| (directive, text(directive).to_owned()));
        let terminal = streams.iter().any(|(_, kind)| kind.starts_with("tty")).then(|| text("TTYPath").to_owned());
        let credentials = ["LoadCredential", "LoadCredentialEncrypted"]
            .into_iter()
            .flat_map(|directive| column(directive, 1).into_iter().map(move |path| (directive, path)));
        let opened = terminal.map(|path| ("TTYPath", path)).into_iter().chain(credentials);
        let made = MADE.into_iter().flat_map(|(directive, top)| {
            // `StateDirectory=a:b/c` makes a link to a at b/c (systemd 252: source, place and flags).
            let links = column(&format!("{directive}Symlink"), 1);
            let all = words(directive).into_iter().chain(links);
            all.map(move |directory| (directive, Path::new(top).join(directory)))
        });
        let plain = |path: String| PathBuf::from(path.trim_start_matches(['-', '+']));
        let interfaces = service.get("RestrictNetworkInterfaces").and_then(|held| listed(held));
        Self {
            streams: streams.into_iter().filter(|(_, kind)| streams::FILES.contains(&kind.as_str())).collect(),
            // Others are looked for in directories of the system's.
            opened: opened
                .map(|(directive, path)| (directive, PathBuf::from(path)))
                .filter(|(_, path)| path.is_absolute())
                .collect(),
            writable: words("ReadWritePaths").into_iter().map(plain).collect(),
            made: made.collect(),
            empty: words("TemporaryFileSystem").into_iter().map(plain).collect(),
            is_without_loopback: interfaces.is_some_and(|(allow, names)| {
                // An empty list that denies is none.
                names.contains("lo") != allow && (allow || !names.is_empty())
            }),
        }
    }
}

/// Where systemd makes directories (systemd.exec(5)).
const MADE: [(&str, &str); 5] = [
    ("RuntimeDirectory", "/run"),
    ("StateDirectory", "/var/lib"),
    ("CacheDirectory", "/var/cache"),
    ("LogsDirectory", "/var/log"),
    ("ConfigurationDirectory", "/etc"),
];

/// What the proof is, is made of, asks and reads: a command with `+` is shown what the unit's binds say, too.
const TRUSTED: [&str; 15] = [
    "/usr/lib",
    "/usr/lib32",
    "/usr/lib64",
    "/lib",
    "/lib64",
    "/proc",
    "/sys",
    "/run/dbus",
    "/run/systemd",
    "/etc/appfw",
    "/etc/systemd",
    "/etc/ld.so.preload",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/passwd",
];

/// Where root would act on the kernel: what of it is closed by settings (ProtectKernelTunables=) is open elsewhere.
const KERNEL: [&str; 2] = ["/proc", "/sys"];

/// # Errors
/// A bind mount of the service's shows it a way out, or is in the way of the proof.
pub(super) fn refuse_binds(service: &Service, appfw: &Path) -> Result<()> {
    let name = &service.name;
    for Shown { bind, source, target } in &shown(service, &Tree::of_host())? {
        let is_shown = JOURNAL_AND_NOTIFY.iter().any(|shown| source.path.starts_with(shown));
        if meet(&source.path, Path::new("/run")) && !is_shown {
            bail!(
                "{name} is shown {} elsewhere (BindPaths=, BindReadOnlyPaths=), and with that sockets by which it leaves any wall",
                bind.source
            );
        }
        let mut trusted = TRUSTED.iter().map(Path::new).chain([appfw]);
        if source.path != target.path && trusted.any(|place| meet(place, &target.path)) {
            bail!(
                "{name} has {} in the place of {} (BindPaths=, BindReadOnlyPaths=), where the proof of its wall comes from or what that asks",
                bind.source,
                bind.target
            );
        }
        if bind.source.contains(':') || bind.target.contains(':') {
            bail!("{name} has a colon in what it is shown of {} (BindPaths=, BindReadOnlyPaths=)", bind.source);
        }
    }
    Ok(())
}

/// Looks at where a service of the system has its files, which PID 1 opens and mounts.
///
/// # Errors
/// Others than root can have them elsewhere at the next start, or they are what its wall hides or keeps.
pub(super) fn refuse(service: &Service, drop_in: &DropIn, appfw: &Path) -> Result<()> {
    let tree = Tree::of_host();
    let covered = Covered::new(service, drop_in);
    for shown in &shown(service, &tree)? {
        refuse_changeable(&service.name, shown)?;
        covered.refuse_bind(&service.name, shown)?;
    }
    covered.refuse_writable(service, &tree)?;
    covered.refuse_own(service, &tree)?;
    streams::refuse(service, &tree)?;
    refuse_opened(service, &tree)?;
    refuse_made(service, &tree)?;
    refuse_empty(service, &tree, appfw)?;
    if service.paths.is_without_loopback {
        bail!(
            "{} may not use the loopback interface (RestrictNetworkInterfaces=), by which its wall is proven: add lo to what it may use, in a drop-in (systemctl edit {0})",
            service.name
        );
    }
    Ok(())
}

/// # Errors
/// A bind mount shows an ordinary user's own service what its launcher hides from it.
pub(super) fn refuse_hidden(service: &Service, hidden: Vec<PathBuf>) -> Result<()> {
    let covered = Covered { hidden, read_only: Vec::new(), kernel: &[], private: &[] };
    shown(service, &Tree::of_host())?.iter().try_for_each(|shown| covered.refuse_bind(&service.name, shown))
}

/// A bind mount, and where it is from and at.
struct Shown<'a> {
    bind: &'a Bind,
    source: super::tree::Place,
    target: super::tree::Place,
}

/// In the order in which they are mounted, as one may be on the way to another (src/core/namespace.c).
fn shown<'a>(service: &'a Service, host: &Tree) -> Result<Vec<Shown<'a>>> {
    let mut binds: Vec<&Bind> = service.binds.iter().collect();
    binds.sort_by_key(|bind| Path::new(&bind.target));
    let mut view = host.clone();
    let mut shown = Vec::new();
    for bind in binds {
        // What is shown is found as if nothing were.
        let source = host.place(Path::new(&bind.source))?;
        let target = view.place(Path::new(&bind.target))?;
        view.show(source.path.clone(), target.path.clone());
        shown.push(Shown { bind, source, target });
    }
    Ok(shown)
}

fn refuse_changeable(name: &str, Shown { bind, source, target }: &Shown<'_>) -> Result<()> {
    match source.changeable.as_ref().or(target.changeable.as_ref()) {
        Some(directory) => bail!(
            "{name} is shown {} at {} (BindPaths=, BindReadOnlyPaths=), and others than root can put a link into {}, by which it would be shown something else, or in the place of its wall's proof: have both in directories that root alone can write",
            bind.source,
            bind.target,
            directory.display()
        ),
        None => Ok(()),
    }
}

/// What the drop-in takes out of the service's file system, or keeps it from writing.
struct Covered {
    hidden: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
    kernel: &'static [&'static str],
    /// Its own, in the place of the host's.
    private: &'static [&'static str],
}

impl Covered {
    fn new(service: &Service, drop_in: &DropIn) -> Self {
        Self {
            hidden: drop_in.covered("InaccessiblePaths"),
            read_only: drop_in.covered("ReadOnlyPaths"),
            // An ordinary user's is kept from it by permissions alone, there as elsewhere.
            kernel: if service.is_like_root() { &KERNEL } else { &[] },
            private: &["/tmp"],
        }
    }

    fn kernel(&self) -> impl Iterator<Item = &Path> {
        self.kernel.iter().map(Path::new)
    }

    fn read_only(&self) -> impl Iterator<Item = &Path> {
        self.read_only.iter().map(PathBuf::as_path).chain(self.kernel())
    }

    fn refuse_bind(&self, name: &str, Shown { bind, source, target }: &Shown<'_>) -> Result<()> {
        let source = &source.path;
        let private = self.private.iter().map(Path::new).find(|place| meet(place, source));
        let met = if source == &target.path {
            // What is above it is covered where it is; the same place once more takes the cover away.
            self.read_only().filter(|_| bind.is_writable).find(|place| source.starts_with(place))
        } else {
            let hidden = self.hidden.iter().map(PathBuf::as_path).chain(self.kernel());
            let written = self.read_only().filter(|_| bind.is_writable);
            hidden.chain(written).find(|place| meet(place, source))
        };
        match met.or(private) {
            Some(place) => bail!(
                "{name} is shown {} at {} (BindPaths=, BindReadOnlyPaths=), and with that {}, which its wall hides from it or keeps it from writing: take that out in a drop-in (systemctl edit {name})",
                bind.source,
                bind.target,
                place.display()
            ),
            None => Ok(()),
        }
    }

    /// Whose sockets and files others ask for is an agent itself, and would not find its own place.
    fn refuse_own(&self, service: &Service, tree: &Tree) -> Result<()> {
        let own = service.paths.made.iter().map(|(directive, path)| (*directive, path.as_path()));
        let pid_file = service.pid_file.iter().map(|path| ("PIDFile", path.as_path()));
        for (directive, path) in own.chain(pid_file) {
            let place = tree.place(path)?.path;
            if let Some(hidden) = self.hidden.iter().find(|hidden| place.starts_with(hidden)) {
                bail!(
                    "{} has files of its own in {} ({directive}={}), which every wall hides, as what is asked there leads out: it cannot be confined",
                    service.name,
                    hidden.display(),
                    path.display()
                );
            }
        }
        Ok(())
    }

    /// An ordinary user's service can write nothing more by that.
    fn refuse_writable(&self, service: &Service, tree: &Tree) -> Result<()> {
        let made = service.paths.made.iter().map(|(_, path)| path);
        for path in service.paths.writable.iter().chain(made).filter(|_| service.is_like_root()) {
            let place = tree.place(path)?.path;
            if let Some(kept) = self.read_only().find(|kept| place.starts_with(kept)) {
                bail!(
                    "{0} may write to {1} (ReadWritePaths=, RuntimeDirectory=, ConfigurationDirectory=), and its wall keeps root from writing to {2}: take that out in a drop-in (systemctl edit {0})",
                    service.name,
                    path.display(),
                    kept.display()
                );
            }
        }
        Ok(())
    }
}

fn refuse_opened(service: &Service, tree: &Tree) -> Result<()> {
    for (directive, path) in &service.paths.opened {
        if let Some(directory) = tree.place(path)?.changeable {
            bail!(
                "{} has {} as its {directive}=, which root opens, and others than root can put a link into {}, by which that would be any other: have it in a directory that root alone can write",
                service.name,
                path.display(),
                directory.display()
            );
        }
    }
    Ok(())
}

/// With all that is in it systemd gives such a directory to the service's user, wherever links on the way to it lead; not
/// where it is a link itself (src/core/exec-invoke.c, setup_exec_directory).
fn refuse_made(service: &Service, tree: &Tree) -> Result<()> {
    for (directive, path) in &service.paths.made {
        let above = path.parent().unwrap_or(path);
        if let Some(directory) = tree.place(above)?.changeable {
            bail!(
                "{} has systemd make {} ({directive}=), and others than root can put a link into {}, by which any directory of root's would be given to it, or a link be put there: name none, and no link, below what is the service's own already, and have it make that itself",
                service.name,
                path.display(),
                directory.display()
            );
        }
    }
    Ok(())
}

/// What lies below one that is mounted later is seen all the same, and so is what is shown there.
fn refuse_empty(service: &Service, tree: &Tree, appfw: &Path) -> Result<()> {
    let ours = [Path::new("/run/systemd"), Path::new("/run/systemd/system")];
    for path in service.paths.empty.iter().filter(|path| !ours.contains(&path.as_path())) {
        let place = tree.place(path)?.path;
        let mut needed = TRUSTED.iter().map(Path::new).chain([appfw, Path::new("/var/run")]);
        if let Some(lost) = needed.find(|needed| needed.starts_with(&place)) {
            bail!(
                "{0} has nothing but an empty directory at {1} (TemporaryFileSystem=), where {2} is, and its wall is proven by that: name only what is to be empty below it, in a drop-in (systemctl edit {0})",
                service.name,
                path.display(),
                lost.display()
            );
        }
    }
    Ok(())
}

/// Whether one of them is, or holds, the other.
fn meet(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

#[cfg(test)]
mod tests;
