use super::*;
use crate::fixture::{host, host_of, places, plan_on};
use crate::view::View;

/// A session of alice's, with a display if that is so.
fn desktop(display: bool) -> Host {
    let mut host = host_of("alice");
    let bus = "unix:path=/run/user/1000/bus,guid=7";
    let variables = [("DBUS_SESSION_BUS_ADDRESS", bus), ("XDG_RUNTIME_DIR", "/run/user/1000"), ("DISPLAY", ":0")];
    let variables = variables.into_iter().filter(|(name, _)| display || *name != "DISPLAY");
    host.environment.extend(variables.map(|(name, value)| (name.into(), value.into())));
    host.dbus_proxy = Some("/usr/bin/xdg-dbus-proxy".into());
    host
}

fn plan(host: &Host, line: &str) -> Result<Plan> {
    plan_on(host, &format!("--system --via direct {line}").split(' ').collect::<Vec<_>>())
}

fn is_filtered(host: &Host, line: &str) -> bool {
    matches!(plan(host, line).unwrap().buses, Buses::Filtered { .. })
}

#[test]
fn a_program_with_a_window_has_a_filtered_bus_where_there_can_be_one() {
    assert!(is_filtered(&desktop(true), "x"));
    assert!(!is_filtered(&desktop(false), "x"));
    assert!(is_filtered(&desktop(false), "--dbus filtered x"));
    for line in ["--dbus none x", "--detach x", "--uid bob x"] {
        assert_eq!(plan(&desktop(true), line).unwrap().buses, Buses::None, "{line}");
    }
    let without = Host { dbus_proxy: None, ..desktop(true) };
    assert_eq!(plan(&without, "x").unwrap().buses, Buses::None);
    let root = Host { caller: host().caller, ..desktop(true) };
    assert_eq!(plan(&root, "x").unwrap().buses, Buses::None);
}

#[test]
fn what_cannot_be_had_is_refused_with_what_can() {
    let without = |name: &str| {
        let mut host = desktop(true);
        host.environment.retain(|(found, _)| found != name);
        host
    };
    let abstracted = || {
        let mut host = without("DBUS_SESSION_BUS_ADDRESS");
        host.environment.push(("DBUS_SESSION_BUS_ADDRESS".into(), "unix:abstract=/tmp/dbus-7".into()));
        host
    };
    for (host, line, phrase) in [
        (host(), "--dbus filtered x", "--dbus filtered is an ordinary user's own session: run appfw-run as that user"),
        (desktop(true), "--dbus session --uid bob x", "--dbus session is an ordinary user's own session"),
        (desktop(true), "--dbus filtered --detach x", "--dbus filtered ends with the launcher"),
        (without("DBUS_SESSION_BUS_ADDRESS"), "--dbus filtered x", "DBUS_SESSION_BUS_ADDRESS names none"),
        (Host { dbus_proxy: None, ..desktop(true) }, "--dbus filtered x", "install xdg-dbus-proxy, or use --dbus none"),
        (abstracted(), "--dbus session x", "unix:abstract=/tmp/dbus-7 isn't one; use --dbus filtered"),
    ] {
        let message = plan(&host, line).unwrap_err().to_string();
        assert!(message.contains(phrase), "{line}: {message}");
    }
    assert!(is_filtered(&abstracted(), "x"));
}

#[test]
fn only_an_open_bus_is_warned_of() {
    for (line, warns) in [("x", false), ("--dbus none x", false), ("--dbus session x", true), ("--dbus system x", true)]
    {
        assert_eq!(plan(&desktop(true), line).unwrap().buses.warning().is_some(), warns, "{line}");
    }
}

#[test]
fn the_app_finds_its_bus_in_its_own_runtime_directory() {
    for (line, source) in [
        ("--dbus filtered --unit web x", Some("/run/user/1000/appfw/web/bus")),
        ("--dbus session x", Some("/run/user/1000/bus")),
        ("--dbus none x", None),
        ("--dbus system x", None),
    ] {
        let host = desktop(true);
        let plan = plan(&host, line).unwrap();
        let view = View::new(&plan, &host, &places(&plan, &host));
        let bus = view.session.iter().find(|bind| bind.target == Path::new("/run/user/1000/bus"));
        assert_eq!(bus.map(|bind| bind.source.as_path()), source.map(Path::new), "{line}");
        let system = view.shown.iter().any(|path| path == Path::new(SYSTEM_BUS));
        assert_eq!(system, line.contains("system"), "{line}");
        let environment = crate::environment::app_environment(&plan, &host.environment);
        let address = environment.iter().find(|(name, _)| name == "DBUS_SESSION_BUS_ADDRESS");
        let expected = source.map(|_| OsString::from("unix:path=/run/user/1000/bus"));
        assert_eq!(address.map(|(_, value)| value.clone()), expected, "{line}");
    }
}

#[test]
fn what_the_bus_starts_for_a_name_is_not_the_programs_to_write() {
    let mut host = desktop(true);
    for (name, value) in [("XDG_DATA_HOME", "/srv/data"), ("XDG_DATA_DIRS", "/usr/share:/srv/flatpak:relative")] {
        host.environment.push((name.into(), value.into()));
    }
    for (line, is_kept) in [("--dbus filtered x", true), ("--dbus none x", false)] {
        let plan = plan(&host, line).unwrap();
        let made = View::new(&plan, &host, &places(&plan, &host)).made;
        let made: Vec<_> = made.iter().filter_map(|path| path.to_str()?.strip_suffix("/dbus-1/services")).collect();
        let expected: &[&str] =
            if is_kept { &["/home/alice/.local/share", "/srv/data", "/usr/share", "/srv/flatpak"] } else { &[] };
        assert_eq!(made, expected, "{line}");
    }
}

#[test]
fn the_policy_lets_no_name_be_owned_or_spoken_to_freely() {
    let arguments = arguments(&[]);
    assert_eq!(arguments[0], "--filter");
    assert!(super::arguments(&["org.test.Own".to_owned()]).contains(&"--own=org.test.Own".to_owned()));
    for argument in &arguments[1..] {
        let (kind, rule) = argument.split_once('=').unwrap();
        assert!(["--call", "--broadcast"].contains(&kind), "{argument}");
        let (name, rule) = rule.split_once('=').unwrap();
        // Every rule names an interface.
        assert!(!name.contains('*') && rule.starts_with("org.f"), "{argument}");
        for never in
            ["systemd", "OpenURI", "Terminal", "impl", "gvfs", "Email", "portal.Desktop=org.freedesktop.portal.*"]
        {
            assert!(!argument.contains(never), "{argument}");
        }
    }
}
