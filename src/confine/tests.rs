use std::path::Path;

use super::exec::Exec;
use super::refuse::{full_name, lost_in_tmp, refuse, refuse_early, refuse_missing, refuse_useless};
use super::service::{Bind, Service};
use super::*;
use crate::buses::Buses;
use crate::fixture;

/// One of root's.
pub(super) fn service() -> Service {
    Service { user: String::new(), ..fixture::service() }
}

fn exec(flags: &[&str]) -> Exec {
    let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
    Exec { path: "/usr/bin/web".into(), argv: vec!["/usr/bin/web".into()], flags }
}

fn bind(source: &str, target: &str) -> Bind {
    let (is_writable, is_optional, is_recursive) = (false, false, true);
    Bind { source: source.into(), target: target.into(), is_writable, is_optional, is_recursive }
}

fn refusal(change: impl FnOnce(&mut Service)) -> String {
    let mut service = service();
    change(&mut service);
    let refused = refuse_early(&service)
        .and_then(|()| refuse(&service, &Buses::None, Path::new("/usr/bin/appfw")))
        .and_then(|()| refuse_useless(&service, &Buses::None));
    refused.unwrap_err().to_string()
}

#[test]
fn a_plain_service_is_not_refused() {
    refuse(&service(), &Buses::None, Path::new("/usr/bin/appfw")).unwrap();
    let timed = Service { triggered_by: vec!["web.timer".into()], ..service() };
    refuse(&timed, &Buses::None, Path::new("/usr/bin/appfw")).unwrap();
    for name in ["web@a-.service", "web-@a.service", "-web.service", "we-b.service"] {
        // Their drop-ins are nobody else's.
        refuse(&Service { name: name.into(), ..service() }, &Buses::None, Path::new("/usr/bin/appfw")).unwrap();
    }
    let on_the_bus = Service { kind: "dbus".into(), ..service() };
    refuse(&on_the_bus, &Buses::System, Path::new("/usr/bin/appfw")).unwrap();
}

#[test]
fn what_leads_past_a_wall_is_refused_by_its_name() {
    for (said, expected) in [
        (refusal(|service| service.load_state = "not-found".into()), "there is no service web.service"),
        (refusal(|service| service.load_state = "masked".into()), "systemctl unmask web.service"),
        (refusal(|service| service.load_state = "bad-setting".into()), "(bad-setting)"),
        (refusal(|service| service.slice = "appfw.slice".into()), "appfw's own"),
        (refusal(|service| service.fragment = Some("/run/systemd/transient/web.service".into())), "at each boot"),
        (refusal(|service| service.fragment = Some("/run/systemd/generator.late/x".into())), "at each boot"),
        (
            refusal(|service| service.name = "web-.service".into()),
            "whose name begins with web-, which would be confined",
        ),
        (refusal(|service| service.pam_name = "login".into()), "PAMName=login"),
        (refusal(|service| service.delegate = true), "Delegate="),
        (refusal(|service| service.ambient = 1 << 12 | 1 << 10), "asks for CAP_NET_ADMIN (AmbientCapabilities=)"),
        (refusal(|service| service.start = vec![exec(&["privileged"])]), "/usr/bin/web with full privileges"),
        (refusal(|service| service.guarded[2] = vec![exec(&["privileged"])]), "with full privileges"),
        (
            refusal(|service| {
                service.guarded[2] = vec![exec(&[])];
                service.frees_other_commands = true;
            }),
            "full privileges (PermissionsStartOnly=yes)",
        ),
        (refusal(|service| service.joins = vec!["x.service".into()]), "JoinsNamespaceOf=x.service"),
        (refusal(|service| service.root = "/srv/j".into()), "RootDirectory="),
        (refusal(|service| service.binds = vec![bind("/run/dbus", "/opt/x")]), "is shown /run/dbus elsewhere"),
        (refusal(|service| service.binds = vec![bind("/", "/opt/x")]), "is shown / elsewhere"),
        (
            refusal(|service| service.binds = vec![bind("/home/bob/bin", "/usr/bin")]),
            "/home/bob/bin in the place of /usr/bin",
        ),
        (refusal(|service| service.binds = vec![bind("/home/bob/d", "/run/dbus")]), "in the place of /run/dbus"),
        (refusal(|service| service.binds = vec![bind("/srv/p", "/etc/ld.so.preload")]), "in the place of"),
        (refusal(|service| service.overlays = vec!["MountImages"]), "has MountImages="),
        (refusal(|service| service.opens_files = true), "OpenFile="),
        (refusal(|service| service.start[0].flags = vec!["no-setuid".into()]), "(`!`)"),
        (refusal(|service| service.environment = vec!["LD_PRELOAD=/x.so".into()]), "sets LD_PRELOAD"),
        (refusal(|service| service.namespace_path = "/run/netns/x".into()), "NetworkNamespacePath=/run/netns/x"),
        (refusal(|service| service.triggered_by = vec!["web.socket".into()]), "from web.socket"),
        (refusal(|service| service.kind = "dbus".into()), "Type=dbus"),
        (refusal(|service| service.start[0].path = "/var/tmp/web".into()), "runs /var/tmp/web, and behind its wall"),
        (refusal(|service| service.bus_name = "org.test.X".into()), "(org.test.X, BusName=)"),
        (
            refusal(|service| service.before = vec!["shutdown.target".into(), "sysinit.target".into()]),
            "Before=sysinit.target",
        ),
        (refusal(|service| service.name = "dbus-broker.service".into()), "is the system bus"),
        (refusal(|service| service.triggered_by = vec!["dbus.socket".into()]), "is the system bus"),
        (
            refusal(|service| {
                (service.triggered_by, service.before) = (vec!["x.socket".into()], vec!["sysinit.target".into()])
            }),
            "starts early in a boot",
        ),
    ] {
        assert!(said.contains(expected), "{said}");
    }
    assert!(refuse_missing(&service()).is_ok());
}

#[test]
fn names_are_completed_and_those_of_others_refused() {
    assert_eq!(full_name("web").unwrap(), "web.service");
    assert_eq!(full_name("web.service").unwrap(), "web.service");
    assert_eq!(full_name("a.b").unwrap(), "a.b.service");
    assert_eq!(full_name("x@a\\x2db").unwrap(), "x@a\\x2db.service");
    for (word, expected) in [
        ("web.socket", "is a socket"),
        ("web@", "is a template"),
        ("a b", "no name"),
        ("../x", "no name"),
        ("x\n[Service]", "no name"),
        ("", "no name"),
        ("%n", "no name"),
    ] {
        let said = full_name(word).unwrap_err().to_string();
        assert!(said.contains(expected), "{word:?}: {said}");
    }
    assert!(full_name(&"x".repeat(300)).is_err());
}

#[test]
fn a_cgroup_follows_from_the_slices() {
    let service = |slice: &str| Service { slice: slice.into(), ..service() };
    for (slice, cgroup, slices) in [
        ("system.slice", "/system.slice/web.service", &["system.slice", "-.slice"][..]),
        ("a-b.slice", "/a.slice/a-b.slice/web.service", &["a-b.slice", "a.slice", "-.slice"]),
        ("-.slice", "/web.service", &["-.slice"]),
    ] {
        assert_eq!(service(slice).cgroup(), cgroup);
        assert_eq!(service(slice).slices(), slices);
    }
    for (name, slice, cgroup) in [
        ("cpu.service", "memory.slice", "/_memory.slice/_cpu.service"),
        ("_x.service", "_x.slice", "/__x.slice/__x.service"),
        ("cgroup.x.service", "-.slice", "/_cgroup.x.service"),
        ("io.podman.service", "cpu-a.slice", "/_cpu.slice/cpu-a.slice/_io.podman.service"),
    ] {
        assert_eq!(Service { name: name.into(), ..service(slice) }.cgroup(), cgroup);
    }
    let older = Service { name: "io.podman.service".into(), has_subgroups: false, ..service("io.slice") };
    assert_eq!(older.cgroup(), "/_io.slice/io.podman.service");
}

#[test]
fn the_names_of_what_serves_follow_from_the_services() {
    assert_eq!(name_of("web.service").unwrap().socket(), "appfw-web-forward.socket");
    assert_eq!(name_of("web@a\\x2db.service").unwrap().socket(), "appfw-web_a_x2db-forward.socket");
    assert_eq!(drop_in_path("web@a.service"), Path::new("/etc/systemd/system/web@a.service.d/zz-appfw.conf"));
}

#[test]
fn what_is_named_in_the_hosts_tmp_is_told() {
    let file = tempfile::NamedTempFile::new_in("/tmp").unwrap();
    let path = file.path().to_str().unwrap();
    let mut service = service();
    service.start[0].argv = ["python3", path, "/tmp/not-there", "/etc/passwd"].map(str::to_owned).to_vec();
    assert_eq!(lost_in_tmp(&service).collect::<Vec<_>>(), [path]);
    service.private = vec![crate::units::PRIVATE_TMP];
    assert_eq!(lost_in_tmp(&service).count(), 0);
}
