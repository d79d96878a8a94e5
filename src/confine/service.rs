//! What an existing service is, as systemd holds it. Pure, but for [`Service::read`].

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use zbus::zvariant::Value as Variant;

use super::exec::Exec;
use super::paths::Paths;
use crate::manager::{Kind, Manager, Properties};
use crate::units::SHARED;
use crate::verify::is_empty;
use crate::view::SHOWN_TO_SERVICES;

/// Commands of a service that run before its main process, or where that never ran: none may come before the proof.
pub const GUARDED: [&str; 3] = ["ExecCondition", "ExecStartPre", "ExecStopPost"];

/// Its other ones but `ExecStart=`, which run when a start was proven alone.
const LATER: [&str; 3] = ["ExecStartPost", "ExecReload", "ExecStop"];

/// Settings that lay what they name over the service's file system, and over that of a command with `+` as well.
pub const OVERLAYS: [&str; 3] = ["MountImages", "ExtensionImages", "ExtensionDirectories"];

/// A service of another's making, less what our own drop-in has added to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name, which is no alias.
    pub name: String,
    /// Whether it is there, and how: `loaded`, `masked`, `not-found` …
    pub load_state: String,
    /// Its own file.
    pub fragment: Option<PathBuf>,
    /// Drop-ins, in the order in which they apply.
    pub drop_ins: Vec<PathBuf>,
    /// Whether it runs.
    pub is_active: bool,
    /// Whether systemd holds something else than its files say.
    pub needs_reload: bool,
    /// Which of its starts this is (`INVOCATION_ID`, systemd.exec(5)).
    pub invocation: String,
    /// `Type=`.
    pub kind: String,
    /// `User=`; root's if empty.
    pub user: String,
    /// `DynamicUser=`.
    pub dynamic_user: bool,
    /// The slice that it is in.
    pub slice: String,
    /// `ExecStart=`.
    pub start: Vec<Exec>,
    /// The commands of each directive of [`GUARDED`].
    pub guarded: [Vec<Exec>; 3],
    /// The commands of all directives of [`LATER`].
    pub later: Vec<Exec>,
    /// `PermissionsStartOnly=`, of which systemd.service(5) tells no more: all commands but the main one have a `+`.
    pub frees_other_commands: bool,
    /// Whether it may be stopped and started by hand (`RefuseManualStop=`, `RefuseManualStart=`).
    pub is_at_hand: bool,
    /// `RestrictAddressFamilies=`; `None` if all are allowed.
    pub families: Option<Families>,
    /// `SystemCallFilter=`.
    pub calls: Calls,
    /// `AmbientCapabilities=`.
    pub ambient: u64,
    /// What it has for itself of [`SHARED`].
    pub private: Vec<&'static str>,
    /// `PrivateTmp=disconnected` (systemd 257).
    pub has_own_tmp: bool,
    /// `ProtectControlGroups=strict` (systemd 257).
    pub has_own_cgroups: bool,
    /// `PIDFile=`.
    pub pid_file: Option<PathBuf>,
    /// Its main process; 0 if there is none.
    pub main: u32,
    /// Whether its stop leaves processes (`KillMode=process` or `none`).
    pub leaves_processes: bool,
    /// Whether systemd has `DelegateSubgroup=` (254), and with that another rule for names of cgroups.
    pub has_subgroups: bool,
    /// `BusName=`.
    pub bus_name: String,
    /// What it is ordered before.
    pub before: Vec<String>,
    /// `PAMName=`.
    pub pam_name: String,
    /// `Delegate=`.
    pub delegate: bool,
    /// What starts it.
    pub triggered_by: Vec<String>,
    /// `JoinsNamespaceOf=`.
    pub joins: Vec<String>,
    /// `RootDirectory=` or `RootImage=`.
    pub root: String,
    /// What it is shown of other places.
    pub binds: Vec<Bind>,
    /// Settings by which images or directories are laid over its file system: those that it has.
    pub overlays: Vec<&'static str>,
    /// Exit codes that are none of a failure (`SuccessExitStatus=`).
    pub successes: Vec<i32>,
    /// Whether it has `OpenFile=`.
    pub opens_files: bool,
    /// How many descriptors systemd keeps for it.
    pub kept_descriptors: u32,
    /// `Environment=`: what it holds of a file is read at each start alone.
    pub environment: Vec<String>,
    /// `NetworkNamespacePath=`.
    pub namespace_path: String,
    /// What else of the file system its settings name.
    pub paths: Paths,
}

/// One of `BindPaths=` or `BindReadOnlyPaths=`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// The path on the host.
    pub source: String,
    /// The path in the service.
    pub target: String,
    /// Whether it can be written to there.
    pub is_writable: bool,
    /// Whether the source need not be there.
    pub is_optional: bool,
    /// Whether what is mounted below comes along.
    pub is_recursive: bool,
}

impl Bind {
    /// One of [`super::dropin::DropIn`]'s.
    fn is_ours(&self) -> bool {
        Path::new(&self.source).starts_with(super::CONFINED)
            || self.source == self.target && SHOWN_TO_SERVICES.contains(&self.source.as_str())
    }
}

/// What a list of system calls is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Calls {
    /// Those that are denied, if any are.
    Denied,
    /// Those that are allowed; others fail (`SystemCallErrorNumber=`), or end the process.
    Allowed {
        /// Whether they fail.
        others_fail: bool,
    },
}

/// A list of address families.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Families {
    /// Whether these alone are allowed, or these alone are not.
    pub allow: bool,
    /// `AF_…`
    pub names: BTreeSet<String>,
}

impl Service {
    /// The service of that name.
    ///
    /// # Errors
    /// systemd does not tell.
    pub async fn read(manager: &Manager<'_>, name: &str) -> Result<Self> {
        let unit = manager.properties(name, Kind::Unit).await?;
        let service = manager.properties(name, Kind::Service).await?;
        let mut read = Self::of(&unit, &service).with_context(|| format!("cannot tell what {name} is"))?;
        // Of what is deprecated systemd tells who asks for it by name alone.
        read.frees_other_commands = match manager.property(name, Kind::Service, "PermissionsStartOnly").await {
            Ok(held) => *held == Variant::Bool(true),
            // As where it is no setting any more.
            Err(error) if matches!(error.downcast_ref(), Some(zbus::fdo::Error::UnknownProperty(_))) => false,
            Err(error) => return Err(error),
        };
        Ok(read)
    }

    /// From the properties of its two interfaces, which are all but one.
    ///
    /// # Errors
    /// One is missing, or not of its kind.
    pub fn of(unit: &Properties, service: &Properties) -> Result<Self> {
        let name = text(unit, "Id")?;
        let own = |exec: &Exec| !is_ours(exec, &name);
        let commands = |directive: &str| -> Result<Vec<Exec>> {
            let held = of(service, &format!("{directive}Ex"))?;
            Ok(Exec::list(directive, held)?.into_iter().filter(own).collect())
        };
        let [condition, pre, post] = GUARDED;
        let [posted, reload, stop] = LATER;
        let fragment = text(unit, "FragmentPath")?;
        let maker = super::name_of(&name).ok().map(|name| [name.socket(), name.publisher()]);
        let is_our_servant = |joined: &String| maker.as_ref().is_some_and(|servants| servants.contains(joined));
        Ok(Self {
            load_state: text(unit, "LoadState")?,
            fragment: (!fragment.is_empty()).then(|| fragment.into()),
            drop_ins: words(unit, "DropInPaths")?.into_iter().map(PathBuf::from).collect(),
            is_active: !["inactive", "failed"].contains(&&*text(unit, "ActiveState")?),
            needs_reload: flag(unit, "NeedDaemonReload")?,
            invocation: bytes(unit, "InvocationID")?,
            kind: text(service, "Type")?,
            user: text(service, "User")?,
            dynamic_user: flag(service, "DynamicUser")?,
            slice: text(service, "Slice")?,
            start: commands("ExecStart")?,
            guarded: [commands(condition)?, commands(pre)?, commands(post)?],
            later: [commands(posted)?, commands(reload)?, commands(stop)?].concat(),
            frees_other_commands: false,
            is_at_hand: flag(unit, "CanStart")? && flag(unit, "CanStop")?,
            families: families(of(service, "RestrictAddressFamilies")?)?,
            calls: calls(of(service, "SystemCallFilter")?, of(service, "SystemCallErrorNumber")?)?,
            ambient: number(service, "AmbientCapabilities")?,
            private: SHARED.into_iter().filter(|name| is_true(service, name)).collect(),
            has_own_tmp: service.get("PrivateTmpEx").is_some_and(|held| **held == Variant::from("disconnected")),
            has_own_cgroups: service
                .get("ProtectControlGroupsEx")
                .is_some_and(|held| **held == Variant::from("strict")),
            pid_file: Some(text(service, "PIDFile")?).filter(|path| !path.is_empty()).map(PathBuf::from),
            main: match of(service, "MainPID")? {
                Variant::U32(process) => *process,
                _ => bail!("systemd tells MainPID= in an unknown form"),
            },
            leaves_processes: ["process", "none"].contains(&&*text(service, "KillMode")?),
            has_subgroups: service.contains_key("DelegateSubgroup"),
            bus_name: text(service, "BusName")?,
            before: words(unit, "Before")?,
            pam_name: text(service, "PAMName")?,
            delegate: flag(service, "Delegate")?,
            triggered_by: words(unit, "TriggeredBy")?,
            joins: words(unit, "JoinsNamespaceOf")?.into_iter().filter(|joined| !is_our_servant(joined)).collect(),
            root: text(service, "RootDirectory")? + &text(service, "RootImage")?,
            binds: [binds(service, "BindPaths", true)?, binds(service, "BindReadOnlyPaths", false)?].concat(),
            overlays: OVERLAYS
                .into_iter()
                .filter(|name| service.get(*name).is_some_and(|held| !is_empty(held)))
                .collect(),
            successes: successes(of(service, "SuccessExitStatus")?)?.0,
            // Of systemd 253.
            opens_files: service.get("OpenFile").is_some_and(|files| !is_empty(files)),
            kept_descriptors: match of(service, "NFileDescriptorStore")? {
                Variant::U32(number) => *number,
                _ => bail!("systemd tells NFileDescriptorStore= in an unknown form"),
            },
            environment: words(service, "Environment")?,
            namespace_path: text(service, "NetworkNamespacePath")?,
            paths: Paths::of(service),
            name,
        })
    }

    /// Files that may say something else than our drop-in.
    #[must_use]
    pub fn others(&self, own: &Path) -> Vec<String> {
        let files = self.fragment.iter().chain(&self.drop_ins).filter(|path| **path != own);
        files.map(|path| path.display().to_string()).collect()
    }

    /// Another of its files that is newer than our drop-in, which repeats commands of theirs. What `systemctl
    /// set-property` has written, and what a generator writes anew at each reload, is none if it says nothing of those.
    #[must_use]
    pub fn newer(&self, own: &Path) -> Option<String> {
        const MADE_BY_SYSTEMD: [&str; 2] = [".control/", "/systemd/generator"];
        let is_of_commands = |path: &String| {
            let is_made = MADE_BY_SYSTEMD.iter().any(|part| path.contains(part));
            let text = if is_made { std::fs::read_to_string(path).ok() } else { None };
            text.is_none_or(|text| GUARDED.iter().any(|directive| text.contains(directive)))
        };
        // A package's file was modified when that was built; here it has been since this.
        let changed = |path: &Path| path.metadata().map(|found| (found.ctime(), found.ctime_nsec()));
        let written = changed(own).ok()?;
        let is_newer = |path: &String| changed(path.as_ref()).is_ok_and(|other| other > written);
        self.others(own).into_iter().find(|path| is_newer(path) && is_of_commands(path))
    }

    /// Whether it runs as root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        let is_root = |user: &str| {
            let found = nix::unistd::User::from_name(user).ok().flatten();
            user.parse() == Ok(0_u32) || found.is_some_and(|found| found.uid.is_root())
        };
        // Who is there under that name is taken instead of a dynamic user.
        if self.user.is_empty() { !self.dynamic_user } else { is_root(&self.user) }
    }

    /// Whether it can do with files what root can: it is root, a command of its is, it can become so, or no permission stops it.
    #[must_use]
    pub fn is_like_root(&self) -> bool {
        /// CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID, SETPCAP, MKNOD and SETFCAP
        /// (linux/capability.h).
        const LIKE_ROOT: [u32; 10] = [0, 1, 2, 3, 4, 6, 7, 8, 27, 31];
        let mut commands = self.start.iter().chain(self.guarded.iter().flatten()).chain(&self.later);
        self.is_root() || commands.any(Exec::is_roots) || LIKE_ROOT.iter().any(|bit| self.ambient >> bit & 1 == 1)
    }

    /// The slices above it, from its own to the root's (systemd.slice(5): what is above one stands in its name).
    #[must_use]
    pub fn slices(&self) -> Vec<String> {
        let mut slices = Vec::new();
        let mut words = self.slice.trim_end_matches(".slice");
        while !words.is_empty() && words != "-" {
            slices.push(format!("{words}.slice"));
            words = words.rsplit_once('-').map_or("", |(above, _)| above);
        }
        slices.push(crate::name::ROOT_SLICE.to_owned());
        slices
    }

    /// Its cgroup, as `/proc/PID/cgroup` shows it.
    #[must_use]
    pub fn cgroup(&self) -> String {
        let below_root = self.slices().into_iter().rev().skip(1);
        below_root
            .chain([self.name.clone()])
            .map(|unit| format!("/{}", in_cgroups(&unit, self.has_subgroups)))
            .collect()
    }
}

/// A unit's name in a path of cgroups: where it could be a file's of the kernel's, systemd puts a line before it (cg_escape
/// in src/basic/cgroup-util.c, and all controllers of 252 to 257). From 254 on a controller's name is looked for before the
/// first dot, earlier before the last one.
fn in_cgroups(unit: &str, before_first: bool) -> String {
    const CONTROLLERS: [&str; 13] = [
        "cpu",
        "cpuacct",
        "cpuset",
        "io",
        "blkio",
        "memory",
        "devices",
        "pids",
        "bpf-firewall",
        "bpf-devices",
        "bpf-foreign",
        "bpf-socket-bind",
        "bpf-restrict-network-interfaces",
    ];
    let parts = if before_first { unit.split_once('.') } else { unit.rsplit_once('.') };
    let is_a_controllers = parts.is_some_and(|(first, _)| CONTROLLERS.contains(&first));
    let is_escaped = unit.starts_with(['_', '.']) || unit.starts_with("cgroup.") || is_a_controllers;
    format!("{}{unit}", if is_escaped { "_" } else { "" })
}

/// Whether it is the proof that our drop-in has put first.
fn is_ours(exec: &Exec, service: &str) -> bool {
    let drop_in = super::drop_in_path(service);
    matches!(exec.argv.as_slice(), [_, ready, file, ..] if ready == "ready" && *file == drop_in.to_string_lossy())
}

fn of<'a>(properties: &'a Properties, name: &str) -> Result<&'a Variant<'static>> {
    properties.get(name).map(|value| &**value).with_context(|| format!("systemd does not tell its {name}="))
}

/// Of a property that not every version has.
fn is_true(properties: &Properties, name: &str) -> bool {
    properties.get(name).is_some_and(|held| **held == Variant::Bool(true))
}

fn text(properties: &Properties, name: &str) -> Result<String> {
    match of(properties, name)? {
        Variant::Str(text) => Ok(text.to_string()),
        _ => bail!("systemd tells {name}= in an unknown form"),
    }
}

/// Of the form a(ssbt): source, target, whether a missing one is ignored, and MS_REC of mount(2) or nothing.
fn binds(properties: &Properties, name: &str, is_writable: bool) -> Result<Vec<Bind>> {
    const MS_REC: u64 = 0x4000;
    let read = |item: &Variant<'_>| match item {
        Variant::Structure(fields) => match fields.fields() {
            [Variant::Str(source), Variant::Str(target), Variant::Bool(is_optional), Variant::U64(flags)] => {
                Some(Bind {
                    source: source.to_string(),
                    target: target.to_string(),
                    is_writable,
                    is_optional: *is_optional,
                    is_recursive: flags & MS_REC != 0,
                })
            }
            _ => None,
        },
        _ => None,
    };
    let all: Option<Vec<Bind>> = match of(properties, name)? {
        Variant::Array(list) => list.inner().iter().map(read).collect(),
        _ => None,
    };
    let all = all.with_context(|| format!("systemd tells {name}= in an unknown form"))?;
    Ok(all.into_iter().filter(|bind| !bind.is_ours()).collect())
}

fn words(properties: &Properties, name: &str) -> Result<Vec<String>> {
    match of(properties, name)? {
        Variant::Array(list) => {
            Ok(list.inner().iter().filter_map(|word| <&str>::try_from(word).ok()).map(str::to_owned).collect())
        }
        _ => bail!("systemd tells {name}= in an unknown form"),
    }
}

/// As systemd writes them into a service's environment.
fn bytes(properties: &Properties, name: &str) -> Result<String> {
    match of(properties, name)? {
        Variant::Array(list) => Ok(list
            .inner()
            .iter()
            .filter_map(|byte| u8::try_from(byte).ok())
            .map(|byte| format!("{byte:02x}"))
            .collect()),
        _ => bail!("systemd tells {name}= in an unknown form"),
    }
}

fn flag(properties: &Properties, name: &str) -> Result<bool> {
    match of(properties, name)? {
        Variant::Bool(on) => Ok(*on),
        _ => bail!("systemd tells {name}= in an unknown form"),
    }
}

fn number(properties: &Properties, name: &str) -> Result<u64> {
    match of(properties, name)? {
        Variant::U64(number) => Ok(*number),
        _ => bail!("systemd tells {name}= in an unknown form"),
    }
}

/// Exit codes and signals that systemd counts as no failure.
///
/// # Errors
/// It tells them in another form than (aiai).
pub fn successes(held: &Variant<'_>) -> Result<(Vec<i32>, Vec<i32>)> {
    let list = |field: &Variant<'_>| match field {
        Variant::Array(array) => Some(array.inner().iter().filter_map(|item| i32::try_from(item).ok()).collect()),
        _ => None,
    };
    match held {
        Variant::Structure(pair) => match pair.fields() {
            [codes, signals] => list(codes).zip(list(signals)),
            _ => None,
        },
        _ => None,
    }
    .context("systemd tells SuccessExitStatus= in an unknown form")
}

/// A filter of the form (bas): whether the names are allowed alone, or denied, and the names.
pub(super) fn listed(held: &Variant<'_>) -> Option<(bool, BTreeSet<String>)> {
    let Variant::Structure(pair) = held else { return None };
    let [Variant::Bool(allow), Variant::Array(names)] = pair.fields() else { return None };
    let names = names.inner().iter().filter_map(|word| <&str>::try_from(word).ok());
    Some((*allow, names.map(str::to_owned).collect()))
}

fn calls(filter: &Variant<'_>, error: &Variant<'_>) -> Result<Calls> {
    /// SECCOMP_ERROR_NUMBER_KILL, which is the default (systemd: src/shared/seccomp-util.h).
    const KILL: i32 = i32::MAX - 1;
    match (listed(filter), error) {
        (Some((true, _)), Variant::I32(error)) => Ok(Calls::Allowed { others_fail: *error != KILL }),
        (Some((false, _)), _) => Ok(Calls::Denied),
        _ => bail!("systemd tells SystemCallFilter= or SystemCallErrorNumber= in an unknown form"),
    }
}

/// An empty list that denies is no list; an empty one that allows is `none`.
fn families(held: &Variant<'_>) -> Result<Option<Families>> {
    let (allow, names) = listed(held).context("systemd tells RestrictAddressFamilies= in an unknown form")?;
    Ok(Some(Families { allow, names }).filter(|families| families.allow || !families.names.is_empty()))
}
