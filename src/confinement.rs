//! What the app may not do. THE FILE TO AUDIT: the wall's network settings, the hardening round
//! it, and what is hidden because it would answer for the network (facts with versions and sources:
//! docs/security.md). Pure.

use crate::cli::WallKind;
use crate::host::Host;
use crate::plan::{Plan, Resolver};
use crate::units::{Bind, INNER, Setting, Value, lists};

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

/// Directories hidden as a whole, by an empty one on top, so that a socket replaced or made later
/// (a daemon restarted, `systemctl daemon-reexec`) stays hidden: a mount on the socket itself is
/// dropped when the daemon unlinks it.
const HIDDEN_DIRECTORIES: [&str; 2] = [
    // The system bus: AttachProcessesToUnit has no polkit check, resolve1 answers names.
    "/run/dbus",
    // Session buses, user managers' private sockets, gpg-agent, user podman, of every user.
    "/run/user",
];

/// What of /run/systemd the app sees; all else there is hidden: PID 1's private socket, resolved's
/// varlink sockets, runtime units, io.systemd.* of any version. Logging leads nowhere.
const SHOWN_OF_SYSTEMD: &str = "/run/systemd/journal";

/// The directory by whose existence programs tell that systemd runs (sd_booted(3)): an empty one.
const BOOTED: &str = "/run/systemd/system";

/// resolved's sockets and files, shown where the host's resolver is the app's.
const RESOLVED: &str = "/run/systemd/resolve";

/// Name-service caches and responders, hidden unless the host's resolver is the app's.
const NAME_SERVICES: [&str; 2] = ["/run/nscd", "/run/avahi-daemon"];

/// Sockets whose holders act on the network, or as root, for whoever asks.
const AGENTS: [&str; 23] = [
    "/run/docker.sock",
    "/run/docker",
    "/run/podman",
    "/run/containerd",
    "/run/crio",
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
    "/run/cups",
    // sssd's other responders; pipes/nss stays, the passwd database needs it.
    "/var/lib/sss/pipes/private",
    "/var/lib/sss/pipes/autofs",
    "/var/lib/sss/pipes/ifp",
    "/var/lib/sss/pipes/ssh",
    "/var/lib/sss/pipes/sudo",
    "/run/udev/control",
];

/// Agents below the app's home: gpg's fetch keys over the network (dirmngr).
const AGENTS_AT_HOME: [&str; 5] = [
    ".gnupg/S.dirmngr",
    ".gnupg/S.gpg-agent",
    ".gnupg/S.gpg-agent.browser",
    ".gnupg/S.gpg-agent.extra",
    ".gnupg/S.gpg-agent.ssh",
];

/// Where files become commands that root runs outside the wall.
const READ_ONLY_FOR_ROOT: [&str; 13] = [
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
    settings.extend(files(plan, host));
    settings
}

fn network(plan: &Plan) -> Vec<Setting> {
    let mut settings = Vec::new();
    if plan.wall != WallKind::Address {
        settings.push(set("PrivateNetwork", Value::Bool(true)));
    }
    settings.extend(lists(plan.lists()));
    // AF_PACKET, AF_VSOCK, AF_BLUETOOTH … are not filtered by address at all.
    settings.push(filter("RestrictAddressFamilies", true, &["AF_UNIX", "AF_INET", "AF_INET6", "AF_NETLINK"]));
    settings
}

fn privileges(plan: &Plan, host: &Host) -> Vec<Setting> {
    let mask = CAPABILITIES.iter().fold(0, |mask, (_, bit)| mask | 1 << bit);
    let mut settings = vec![
        set("NoNewPrivileges", Value::Bool(true)),
        set("CapabilityBoundingSet", Value::Capabilities(mask)),
        // The family filter does not know 32-bit socketcall(2).
        set("SystemCallArchitectures", Value::Words(vec!["native".into()])),
        // io_uring makes sockets past the family filter; ENOSYS because programs then do without,
        // where a kill would end them. A file handle opens what is hidden under a mount, for who has
        // CAP_DAC_READ_SEARCH.
        filter(
            "SystemCallFilter",
            false,
            &["io_uring_setup:ENOSYS", "io_uring_enter:ENOSYS", "io_uring_register:ENOSYS", "open_by_handle_at:EPERM"],
        ),
        set("IgnoreSIGPIPE", Value::Bool(false)),
    ];
    if plan.app.user().is_root() {
        for directive in ["ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups"]
        {
            settings.push(set(directive, Value::Bool(true)));
        }
        if has_pid_namespace(plan, host) {
            // Other processes of root are not even seen: no /proc/PID/root, no ptrace of them.
            settings.push(set("PrivatePIDs", Value::Word("yes".into())));
        }
        settings.push(set("ReadOnlyPaths", present(READ_ONLY_FOR_ROOT.map(str::to_owned).to_vec(), host)));
    } else {
        // A user namespace of its own: /proc/PID/root, ptrace, pidfd_getfd of the same user's
        // processes outside are refused by the kernel.
        settings.push(set("PrivateUsers", Value::Bool(true)));
    }
    settings
}

fn files(plan: &Plan, host: &Host) -> Vec<Setting> {
    let user = plan.app.user();
    // Writable, where only root can: a read-only remount costs PID 1 two passes over the whole
    // mount table each (src/shared/mount-util.c), and what is written here is seen by nobody else.
    let empty = |path: &str| (path.to_owned(), "mode=0755".to_owned());
    let mut over: Vec<(String, String)> =
        [INNER, "/run/systemd", BOOTED].into_iter().chain(HIDDEN_DIRECTORIES).map(empty).collect();
    if !user.is_root() {
        // A runtime directory with nothing of the session in it.
        over.push((format!("/run/user/{}", user.uid), format!("mode=0700,uid={},gid={}", user.uid, user.gid)));
    }
    let mut binds: Vec<Bind> = vec![Bind::same(SHOWN_OF_SYSTEMD)];
    let mut hidden: Vec<String> = AGENTS.map(str::to_owned).to_vec();
    match plan.resolver {
        Resolver::Host if (host.exists)(RESOLVED.as_ref()) => binds.push(Bind::same(RESOLVED)),
        Resolver::Host => {}
        Resolver::Off => hidden.extend(NAME_SERVICES.map(str::to_owned)),
    }
    hidden.extend(AGENTS_AT_HOME.iter().map(|file| user.home.join(file).display().to_string()));
    hidden.extend(host.session_sockets.iter().cloned().chain(ssh_agent(host)));
    vec![
        set("TemporaryFileSystem", Value::FileSystems(over)),
        set("BindPaths", Value::Binds(binds)),
        set("InaccessiblePaths", present(hidden, host)),
    ]
}

/// The caller's ssh-agent, where it is a path that cannot be mistaken for unit syntax.
fn ssh_agent(host: &Host) -> Option<String> {
    let (_, socket) = host.environment.iter().find(|(name, _)| name == "SSH_AUTH_SOCK")?;
    let socket = socket.to_str()?;
    socket.starts_with('/').then(|| socket.to_owned())
}

/// Those of the paths that exist: each that doesn't would cost PID 1 a pass over the mount table
/// and have no effect. `-` because one may vanish before the start.
fn present(paths: Vec<String>, host: &Host) -> Value {
    let there = paths.into_iter().filter(|path| (host.exists)(path.as_ref()));
    Value::Paths(there.map(|path| format!("-{path}")).collect())
}

fn set(directive: &'static str, value: Value) -> Setting {
    Setting { directive, value }
}

fn filter(directive: &'static str, allow: bool, names: &[&str]) -> Setting {
    set(directive, Value::Filter { allow, names: names.iter().map(|name| (*name).to_owned()).collect() })
}

/// The names of a capability mask, for the text of a unit.
#[must_use]
pub fn capability_names(mask: u64) -> String {
    let names = CAPABILITIES.iter().filter(|(_, bit)| mask & 1 << bit != 0);
    names.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{self, host, host_of, plan, plan_on};
    use std::path::Path;

    fn get(settings: &[Setting], directive: &str) -> Option<Value> {
        settings.iter().find(|setting| setting.directive == directive).map(|setting| setting.value.clone())
    }

    fn paths(settings: &[Setting], directive: &str) -> Vec<String> {
        match get(settings, directive) {
            Some(Value::Paths(paths)) => paths,
            other => panic!("{directive}: {other:?}"),
        }
    }

    #[test]
    fn the_capabilities_are_those_of_the_contract_and_none_that_opens_the_wall() {
        let Some(Value::Capabilities(mask)) =
            get(&settings(&plan("--via direct x").unwrap(), &host()), "CapabilityBoundingSet")
        else {
            panic!("no bounding set")
        };
        assert_eq!(mask, fixture::CAPABILITIES.iter().map(|(_, bit)| 1 << bit).sum::<u64>());
        assert_eq!(mask, 0x2184_05ff);
        assert_eq!(capability_names(mask), fixture::CAPABILITIES.map(|(name, _)| name).join(" "));
        // NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, BPF
        for bit in [12, 13, 16, 17, 19, 21, 39] {
            assert_eq!(mask >> bit & 1, 0, "capability {bit}");
        }
    }

    #[test]
    fn root_is_kept_from_the_kernel_and_others_in_a_user_namespace() {
        const KERNEL: [&str; 4] =
            ["ProtectKernelTunables", "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups"];
        let on = Some(Value::Bool(true));
        let root = settings(&plan("--via direct x").unwrap(), &host());
        let alice = settings(&plan("--via direct --uid alice x").unwrap(), &host());
        let caller = host_of("alice");
        let by_polkit = settings(&plan_on(&caller, &["--system", "--via", "direct", "x"]).unwrap(), &caller);
        for directive in KERNEL {
            assert_eq!(get(&root, directive), on, "{directive}");
        }
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

    #[test]
    fn what_is_hidden_is_what_is_there() {
        let plan = plan("--via direct --uid alice x").unwrap();
        let mut host = host();
        host.environment.push(("SSH_AUTH_SOCK".into(), "/tmp/ssh-x/agent.7".into()));
        let hidden = paths(&settings(&plan, &host), "InaccessiblePaths");
        let expected =
            ["/run/docker.sock", "/run/nscd", "/home/alice/.gnupg/S.gpg-agent", "/tmp/ssh-y", "/tmp/ssh-x/agent.7"];
        assert_eq!(hidden, expected.map(|path| format!("-{path}")));

        host.exists = |_| false;
        assert!(paths(&settings(&plan, &host), "InaccessiblePaths").is_empty());
        host.exists = |path| path.starts_with("/run/user") || path == Path::new("/run/avahi-daemon");
        assert_eq!(paths(&settings(&plan, &host), "InaccessiblePaths"), ["-/run/avahi-daemon"]);
    }

    #[test]
    fn roots_program_cannot_write_what_root_runs_outside() {
        let mut host = host();
        host.exists = |_| true;
        let read_only = paths(&settings(&plan("--via direct x").unwrap(), &host), "ReadOnlyPaths");
        for place in ["/etc/systemd", "/usr/lib/systemd", "/etc/cron.d", "/etc/crontab", "/var/spool/cron", "/etc/udev"]
        {
            assert!(read_only.contains(&format!("-{place}")), "{place}: {read_only:?}");
        }
    }

    #[test]
    fn an_agent_at_a_strange_place_is_no_unit_syntax() {
        for (socket, hidden) in [("/tmp/ssh-x/agent.7", true), ("agent.7", false), ("-/tmp/ssh-x/agent.7", false)] {
            let mut host = host();
            host.environment.push(("SSH_AUTH_SOCK".into(), socket.into()));
            assert_eq!(ssh_agent(&host).is_some(), hidden, "{socket}");
        }
    }

    #[test]
    fn the_hosts_resolver_is_shown_where_it_is_the_apps_and_buses_never_are() {
        for (line, shown) in [("--via none --deny 8.8.8.8 x", true), ("--via none --deny any x", false)] {
            let settings = settings(&plan(line).unwrap(), &host());
            let Some(Value::Binds(binds)) = get(&settings, "BindPaths") else { panic!("no binds") };
            assert_eq!(binds.contains(&Bind::same("/run/systemd/resolve")), shown, "{line}");
            let nscd = paths(&settings, "InaccessiblePaths").contains(&"-/run/nscd".to_owned());
            assert_eq!(nscd, !shown, "{line}");
            let Some(Value::FileSystems(over)) = get(&settings, "TemporaryFileSystem") else {
                panic!("nothing hidden")
            };
            for hidden in ["/run/dbus", "/run/user", "/run/systemd", "/run/appfw"] {
                assert!(over.iter().any(|(path, _)| path == hidden), "{line}: {hidden}");
            }
        }
    }
}
