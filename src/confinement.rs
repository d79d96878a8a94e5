//! What the app may not do. TO BE AUDITED, with view.rs: the wall's network settings and the
//! hardening round it (facts with versions and sources: docs/security.md). Pure.

pub mod property;

use std::collections::BTreeMap;

use crate::cli::WallKind;
use crate::host::Host;
use crate::plan::Plan;
use crate::units::{Setting, Value, lists};

/// Capabilities that programs run as root need for their work on files, users and processes. None
/// of them opens a raw socket, mounts, traces, loads modules or enters another namespace.
const CAPABILITIES: [(&str, u32); 14] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_BIND_SERVICE", 10),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_SYS_NICE", 23),
    ("CAP_SYS_RESOURCE", 24),
    ("CAP_AUDIT_WRITE", 29),
];

/// What `inside` makes the app's view of the file system with, and gives up before it executes the
/// app: mounts, and the bounding set itself.
const FOR_THE_VIEW: [(&str, u32); 2] = [("CAP_SETPCAP", 8), ("CAP_SYS_ADMIN", 21)];

/// Capabilities by which a process leaves its namespaces, its cgroup or the kernel's filters, or has sockets that no
/// filter sees. A service that is confined loses them, and keeps the rest of what it had.
pub(crate) const OPENING: [(&str, u32); 9] = [
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_MODULE", 16),
    ("CAP_SYS_RAWIO", 17),
    ("CAP_SYS_PTRACE", 19),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
    ("CAP_CHECKPOINT_RESTORE", 40),
];

/// Address families that are allowed: AF_PACKET, AF_VSOCK, AF_BLUETOOTH … are not filtered by address at all.
pub(crate) const FAMILIES: [&str; 4] = ["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"];

/// System calls that are answered with an error, each as SystemCallFilter= has it.
///
/// io_uring makes sockets past the family filter; ENOSYS because programs then do without, where a kill would end
/// them. A file handle opens what is hidden under a mount, for who has CAP_DAC_READ_SEARCH. syslog(2) is
/// ProtectKernelLogs=. The kernel has root look a key up (/sbin/request-key), in the host's own network: a name of
/// the program's choosing gets out by that.
pub(crate) const DENIED_CALLS: [&str; 6] = [
    "io_uring_setup:ENOSYS",
    "io_uring_enter:ENOSYS",
    "io_uring_register:ENOSYS",
    "open_by_handle_at:EPERM",
    "syslog:EPERM",
    "request_key:ENOSYS",
];

/// Whether the app gets a PID namespace of its own: root's, which has no user namespace to keep it
/// from root's other processes, where systemd has PrivatePIDs= (257).
#[must_use]
pub fn has_pid_namespace(plan: &Plan, host: &Host) -> bool {
    plan.app.user().is_root() && host.systemd.is_some_and(|version| version >= 257)
}

/// The settings of the app's unit that make the wall, and those that keep it from being walked round.
#[must_use]
pub fn settings(plan: &Plan, host: &Host) -> Vec<Setting> {
    let mut settings = network(plan);
    settings.extend(privileges(plan, host));
    settings
}

fn network(plan: &Plan) -> Vec<Setting> {
    let mut settings = Vec::new();
    if plan.wall != WallKind::Address {
        settings.push(set("PrivateNetwork", Value::Bool(true)));
    }
    settings.extend(lists(plan.lists()));
    settings.extend(plan.filters.settings().map(|(directive, paths)| set(directive, Value::Words(paths))));
    settings.push(filter("RestrictAddressFamilies", true, &FAMILIES));
    settings
}

fn privileges(plan: &Plan, host: &Host) -> Vec<Setting> {
    let for_the_view = mask(&FOR_THE_VIEW);
    let mut settings = vec![
        set("NoNewPrivileges", Value::Bool(true)),
        set("CapabilityBoundingSet", Value::Capabilities(bounding() | for_the_view)),
        // The family filter does not know 32-bit socketcall(2).
        set("SystemCallArchitectures", Value::Words(vec!["native".into()])),
        filter("SystemCallFilter", false, &DENIED_CALLS),
        set("IgnoreSIGPIPE", Value::Bool(false)),
    ];
    if plan.app.user().is_root() {
        if has_pid_namespace(plan, host) {
            // Other processes of root are not even seen: no /proc/PID/root, no ptrace of them.
            settings.push(set("PrivatePIDs", Value::Word("yes".into())));
        }
    } else {
        // A user namespace of its own: /proc/PID/root, ptrace, pidfd_getfd of the same user's
        // processes outside are refused by the kernel. The capabilities are for that namespace.
        settings.push(set("PrivateUsers", Value::Bool(true)));
        settings.push(set("AmbientCapabilities", Value::Capabilities(for_the_view)));
    }
    settings
}

/// The capabilities that the app's bounding set is reduced to before it is executed.
#[must_use]
pub fn bounding() -> u64 {
    mask(&CAPABILITIES)
}

fn mask(capabilities: &[(&str, u32)]) -> u64 {
    capabilities.iter().fold(0, |mask, (_, bit)| mask | 1 << bit)
}

pub(crate) fn set(directive: &'static str, value: Value) -> Setting {
    Setting { directive, value }
}

pub(crate) fn filter(directive: &'static str, allow: bool, names: &[&str]) -> Setting {
    set(directive, Value::Filter { allow, names: names.iter().map(|name| (*name).to_owned()).collect() })
}

/// The names of a capability mask, for the text of a unit.
#[must_use]
pub fn capability_names(mask: u64) -> String {
    let all: BTreeMap<_, _> = CAPABILITIES.iter().chain(&FOR_THE_VIEW).map(|(name, bit)| (bit, *name)).collect();
    let names = all.into_iter().filter(|(bit, _)| mask & 1 << *bit != 0);
    names.map(|(_, name)| name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, host, host_of, plan, plan_on};

    fn get(settings: &[Setting], directive: &str) -> Option<Value> {
        settings.iter().find(|setting| setting.directive == directive).map(|setting| setting.value.clone())
    }

    #[test]
    fn the_capabilities_are_those_of_the_contract_and_none_that_opens_the_wall() {
        let mask = bounding();
        assert_eq!(mask, fixture::CAPABILITIES.iter().map(|(_, bit)| 1 << bit).sum::<u64>());
        assert_eq!(mask, 0x2184_05ff);
        assert_eq!(capability_names(mask), fixture::CAPABILITIES.map(|(name, _)| name).join(" "));
        // NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, BPF
        for bit in [12, 13, 16, 17, 19, 21, 39] {
            assert_eq!(mask >> bit & 1, 0, "capability {bit}");
        }
    }

    #[test]
    fn inside_has_what_its_mounts_need_and_no_more() {
        let (setpcap, sys_admin) = (1 << 8, 1 << 21);
        for (line, bounding_set, ambient) in [
            ("--via direct x", bounding() | sys_admin, None),
            ("--via direct --uid alice x", bounding() | sys_admin, Some(Value::Capabilities(setpcap | sys_admin))),
        ] {
            let settings = settings(&plan(line).unwrap(), &host());
            assert_eq!(get(&settings, "CapabilityBoundingSet"), Some(Value::Capabilities(bounding_set)), "{line}");
            assert_eq!(get(&settings, "AmbientCapabilities"), ambient, "{line}");
        }
    }

    #[test]
    fn whoever_is_not_root_gets_a_user_namespace() {
        let on = Some(Value::Bool(true));
        let root = settings(&plan("--via direct x").unwrap(), &host());
        let alice = settings(&plan("--via direct --uid alice x").unwrap(), &host());
        let caller = host_of("alice");
        let by_polkit = settings(&plan_on(&caller, &["--system", "--via", "direct", "x"]).unwrap(), &caller);
        assert_eq!(get(&root, "PrivateUsers"), None);
        for other in [alice, by_polkit] {
            assert_eq!(get(&other, "PrivateUsers"), on);
            assert_eq!(get(&other, "NoNewPrivileges"), on);
        }
    }

    #[test]
    fn a_pid_namespace_is_for_root_and_for_a_systemd_that_has_one() {
        for (version, line, expected) in [
            (Some(257), "--via direct x", true),
            (Some(256), "--via direct x", false),
            (None, "--via direct x", false),
            (Some(257), "--via direct --uid alice x", false),
        ] {
            let host = Host { systemd: version, ..host() };
            let settings = settings(&plan(line).unwrap(), &host);
            assert_eq!(get(&settings, "PrivatePIDs").is_some(), expected, "{version:?} {line}");
        }
    }

    #[test]
    fn only_the_address_wall_has_the_hosts_network() {
        for (line, private) in [
            ("--via direct x", true),
            ("--via none x", true),
            ("--via direct --wall address x", false),
            ("--via none --deny any x", false),
        ] {
            let settings = settings(&plan(line).unwrap(), &host());
            assert_eq!(get(&settings, "PrivateNetwork"), private.then_some(Value::Bool(true)), "{line}");
            assert!(
                matches!(get(&settings, "IPAddressDeny"), Some(Value::Networks(deny)) if !deny.is_empty()),
                "{line}"
            );
            assert!(
                !matches!(get(&settings, "IPAddressAllow"), Some(Value::Networks(allow)) if allow.is_empty()),
                "{line}"
            );
        }
    }
}
