use super::*;
use crate::fixture::{host, host_of, parse, places, plan, plan_on};
use crate::via::Via;

fn view(line: &str, host: &Host) -> View {
    let plan = plan(line).unwrap();
    View::new(&plan, host, &places(&plan, host))
}

fn has(paths: &[PathBuf], path: &str) -> bool {
    paths.iter().any(|found| found == Path::new(path))
}

#[test]
fn the_upstreams_own_socket_is_not_the_apps() {
    assert!(has(&view("--via unix:/srv/proxy/socks x", &host()).hidden, "/srv/proxy/socks"));
    // Its directory is hidden anyway.
    assert!(!has(&view("--via tor:/run/tor/socks x", &host()).hidden, "/run/tor/socks"));
}

#[test]
fn what_would_answer_for_the_network_is_hidden() {
    let mut host = host();
    host.environment.push(("SSH_AUTH_SOCK".into(), "/tmp/ssh-x/agent.7".into()));
    let bus = "unix:abstract=/x,guid=1;unix:path=/tmp/bus%20x,guid=2";
    host.environment.push(("DBUS_SESSION_BUS_ADDRESS".into(), bus.into()));
    host.environment.push(("XDG_RUNTIME_DIR".into(), "/tmp/xdg".into()));
    let View { hidden, sessions, sockets, .. } = view("--via direct --uid alice x", &host);
    for path in ["/run/docker.sock", "/run/nscd", "/home/alice/.gnupg/S.gpg-agent", "/tmp/xdg"] {
        assert!(has(&hidden, path), "{path}");
    }
    assert!(has(&sessions, "/tmp/ssh-"));
    assert_eq!(sockets, [PathBuf::from("/tmp/ssh-x/agent.7"), "/tmp/bus x".into()]);
}

#[test]
fn a_runtime_directory_is_hidden_wherever_it_is() {
    for (runtime, state, hidden) in [
        ("/run/user/1000", "/run/user/1000/appfw", &[][..]),
        ("/run/foo", "/run/foo/appfw", &["/run/foo/appfw", "/run/foo"]),
        ("/tmp/xdg", "/tmp/xdg/appfw", &["/tmp/xdg/appfw", "/tmp/xdg"]),
        // Not all of /run with it.
        ("/run", "/run/appfw", &[]),
        ("/", "/appfw", &["/appfw"]),
    ] {
        let mut host = host();
        host.environment.push(("XDG_RUNTIME_DIR".into(), runtime.into()));
        let plan = plan("--via direct --uid alice x").unwrap();
        let places = Places { state: Path::new(state).join("web"), ..places(&plan, &host) };
        let found: Vec<_> = View::new(&plan, &host, &places).hidden;
        let found = found
            .iter()
            .filter(|path| path.starts_with(runtime) && path.ends_with("appfw") && !path.ends_with(".config/appfw"));
        let expected = hidden.iter().filter(|path| path.ends_with("appfw")).map(PathBuf::from);
        assert_eq!(found.cloned().collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "{runtime}");
        let view = View::new(&plan, &host, &places);
        assert_eq!(has(&view.hidden, runtime), hidden.contains(&runtime), "{runtime}");
    }
}

#[test]
fn ssh_has_its_configuration_from_the_user_where_root_is_nobody() {
    let alice = Host { user_bus: Some("/run/user/1000/bus".into()), ..host_of("alice") };
    for (host, line, copied) in [
        (&alice, "--via direct x", true),
        (&alice, "--standalone --via direct x", true),
        (&alice, "--system --via direct x", false),
        (&host(), "--uid alice --via direct x", false),
        (&host(), "--standalone --uid alice --via direct x", false),
    ] {
        let plan = plan_on(host, &line.split(' ').collect::<Vec<_>>()).unwrap();
        let view = View::new(&plan, host, &places(&plan, host));
        assert_eq!(has(&view.copied, "/etc/ssh/ssh_config.d"), copied, "{line}");
    }
}

#[test]
fn what_the_next_launch_reads_is_not_the_programs_to_make() {
    let mut alice = Host { user_bus: Some("/run/user/1000/bus".into()), ..host_of("alice") };
    let made = |host: &Host| {
        let plan = plan_on(host, &["--via", "direct", "x"]).unwrap();
        View::new(&plan, host, &places(&plan, host)).made
    };
    let own = ["/home/alice/.config/appfw", "/home/alice/.config/credstore"];
    assert_eq!(made(&alice)[1..], own.map(PathBuf::from));
    alice.environment = vec![("HOME".into(), "/home/alice".into()), ("XDG_CONFIG_HOME".into(), "/etc/alice".into())];
    // The user's systemd may know nothing of that variable.
    let both = ["/etc/alice/appfw", "/etc/alice/credstore"].into_iter().chain(own);
    assert_eq!(made(&alice)[1..], both.map(PathBuf::from).collect::<Vec<_>>());
}

#[test]
fn files_of_ways_out_are_hidden() {
    let file = PathBuf::from("/srv/work/proxy");
    for (line, via) in [("--system x", "@/srv/work/proxy"), ("--standalone x", "@proxy"), ("--uid alice x", "@proxy")] {
        let args = parse(&["--via", via].into_iter().chain(line.split(' ')).collect::<Vec<_>>()).unwrap();
        let plan = Plan::new(&args, Via::Direct, &host()).unwrap();
        assert!(View::new(&plan, &host(), &places(&plan, &host())).hidden.contains(&file), "{line}");
        assert!(OfService::new(&plan, true, None).hidden.contains(&file), "{line}");
    }
}

#[test]
fn an_agent_is_found_from_where_the_caller_is() {
    let mut host = host();
    host.environment.push(("SSH_AUTH_SOCK".into(), "agent.7".into()));
    assert_eq!(view("--via direct x", &host).sockets, [PathBuf::from("/srv/work/agent.7")]);
}

#[test]
fn roots_program_cannot_write_what_root_runs_outside_nor_tell_the_kernel() {
    let root = view("--via direct x", &host());
    for place in [
        "/etc/systemd",
        "/usr/lib/systemd",
        "/etc/cron.d",
        "/etc/crontab",
        "/var/spool/cron",
        "/etc/udev",
        "/proc/sys",
        "/proc/sysrq-trigger",
        "/sys",
    ] {
        assert!(has(&root.read_only, place), "{place}");
    }
    for place in ["/proc/kcore", "/proc/kmsg", "/dev/kmsg", "/proc/kallsyms"] {
        assert!(has(&root.hidden, place), "{place}");
    }
    let alice = view("--via direct --uid alice x", &host());
    assert_eq!(alice.read_only, [PathBuf::from(CGROUPS)]);
    // Her own launches go by what her program could else make, whoever has started that.
    let made = ["/tmp/appfw-1000", "/home/alice/.config/appfw", "/home/alice/.config/credstore"];
    assert_eq!((alice.made, root.made), (made.map(PathBuf::from).to_vec(), Vec::new()));
}

#[test]
fn the_hosts_resolver_is_shown_where_it_is_the_apps_and_buses_never_are() {
    for (line, shown) in [("--via none --deny 8.8.8.8 x", true), ("--via none --deny any x", false)] {
        let view = view(line, &host());
        assert_eq!(has(&view.shown, "/run/systemd/resolve"), shown, "{line}");
        assert_eq!(has(&view.hidden, "/run/nscd"), !shown, "{line}");
        assert_eq!(view.replaced.is_empty(), shown, "{line}");
        for covered in ["/run/dbus", "/run/user", "/run/systemd", "/run/appfw"] {
            assert!(has(&view.empty, covered), "{line}: {covered}");
        }
    }
}
