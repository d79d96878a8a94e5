//! The app's environment: the caller's, less what leads past the forwarder, plus the proxy
//! variables. Pure.

use std::ffi::{OsStr, OsString};

use std::net::SocketAddrV4;

use ipnet::IpNet;

use crate::buses::Buses;
use crate::cli::{Capture, EnvScheme, WallKind};
use crate::destination::{Destination, Pattern};
use crate::plan::{Identity, Plan, Supervisor};
use crate::session::Session;

/// What another user's program keeps of the caller's environment.
const KEPT_FOR_OTHERS: [&str; 6] = ["PATH", "LANG", "TZ", "TERM", "COLORTERM", "NO_COLOR"];

/// The PATH of a caller that has none (systemd's own default, systemd.exec(5)).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// Variables of the caller that would lead round the forwarder, into a hidden service, or that
/// belong to the launcher's own unit. `*_PROXY` in any case is dropped as well.
const DROPPED: [&str; 23] = [
    "NODE_USE_ENV_PROXY",
    "SOCKS_SERVER",
    "SOCKS_VERSION",
    // Some runtimes ignore http_proxy when they take themselves for a CGI program.
    "REQUEST_METHOD",
    "GIT_PROXY_COMMAND",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
    // The number of a descriptor that the app does not get.
    "WAYLAND_SOCKET",
    // The launcher's own unit, if it has one (systemd.exec(5), "Environment Variables").
    "NOTIFY_SOCKET",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "MAINPID",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "CREDENTIALS_DIRECTORY",
    "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
];

/// By which Qt, GTK and Xlib's own extension library are told to send pictures over the socket.
const WITHOUT_MITSHM: [(&str, &str); 3] = [("QT_X11_NO_MITSHM", "1"), ("_X11_NO_MITSHM", "1"), ("_MITSHM", "0")];

/// The app's own loopback, by the names that programs have for it: what listens at every address prints 0.0.0.0. Not every
/// client knows a network: 127.0.0.1 is for those. Not `[::1]`, which Node and urllib would want: httpx 0.28 takes `:1]` for
/// a port, and makes no client whatever.
const OWN: [&str; 5] = ["localhost", "127.0.0.1", "127.0.0.0/8", "0.0.0.0", "::1"];

/// The same, for where what goes elsewhere by mistake is captured: elinks takes every address with `::` in it for this one.
const OWN_IF_CAPTURED: &str = "::";

/// The variables that make programs use the forwarder at `address`, but for what is [`exempt`]. Where the app is `captured` nothing says so for
/// https: wget2 would speak TLS to the proxy itself, and what has no other variable to go by is captured.
///
/// The choice is measured over 44 clients: docs/compatibility.md.
#[must_use]
pub fn proxy_variables(
    scheme: EnvScheme,
    address: SocketAddrV4,
    exempt: &[String],
    captured: bool,
) -> Vec<(String, String)> {
    let url = format!("{}://{address}", scheme.as_str());
    let mut variables: Vec<(String, String)> =
        ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
            .into_iter()
            .filter(|name| !(captured && name.eq_ignore_ascii_case("https_proxy")))
            .map(|name| (name.to_owned(), url.clone()))
            .collect();
    // HOST:PORT, an http:// value breaks rsync.
    variables.push(("RSYNC_PROXY".to_owned(), address.to_string()));
    if scheme == EnvScheme::Http {
        // Node 24 and 26 crash at start-up when this meets a socks5h:// value.
        variables.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
    }
    if !exempt.is_empty() {
        let exempt = exempt.join(",");
        variables.extend(["no_proxy", "NO_PROXY"].map(|name| (name.to_owned(), exempt.clone())));
    }
    variables
}

/// What the app reaches without the forwarder: the networks of `--allow` (in the address wall), and its own loopback where it
/// has one to itself. What of that `--allow-destination` opens is the host's; one address and port of it is
/// there in the app's namespace too, so that it is found either way.
#[must_use]
pub fn exempt(wall: WallKind, capture: Capture, allow: &[IpNet], opened: &[Pattern]) -> Vec<String> {
    let is_hosts = |own: &str| {
        let mut opened = opened.iter().filter(|one| one.loopback_socket().is_none());
        match (own.parse::<IpNet>(), own.parse()) {
            (Ok(network), _) => opened.any(|one| one.loopback().iter().any(|part| network.contains(part))),
            (_, Ok(host)) => {
                let asked = Destination { host, port: 0 };
                opened.any(|one| one.matches(&asked))
            }
            _ => false,
        }
    };
    match wall {
        WallKind::Namespace => {
            let captured = (capture != Capture::Off).then_some(OWN_IF_CAPTURED);
            OWN.into_iter().chain(captured).filter(|own| !is_hosts(own)).map(str::to_owned).collect()
        }
        WallKind::Strict | WallKind::Address => allow.iter().map(plain).collect(),
    }
}

/// A network as clients understand it in NO_PROXY: single addresses without a prefix.
fn plain(network: &IpNet) -> String {
    if network.prefix_len() == network.max_prefix_len() { network.addr().to_string() } else { network.to_string() }
}

/// The whole environment of the app, from the plan and the caller's variables.
#[must_use]
pub fn app_environment(plan: &Plan, caller: &[(OsString, OsString)]) -> Vec<(OsString, OsString)> {
    let mut app: Vec<(OsString, OsString)> = caller
        .iter()
        .filter(|(name, _)| match plan.app {
            Identity::Caller(_) => !is_dropped(name),
            Identity::Other(_) => is_kept_for_others(name),
        })
        .cloned()
        .collect();
    let user = plan.app.user();
    if let Identity::Other(_) = plan.app {
        set(&mut app, "HOME", user.home.as_os_str());
        set(&mut app, "SHELL", user.shell.as_os_str());
        set(&mut app, "USER", &user.name);
        set(&mut app, "LOGNAME", &user.name);
    }
    let session = Session::new(plan, caller);
    app.retain(|(name, _)| !session.dropped.contains(name));
    for (name, value) in session.variables.iter().chain(&Buses::variables(plan)) {
        set(&mut app, name, value);
    }
    if user.is_root() {
        // Root's app sees no /run/user at all (confinement).
        app.retain(|(name, _)| name != "XDG_RUNTIME_DIR");
    }
    if !app.iter().any(|(name, _)| name == "PATH") {
        set(&mut app, "PATH", DEFAULT_PATH);
    }
    if plan.supervisor != Supervisor::System && app.iter().any(|(name, _)| name == "DISPLAY") {
        // An X server cannot attach System V memory of another IPC namespace, and not all programs take that as
        // an answer.
        WITHOUT_MITSHM.iter().for_each(|(name, value)| set(&mut app, name, value));
    }
    for (name, value) in &plan.proxy_variables {
        set(&mut app, name, value);
    }
    for (name, value) in &plan.env {
        set(&mut app, name, value);
    }
    app
}

fn set(environment: &mut Vec<(OsString, OsString)>, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) {
    let name = name.as_ref();
    environment.retain(|(existing, _)| existing != name);
    environment.push((name.to_owned(), value.as_ref().to_owned()));
}

fn is_dropped(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let upper = name.to_ascii_uppercase();
    upper.ends_with("_PROXY")
        || upper.starts_with("NPM_CONFIG_") && upper.ends_with("PROXY")
        || name.starts_with("DBUS_")
        || name.starts_with("LD_")
        || DROPPED.contains(&&*name)
}

fn is_kept_for_others(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("LC_") || KEPT_FOR_OTHERS.contains(&&*name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{host, host_of, plan, plan_on};
    use std::collections::BTreeMap;

    /// The app's environment, the caller having `variables`.
    fn app(plan: &Plan, variables: &[&str]) -> BTreeMap<String, String> {
        let split = |variable: &&str| variable.split_once('=').map(|(name, value)| (name.into(), value.into()));
        let caller: Vec<(OsString, OsString)> = variables.iter().filter_map(split).collect();
        let text = |word: OsString| word.into_string().unwrap();
        let app = app_environment(plan, &caller);
        let names: std::collections::BTreeSet<_> = app.iter().map(|(name, _)| name).collect();
        assert_eq!(names.len(), app.len(), "a name stands twice");
        app.into_iter().map(|(name, value)| (text(name), text(value))).collect()
    }

    #[test]
    fn the_caller_keeps_what_does_not_lead_past_the_forwarder() {
        let kept = ["PATH=/bin", "EDITOR=vi", "LANG=C", "HOME=/root", "npm_config_cache=/x", "PROXY_X=1", "proxy=1"];
        let dropped = [
            "http_proxy=http://evil",
            "Https_Proxy=x",
            "NO_PROXY=*",
            "no_proxy=*",
            "ftp_proxy=x",
            "npm_config_https_proxy=x",
            "NPM_CONFIG_PROXY=x",
            "npm_config_noproxy=*",
            "SOCKS_SERVER=x",
            "GIT_PROXY_COMMAND=x",
            "REQUEST_METHOD=GET",
            "SSH_AUTH_SOCK=/tmp/x",
            "SSH_AGENT_PID=1",
            "GPG_AGENT_INFO=x",
            "DBUS_SESSION_BUS_ADDRESS=x",
            "DBUS_SYSTEM_BUS_ADDRESS=x",
            "LD_PRELOAD=x",
            "LD_LIBRARY_PATH=x",
            "NOTIFY_SOCKET=x",
            "LISTEN_FDS=3",
            "INVOCATION_ID=x",
            "CREDENTIALS_DIRECTORY=x",
        ];
        let app = app(&plan("--via none x").unwrap(), &[&kept[..], &dropped[..]].concat());
        let expected = kept.iter().filter_map(|word| word.split_once('='));
        assert_eq!(app, expected.map(|(name, value)| (name.into(), value.into())).collect());
    }

    #[test]
    fn another_user_gets_little_of_the_caller() {
        let caller = ["PATH=/bin", "LANG=C", "LC_TIME=C", "TZ=UTC", "TERM=xterm", "COLORTERM=1", "NO_COLOR=1"];
        let not_theirs = ["HOME=/root", "USER=root", "XDG_RUNTIME_DIR=/run/user/0", "EDITOR=vi", "LS_COLORS=x"];
        let app = app(&plan("--via none --uid alice x").unwrap(), &[&caller[..], &not_theirs[..]].concat());
        let own = ["HOME=/home/alice", "USER=alice", "LOGNAME=alice", "SHELL=/bin/sh"];
        let expected = caller.iter().chain(&own).filter_map(|word| word.split_once('='));
        assert_eq!(app, expected.map(|(name, value)| (name.into(), value.into())).collect());
    }

    #[test]
    fn only_root_loses_the_runtime_directory_and_nobody_is_without_a_path() {
        let variables = ["XDG_RUNTIME_DIR=/run/user/1000"];
        let root = app(&plan("--via none x").unwrap(), &variables);
        assert_eq!(root.get("XDG_RUNTIME_DIR"), None);
        assert_eq!(root["PATH"], DEFAULT_PATH);
        let alice = plan_on(&host_of("alice"), &["--system", "--via", "none", "x"]).unwrap();
        assert_eq!(app(&alice, &variables)["XDG_RUNTIME_DIR"], "/run/user/1000");
    }

    #[test]
    fn the_proxy_variables_are_ours_unless_env_says_otherwise() {
        let app = app(
            &plan("--via direct --env all_proxy=mine --env NEW=1 x").unwrap(),
            &["http_proxy=theirs", "RSYNC_PROXY=theirs", "NO_PROXY=*"],
        );
        let ours = "http://127.100.90.50:1080";
        for (name, value) in [("http_proxy", ours), ("HTTPS_PROXY", ours), ("all_proxy", "mine"), ("NEW", "1")] {
            assert_eq!(app[name], value, "{name}");
        }
        assert_eq!(app["RSYNC_PROXY"], "127.100.90.50:1080");
        assert!(!app.contains_key("NO_PROXY") && !app.contains_key("no_proxy"));
    }

    #[test]
    fn each_scheme_stands_in_all_six_variables_and_node_gets_http_alone() {
        for (option, scheme) in [
            ("", "http"),
            ("--env-scheme http ", "http"),
            ("--env-scheme socks5h ", "socks5h"),
            ("--env-scheme socks5 ", "socks5"),
            ("--env-scheme socks ", "socks"),
        ] {
            let plan = plan(&format!("--via direct {option}x")).unwrap();
            let variables: BTreeMap<_, _> = plan.proxy_variables.into_iter().collect();
            for name in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
                assert_eq!(variables[name], format!("{scheme}://127.100.90.50:1080"), "{name}");
            }
            assert_eq!(variables["RSYNC_PROXY"], "127.100.90.50:1080");
            assert_eq!(variables.contains_key("NODE_USE_ENV_PROXY"), scheme == "http", "{scheme}");
        }
        assert!(plan("--via none x").unwrap().proxy_variables.is_empty());
    }

    #[test]
    fn what_is_captured_by_name_is_not_told_of_a_proxy_for_https() {
        for (line, is_told) in [
            ("--via tor --wall strict x", true),
            ("--via tor --wall namespace x", false),
            ("--via direct --wall namespace x", false),
            ("--via tor --wall namespace --no-capture x", true),
            ("--via tor --wall namespace --dns off x", true),
            ("--via tor --wall namespace --dns tcp://9.9.9.9 x", true),
        ] {
            let names: Vec<_> = plan(line).unwrap().proxy_variables.into_iter().map(|(name, _)| name).collect();
            for name in ["https_proxy", "HTTPS_PROXY"] {
                assert_eq!(names.iter().any(|told| told == name), is_told, "{line}");
            }
            assert!(names.iter().any(|told| told == "http_proxy") && names.iter().any(|told| told == "ALL_PROXY"));
        }
    }

    #[test]
    fn an_app_with_a_loopback_of_its_own_needs_no_proxy_for_it() {
        const ALL: &str = "localhost,127.0.0.1,127.0.0.0/8,0.0.0.0,::1,::";
        for (line, exempt) in [
            ("--wall strict", None),
            ("--wall namespace", Some(ALL)),
            ("--wall namespace --allow-destination db.test", Some(ALL)),
            ("--wall namespace --no-capture", ALL.strip_suffix(",::")),
            // Taken at the same address and port in the namespace, and led to the host's from there.
            ("--wall namespace --allow-destination 127.0.0.1:5432", Some(ALL)),
            ("--wall namespace --allow-destination 127.0.0.2:5432", Some(ALL)),
            ("--wall namespace --allow-destination localhost:5432", Some("0.0.0.0,::")),
            ("--wall namespace --allow-destination 127.0.0.1", Some("localhost,0.0.0.0,::1,::")),
            ("--wall namespace --allow-destination 127.0.0.2", Some("localhost,127.0.0.1,0.0.0.0,::1,::")),
            ("--wall namespace --allow-destination 127.8.0.0/16:80", Some("localhost,127.0.0.1,0.0.0.0,::1,::")),
            ("--wall namespace --allow-destination 0.0.0.0:8080", Some("localhost,127.0.0.1,127.0.0.0/8,::1,::")),
            ("--wall namespace --allow-destination [::1]:1-9", Some("localhost,127.0.0.1,127.0.0.0/8,0.0.0.0,::")),
            ("--wall namespace --allow-destination [::]:80", Some("localhost,127.0.0.1,127.0.0.0/8,0.0.0.0,::1")),
            ("--wall namespace --allow-destination any", None),
        ] {
            let plan = plan(&format!("--via tor {line} x")).unwrap();
            let variables: BTreeMap<_, _> = plan.proxy_variables.into_iter().collect();
            for name in ["no_proxy", "NO_PROXY"] {
                assert_eq!(variables.get(name).map(String::as_str), exempt, "{line}");
            }
        }
        assert!(plan("--via none --wall namespace x").unwrap().proxy_variables.is_empty());
    }

    #[test]
    fn what_the_address_wall_lets_through_needs_no_proxy() {
        let plan = plan("--via direct --wall address --allow 10.0.0.0/24 --allow 10.1.0.9 --allow ::1 x").unwrap();
        let app = app(&plan, &[]);
        assert_eq!(app["NO_PROXY"], "10.0.0.0/24,10.1.0.9,::1");
        assert_eq!(app["no_proxy"], app["NO_PROXY"]);
        let names = host().environment;
        assert!(app_environment(&plan, &names).iter().any(|(name, _)| name == "LANG"));
    }
}
