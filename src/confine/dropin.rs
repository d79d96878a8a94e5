//! The drop-in that confines a service: what is added to its settings, and what takes the place of its lists. The
//! service's own file stays as it is. Pure.

use std::path::{Path, PathBuf};

use zbus::zvariant::Value as Variant;

use super::exec::Exec;
use super::service::{Bind, Calls, Families, GUARDED, OVERLAYS, Service, listed, successes};
use super::{confined, drop_in_path, maker};
use crate::cli::WallKind;
use crate::confinement::{DENIED_CALLS, FAMILIES, OPENING, filter, set};
use crate::host::Host;
use crate::manager::Properties;
use crate::plan::{Plan, Resolver};
use crate::units::text::{lines, quoted};
use crate::units::{LINKERS, PRIVATE_TMP, Setting, TOR, Value, transient};
use crate::view::OfService;
use crate::{exit, verify};

/// Lists in which the wall's own take the place of the service's: what these would add opens it.
const REPLACED: [&str; 4] = ["IPAddressDeny", "IPAddressAllow", "RestrictAddressFamilies", "SystemCallArchitectures"];

/// Lists of which only this matters, that ours is in them.
const ADDED: [&str; 6] = [
    "Environment",
    "UnsetEnvironment",
    "TemporaryFileSystem",
    "BindReadOnlyPaths",
    "IPIngressFilterPath",
    "IPEgressFilterPath",
];

const SUCCESSES: &str = "SuccessExitStatus";

/// Variables by which programs are told what needs no proxy, or another one.
const MISLEADING: [&str; 6] = ["no_proxy", "NO_PROXY", "ftp_proxy", "FTP_PROXY", "SOCKS_SERVER", "socks_proxy"];

/// `zz-appfw.conf`.
#[derive(Debug, Clone, PartialEq)]
pub struct DropIn {
    /// `[Unit]`.
    unit: Vec<Setting>,
    /// `[Service]`, less what follows.
    service: Vec<Setting>,
    /// What of the file system is hidden, or read-only: the directive and the path.
    paths: Vec<(&'static str, String)>,
    /// The service's own bind mounts.
    binds: Vec<Bind>,
    /// Exit codes that are none of a failure.
    successes: Vec<i32>,
    /// The proof, and the service's own commands after it, by directive.
    commands: Vec<(&'static str, Vec<String>, Vec<Exec>)>,
}

impl DropIn {
    /// The drop-in of a plan for a service.
    #[must_use]
    pub fn new(plan: &Plan, host: &Host, service: &Service) -> Self {
        // A dynamic user is there as long as the service runs, and has no home.
        let user = Some(if service.user.is_empty() { "root" } else { &service.user }).filter(|_| !service.dynamic_user);
        let home = user.and_then(|user| (host.find_user)(user).ok()).map(|user| user.home);
        let view = OfService::new(plan, service.is_like_root(), home.as_deref());
        let own = |path: &Path| path.to_string_lossy().into_owned();
        let hidden = view.hidden.iter().map(|path| ("InaccessiblePaths", own(path)));
        let read_only = view.read_only.iter().map(|path| ("ReadOnlyPaths", own(path)));
        let shown = view.shown.iter().map(|path| ("BindReadOnlyPaths", own(path)));
        let mut settings = wall(plan, service);
        settings.extend(privileges(service));
        settings.extend(environment(plan));
        let empty = view.empty.iter().map(|path| (own(path), "ro".to_owned())).collect();
        settings.push(set("TemporaryFileSystem", Value::FileSystems(empty)));
        settings.extend(resolver(plan, host));
        Self {
            unit: dependencies(plan),
            service: settings,
            paths: shown.chain(hidden).chain(read_only).collect(),
            binds: service.binds.clone(),
            // Where a proof that fails counts as none, the service starts all the same.
            successes: service.successes.iter().copied().filter(|code| !is_of_a_proof(*code)).collect(),
            commands: commands(host, service),
        }
    }

    /// What of the file system it hides (`InaccessiblePaths`), or makes read-only (`ReadOnlyPaths`).
    pub(super) fn covered(&self, directive: &str) -> Vec<PathBuf> {
        self.paths.iter().filter(|(covers, _)| *covers == directive).map(|(_, path)| path.into()).collect()
    }

    /// The file, less its mark.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = "[Unit]\n".to_owned();
        for line in self.unit.iter().flat_map(lines) {
            text += &format!("{line}\n");
        }
        text += "\n[Service]\n";
        // Of both kinds, as what is laid over other places later would be over the proof as well.
        text += "BindPaths=\n";
        for bind in &self.binds {
            let directive = if bind.is_writable { "BindPaths" } else { "BindReadOnlyPaths" };
            let optional = if bind.is_optional { "-" } else { "" };
            let kind = if bind.is_recursive { "rbind" } else { "norbind" };
            let (source, target) = (quoted(&bind.source), quoted(&bind.target));
            text += &format!("{directive}={optional}{source}:{target}:{kind}\n");
        }
        for setting in &self.service {
            if REPLACED.contains(&setting.directive) {
                text += &format!("{}=\n", setting.directive);
            }
            for line in lines(setting).iter().filter(|line| !line.ends_with('=')) {
                text += &format!("{line}\n");
            }
        }
        for (directive, path) in &self.paths {
            text += &format!("{directive}=-{}\n", quoted(path));
        }
        for (directive, proof, own) in &self.commands {
            let [proof] = &lines(&set(directive, Value::Privileged(proof.clone())))[..] else { continue };
            text += &format!("{directive}=\n{proof}\n");
            for exec in own {
                text += &format!("{directive}={}\n", exec.text());
            }
        }
        text += &format!("{SUCCESSES}=\n");
        if !self.successes.is_empty() {
            let codes: Vec<String> = self.successes.iter().map(ToString::to_string).collect();
            text += &format!("{SUCCESSES}={}\n", codes.join(" "));
        }
        for directive in OVERLAYS {
            text += &format!("{directive}=\n");
        }
        // What is added later would run before the proof, or where that fails.
        for directive in GUARDED.iter().filter(|one| !self.commands.iter().any(|(directive, ..)| directive == *one)) {
            text += &format!("{directive}=\n");
        }
        text
    }

    /// What it sets beyond another one, if anything.
    pub(super) fn added(&self, other: &Self) -> Option<String> {
        let (text, other) = (self.text(), other.text());
        let others = other.lines().map(Some).chain(std::iter::repeat(None));
        let (line, _) = text.lines().zip(others).find(|(line, other)| Some(*line) != *other)?;
        line.split('=').next().map(str::to_owned)
    }

    /// What of it systemd does not hold, if anything: a drop-in that comes later, or settings made at run time.
    #[must_use]
    pub fn missing(&self, unit: &Properties, service: &Properties) -> Option<&'static str> {
        let settings = self.service.iter().find(|setting| !holds(setting, service)).map(|setting| setting.directive);
        let paths = || {
            let is_there = |(directive, path): &&(&'static str, String)| {
                service.get(*directive).is_some_and(|held| names(held).any(|held| held.trim_start_matches('-') == path))
            };
            self.paths.iter().filter(|(directive, _)| *directive != "BindReadOnlyPaths").find(|path| !is_there(path))
        };
        let commands = || self.commands.iter().find(|(directive, proof, _)| !comes_first(service, directive, proof));
        let namespace = || {
            let asked = self.unit.iter().find(|setting| setting.directive == "JoinsNamespaceOf");
            let asked = asked.map(|setting| transient::plain(&setting.value));
            // Mutual from systemd 254 on, so that the service may be said to join who joins it.
            let is_held = |asked: &Variant<'_>| {
                let held = unit.get("JoinsNamespaceOf");
                held.is_some_and(|held| names(asked).all(|asked| names(held).any(|held| held == asked)))
            };
            asked.is_some_and(|asked| !is_held(&asked))
        };
        let succeeds = || {
            let (codes, signals) = service.get(SUCCESSES).and_then(|held| successes(held).ok())?;
            Some(signals.is_empty() && !codes.iter().any(|code| is_of_a_proof(*code)))
        };
        let overlay =
            || OVERLAYS.into_iter().find(|name| service.get(*name).is_some_and(|held| !verify::is_empty(held)));
        settings
            .or_else(|| (succeeds() != Some(true)).then_some(SUCCESSES))
            .or_else(overlay)
            .or_else(|| paths().map(|(directive, _)| *directive))
            .or_else(|| commands().map(|(directive, ..)| *directive))
            .or_else(|| namespace().then_some("JoinsNamespaceOf"))
    }
}

/// Whether a proof may end with this code, or systemd's attempt to run it (systemd.exec(5): from 200 on).
fn is_of_a_proof(code: i32) -> bool {
    const PANIC: i32 = 101;
    (code == PANIC) || (i32::from(exit::OURS)..=127).contains(&code) || code >= 200
}

/// What else must be there, and whose namespace the service's is.
fn dependencies(plan: &Plan) -> Vec<Setting> {
    let socket = plan.has_socket_unit().then(|| plan.name.socket());
    let needed: Vec<String> =
        socket.into_iter().chain(plan.has_publisher_socket().then(|| plan.name.publisher_socket())).collect();
    // Each request dials it anew, so that it may come up later as well.
    let own_tor = TOR.into_iter().filter(|unit| plan.via.is_by_local_tor() && *unit != plan.app_unit());
    let wanted: Vec<String> = own_tor.map(str::to_owned).collect();
    let after = needed.iter().chain(&wanted).cloned().collect();
    let joined = maker(plan).into_iter().collect();
    [("Requires", needed), ("Wants", wanted), ("After", after), ("JoinsNamespaceOf", joined)]
        .into_iter()
        .filter(|(_, units)| !units.is_empty())
        .map(|(directive, units)| set(directive, Value::Words(units)))
        .collect()
}

fn wall(plan: &Plan, service: &Service) -> Vec<Setting> {
    // A socket that was kept is one made before the wall.
    let mut settings = vec![set("FileDescriptorStoreMax", Value::Number(0))];
    if plan.wall != WallKind::Address {
        settings.push(set("PrivateNetwork", Value::Bool(true)));
    }
    let lists = plan.lists();
    settings.push(set("IPAddressDeny", Value::Networks(lists.deny)));
    settings.push(set("IPAddressAllow", Value::Networks(lists.allow)));
    settings.extend(plan.filters.settings().map(|(directive, paths)| set(directive, Value::Words(paths))));
    settings.push(set("RestrictAddressFamilies", families(service.families.as_ref())));
    settings
}

/// What both the wall and the service allow.
fn families(own: Option<&Families>) -> Value {
    let is_allowed = |name: &str| own.is_none_or(|own| own.names.contains(name) == own.allow);
    let names: Vec<String> = FAMILIES.into_iter().filter(|name| is_allowed(name)).map(str::to_owned).collect();
    if names.is_empty() { Value::NoFamilies } else { Value::Filter { allow: true, names } }
}

/// In a list of what is allowed an entry must not have the error that the others have, or systemd cannot make the filter
/// (libseccomp: EACCES): that is SystemCallErrorNumber=, and from systemd 253 on ENOSYS for calls that it does not know.
fn denied_calls(own: Calls) -> Vec<String> {
    let entry = |call: &str| {
        let name = call.split(':').next().unwrap_or(call);
        match own {
            Calls::Denied => call.to_owned(),
            Calls::Allowed { others_fail: true } => name.to_owned(),
            Calls::Allowed { others_fail: false } => format!("{name}:EPERM"),
        }
    };
    DENIED_CALLS.into_iter().map(entry).collect()
}

fn privileges(service: &Service) -> Vec<Setting> {
    let mut settings = vec![
        // The family filter does not know 32-bit socketcall(2).
        set("SystemCallArchitectures", Value::Words(vec!["native".into()])),
        set("SystemCallFilter", Value::Filter { allow: false, names: denied_calls(service.calls) }),
        filter("CapabilityBoundingSet", false, &OPENING.map(|(name, _)| name)),
    ];
    if service.is_like_root() {
        // Else it would move out of its cgroup, or have the kernel run something outside.
        let kernel = ["ProtectControlGroups", "ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs"];
        // A stronger one of the service's own stays.
        let kernel = kernel.into_iter().filter(|one| *one != "ProtectControlGroups" || !service.has_own_cgroups);
        settings.extend(kernel.map(|directive| set(directive, Value::Bool(true))));
    }
    if !service.has_own_tmp {
        // In the host's are the sockets of users' sessions, by which a command is run outside, by names that nobody knows
        // before; more of them come while the service runs.
        settings.push(set(PRIVATE_TMP, Value::Bool(true)));
    }
    if !service.is_root() {
        // at(1) and crontab(1) have what they are given run outside.
        settings.push(set("NoNewPrivileges", Value::Bool(true)));
    }
    settings
}

/// The proof runs in the service's environment, as root: what has other code loaded into a program is not for it.
fn environment(plan: &Plan) -> Vec<Setting> {
    let is_set = |name: &&str| plan.proxy_variables.iter().any(|(set, _)| set == name);
    let misleading = MISLEADING.into_iter().filter(|name| plan.has_forwarder() && !is_set(name));
    let unset =
        set("UnsetEnvironment", Value::Words(LINKERS.into_iter().chain(misleading).map(str::to_owned).collect()));
    let variables = plan.proxy_variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let set = plan.has_forwarder().then(|| set("Environment", Value::Words(variables)));
    set.into_iter().chain([unset]).collect()
}

/// Our own resolver configuration in the place of the host's.
fn resolver(plan: &Plan, host: &Host) -> Vec<Setting> {
    if plan.resolver == Resolver::Host {
        return Vec::new();
    }
    // systemd follows links of the target itself, into what is empty by then.
    let resolv_conf = host.has_resolv_conf.then_some("/etc/resolv.conf");
    let nsswitch = host.nsswitch.as_ref().map(|_| "/etc/nsswitch.conf");
    let binds = [(resolv_conf, "resolv.conf"), (nsswitch, "nsswitch.conf")].into_iter().filter_map(|(target, name)| {
        Some(crate::view::Bind { source: confined(&plan.name).join(name), target: target?.into() })
    });
    vec![set("BindReadOnlyPaths", Value::Binds(binds.collect()))]
}

/// The proof before whatever else would run first.
fn commands(host: &Host, service: &Service) -> Vec<(&'static str, Vec<String>, Vec<Exec>)> {
    let proof = |directive: &str| {
        let file = drop_in_path(&service.name).display().to_string();
        let mut command = vec![host.appfw.display().to_string(), "ready".to_owned(), file];
        // There, exit codes from 1 to 254 are no failure (systemd.service(5)).
        command.extend((directive == "ExecCondition").then(|| "--as-condition".to_owned()));
        command.extend((directive == "ExecStopPost").then(|| "--afterwards".to_owned()));
        command
    };
    let guarded = GUARDED.into_iter().zip(&service.guarded);
    let needed = guarded.filter(|(directive, own)| *directive == "ExecStartPre" || !own.is_empty());
    needed.map(|(directive, own)| (directive, proof(directive), own.clone())).collect()
}

fn holds(setting: &Setting, read: &Properties) -> bool {
    let held = read.get(transient::name(setting));
    match (setting.directive, &setting.value) {
        ("CapabilityBoundingSet", _) => {
            let mask = OPENING.iter().fold(0, |mask, (_, bit)| mask | 1_u64 << bit);
            held.is_some_and(|held| matches!(**held, Variant::U64(held) if held & mask == 0))
        }
        ("SystemCallFilter", Value::Filter { names, .. }) => held.is_some_and(|held| answers(held, names)),
        (directive, value) if ADDED.contains(&directive) => held.is_some_and(|held| includes(held, value)),
        _ => verify::holds(setting, read),
    }
}

/// Whether these calls, each with its error, are denied, or in no list of what is allowed.
fn answers(held: &Variant<'_>, asked: &[String]) -> bool {
    let Some((allow, list)) = listed(held) else { return false };
    let call = |entry: &str| entry.split(':').next().unwrap_or_default().to_owned();
    asked.iter().all(|asked| {
        let mut entries = list.iter().filter(|entry| call(entry) == call(asked));
        // An entry of a list that allows may be one with an error.
        if allow { entries.all(|entry| entry.contains(':')) } else { entries.next().is_some() }
    })
}

/// Whether all of ours are among what is held.
fn includes(held: &Variant<'_>, asked: &Value) -> bool {
    let items = |value: &Variant<'_>| -> Vec<String> {
        match value {
            Variant::Array(array) => array.inner().iter().map(|item| format!("{item:?}")).collect(),
            _ => Vec::new(),
        }
    };
    let held = items(held);
    items(&transient::plain(asked)).iter().all(|item| held.contains(item))
}

/// Whether the proof is the first of these commands.
fn comes_first(read: &Properties, directive: &str, proof: &[String]) -> bool {
    let held = read.get(&format!("{directive}Ex")).and_then(|held| Exec::list(directive, held).ok());
    let first = held.and_then(|commands| commands.into_iter().next());
    first.is_some_and(|first| {
        proof.first() == Some(&first.path) && first.argv == proof && first.flags == transient::PRIVILEGED
    })
}

fn names<'a>(list: &'a Variant<'a>) -> impl Iterator<Item = &'a str> {
    let items = match list {
        Variant::Array(array) => array.inner(),
        _ => &[],
    };
    items.iter().filter_map(|item| <&str>::try_from(item).ok())
}
