//! The forwarder's service: in the host's network namespace, without privileges, filtered to its
//! upstream where that is an address.

use std::path::Path;
use std::time::Duration;

use super::{INNER, Places, Setting, Unit, Value, appfw, lists, word, words};
use crate::cli::{Isolate, LogDestinations, WallKind};
use crate::control;
use crate::destination::{Pattern, Rules};
use crate::dns::Dns;
use crate::host::Host;
use crate::name;
use crate::network::{self, IpLists};
use crate::plan::Plan;
use crate::via::{Endpoint, Via};
use crate::view::Bind;

/// Sets of system calls (systemd.exec(5)) that moving bytes between sockets has no use for.
const DENIED_CALLS: [&str; 12] = [
    "@clock",
    "@cpu-emulation",
    "@debug",
    "@keyring",
    "@module",
    "@mount",
    "@obsolete",
    "@privileged",
    "@raw-io",
    "@reboot",
    "@resources",
    "@swap",
];

/// The one with capset(2).
const GIVING_UP: &str = "@privileged";

/// The name of the credential that holds a via with a password.
const CREDENTIAL: &str = "via";
/// The name of the one by which a profile's launches share Tor's circuits.
const CIRCUITS: &str = "circuits";

pub(super) fn unit(plan: &Plan, host: &Host, places: &Places) -> Unit {
    let name = plan.name.forwarder();
    let mut unit = Unit::new(plan, name.clone(), format!("Forwarder of {}", plan.whole()));
    if plan.has_socket_unit() {
        // It stops with the socket, which BindsTo= would keep needed for ever.
        unit.unit("PartOf", words([&plan.name.socket()]));
        unit.unit("After", words([&plan.name.socket()]));
    } else {
        // It stops with the app, which wants it.
        unit.unit("StopWhenUnneeded", Value::Bool(true));
    }
    // A crash of the forwarder must never be the end of the launch: it comes back at once, the
    // socket stays, and connections wait there.
    comes_back(&mut unit, plan, host);
    if plan.has_socket_unit() {
        of_system(&mut unit, plan, host, places);
    } else {
        of_user(&mut unit, plan, host, places);
    }
    harden(&mut unit, false);
    unit
}

/// A service of the launch's: one that crashes is there again at once.
pub(super) fn comes_back(unit: &mut Unit, plan: &Plan, host: &Host) {
    unit.kind("Type", word("exec"));
    if plan.has_fixed_program(host) {
        unit.unit("StartLimitIntervalSec", Value::Span(Duration::ZERO));
        // What it says itself, by its exit code, does not go away by another try.
        unit.kind("Restart", word("on-abnormal"));
    } else {
        // The app could put another file in its place: it is never executed again, by its socket neither.
        unit.unit("StartLimitIntervalSec", Value::Span(Duration::MAX));
        unit.unit("StartLimitBurst", Value::Number(1));
    }
    unit.kind("RestartSec", Value::Span(Duration::ZERO));
    unit.kind("StandardInput", word("null"));
    unit.kind("StandardOutput", word("null"));
    unit.kind("StandardError", word("journal"));
}

/// Has systemd keep what the service was handed: for one that dies, and past the launcher's end.
pub(super) fn keeps_descriptors(unit: &mut Unit) {
    unit.kind("NotifyAccess", word("main"));
    unit.kind("FileDescriptorStoreMax", Value::Number(u32::try_from(control::MAX_DESCRIPTORS).unwrap_or(u32::MAX)));
}

/// As a user of its own, to whom nothing of the launch is shown but what it needs.
fn of_system(unit: &mut Unit, plan: &Plan, host: &Host, places: &Places) {
    let (appfw, bind) = appfw(host, Path::new(INNER).join("appfw"));
    unit.kind("ExecStart", Value::Exec(command(plan, &unit.name.clone(), appfw)));
    let via = plan.via.has_secret().then(|| (CREDENTIAL, places.credential.clone()));
    let credentials = via.into_iter().chain(places.circuits(plan).map(|file| (CIRCUITS, file)));
    let credentials: Vec<_> = credentials.map(|(name, file)| (name.into(), file.display().to_string())).collect();
    if !credentials.is_empty() {
        unit.kind("LoadCredential", Value::Pairs(credentials));
    }
    let report = Bind { source: places.state.join("report"), target: format!("{INNER}/report").into() };
    let report = (!plan.is_permanent()).then_some(report);
    unit.kind("TemporaryFileSystem", Value::FileSystems(vec![(INNER.into(), "mode=0755".into())]));
    let binds: Vec<_> = bind.into_iter().chain(report).collect();
    if !binds.is_empty() {
        unit.kind("BindPaths", Value::Binds(binds));
    }
    unit.kind.extend(lists(filter(plan)));
    unit.kind.extend(socket_group(&plan.via, host));
    harden_as_system(unit);
}

/// As the caller: the user's own manager has no other user, and mounts nothing that could be relied on.
fn of_user(unit: &mut Unit, plan: &Plan, host: &Host, places: &Places) {
    let at = |name: &str| places.state.join(name).display().to_string();
    let report = format!("--report={}", at("report"));
    let mut command = vec![host.appfw.display().to_string(), "forward".into(), report, "--handed".into()];
    command.extend(forwarding(plan, &at(CREDENTIAL)));
    command.extend(places.circuits(plan).map(|file| sharing(&file)));
    unit.kind("ExecStart", Value::Exec(command));
    keeps_descriptors(unit);
}

fn command(plan: &Plan, name: &str, appfw: String) -> Vec<String> {
    let mut command = vec![appfw, "forward".into()];
    // Without a launcher the journal alone hears it.
    command.extend((!plan.is_permanent()).then(|| format!("--report={INNER}/report")));
    let credential = |file: &str| format!("/run/credentials/{name}/{file}");
    command.extend(forwarding(plan, &credential(CREDENTIAL)));
    command.extend(plan.shares_circuits().map(|_| sharing(Path::new(&credential(CIRCUITS)))));
    if plan.wall == WallKind::Address {
        // On the host's loopback anybody can knock: only the app's own cgroup is served.
        command.push(format!("--peer-cgroup={}", name::cgroup_directory(&plan.app_cgroup())));
    }
    command
}

/// What the forwarder lets through, and where to: whoever starts it. A via with a password stands in
/// `secret`.
pub(crate) fn forwarding(plan: &Plan, secret: &str) -> Vec<String> {
    let via = match &plan.via {
        via if via.has_secret() => vec![format!("@{secret}")],
        via => via.secret_specs(),
    };
    let mut command = Vec::new();
    command.extend(via.iter().map(|spec| format!("--via={spec}")));
    if plan.isolate != Isolate::default() {
        command.push(format!("--isolate={}", plan.isolate.as_str()));
    }
    if plan.log_destinations == LogDestinations::No {
        command.push("--log-destinations=no".into());
    }
    if plan.dns != Dns::Off {
        command.push(format!("--dns={}", plan.dns));
    }
    let Rules { only, block } = &plan.destinations;
    for (option, patterns) in [("only", only), ("block", block), ("allow-destination", &plan.allow_destination)] {
        command.extend(patterns.iter().map(|pattern| format!("--{option}={pattern}")));
    }
    command
}

/// By what it shares circuits with others, which nobody else is to know.
pub(crate) fn sharing(key: &Path) -> String {
    format!("--isolate-key={}", key.display())
}

/// The group by which the forwarder may connect to an upstream's Unix socket: debian-tor's, say.
fn socket_group(via: &Via, host: &Host) -> Option<Setting> {
    let group = (host.group_of)(via.socket()?)?;
    Some(Setting { directive: "SupplementaryGroups", value: words([&group.to_string()]) })
}

/// Only its upstream, where that is an address; nothing by IP at all where it is a Unix socket. In a
/// chain the first hop is the one that it connects to. What `--allow-destination` opens of the host's
/// loopback it reaches itself.
fn filter(plan: &Plan) -> IpLists {
    let endpoint = match &plan.via {
        Via::Chain(hops) => hops.first().map(|hop| &hop.endpoint),
        Via::Direct | Via::None => None,
    };
    let upstream = match endpoint {
        Some(Endpoint::Unix(_)) => None,
        Some(endpoint) => match endpoint.ip() {
            Some(ip) => Some(network::host(ip)),
            // An upstream by name is resolved by the forwarder: its resolver's address isn't ours to know.
            None => return IpLists::default(),
        },
        None => return IpLists::default(),
    };
    IpLists::only(upstream.into_iter().chain(plan.allow_destination.iter().flat_map(Pattern::loopback)))
}

/// The most that a proxy can do without; `systemd-analyze security` is part of the tests.
///
/// Left out: ProtectKernelTunables= and PrivateDevices=, whose mounts take longer than the rest of a
/// launch together (tests/bench). A user without capabilities can't write tunables, and
/// DevicePolicy= closes the devices. PrivateUsers=: root owns such a namespace, and an app that runs
/// as root would so have every capability over the forwarder in it, ptrace(2) among them.
pub(super) fn harden_as_system(unit: &mut Unit) {
    for directive in [
        "DynamicUser",
        "PrivateTmp",
        "ProtectClock",
        "ProtectControlGroups",
        "ProtectHostname",
        "ProtectKernelLogs",
        "ProtectKernelModules",
        "RemoveIPC",
    ] {
        unit.kind(directive, Value::Bool(true));
    }
    unit.kind("DevicePolicy", word("closed"));
    unit.kind("KeyringMode", word("private"));
    unit.kind("ProtectHome", word("yes"));
    unit.kind("ProtectSystem", word("strict"));
    unit.kind("ProtectProc", word("invisible"));
    unit.kind("ProcSubset", word("pid"));
    unit.kind("CapabilityBoundingSet", Value::Capabilities(0));
}

/// What seccomp and prctl(2) do, for every manager. Who `joins` namespaces gives up itself what it needed for that.
pub(super) fn harden(unit: &mut Unit, joins: bool) {
    for directive in
        ["NoNewPrivileges", "LockPersonality", "MemoryDenyWriteExecute", "RestrictRealtime", "RestrictSUIDSGID"]
    {
        unit.kind(directive, Value::Bool(true));
    }
    unit.kind("UMask", Value::Number(0o077));
    if !joins {
        unit.kind("RestrictNamespaces", Value::NoNamespaces);
    }
    // AF_NETLINK: the host's own addresses, which are inside, and whose socket a client is.
    let families = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"].map(str::to_owned).to_vec();
    unit.kind("RestrictAddressFamilies", Value::Filter { allow: true, names: families });
    unit.kind("SystemCallArchitectures", words(["native"]));
    // What is denied, not what is allowed: libseccomp takes 15 ms longer for @system-service.
    let denied = DENIED_CALLS.into_iter().filter(|set| !(joins && *set == GIVING_UP));
    unit.kind("SystemCallFilter", Value::Filter { allow: false, names: denied.map(str::to_owned).collect() });
    unit.kind("SystemCallErrorNumber", Value::Errno(nix::errno::Errno::EPERM));
}
