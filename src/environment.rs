//! The app's environment: the caller's, less what leads past the forwarder, plus the proxy
//! variables. Pure.

use std::ffi::{OsStr, OsString};

use std::net::SocketAddrV4;

use ipnet::IpNet;

use crate::cli::EnvScheme;
use crate::plan::{Identity, Plan};

/// What another user's program keeps of the caller's environment.
const KEPT_FOR_OTHERS: [&str; 6] = ["PATH", "LANG", "TZ", "TERM", "COLORTERM", "NO_COLOR"];

/// The PATH of a caller that has none (systemd's own default, systemd.exec(5)).
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin";

/// Variables of the caller that would lead round the forwarder, into a hidden service, or that
/// belong to the launcher's own unit. `*_PROXY` in any case is dropped as well.
const DROPPED: [&str; 22] = [
    "NODE_USE_ENV_PROXY",
    "SOCKS_SERVER",
    "SOCKS_VERSION",
    // Some runtimes ignore http_proxy when they take themselves for a CGI program.
    "REQUEST_METHOD",
    "GIT_PROXY_COMMAND",
    "SSH_AUTH_SOCK",
    "SSH_AGENT_PID",
    "GPG_AGENT_INFO",
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

/// The variables that make programs use the forwarder at `address`. `exempt` are the networks that
/// the app may reach directly (`--allow` in the address wall).
///
/// The choice is measured over 44 clients: docs/compatibility.md.
#[must_use]
pub fn proxy_variables(scheme: EnvScheme, address: SocketAddrV4, exempt: &[IpNet]) -> Vec<(String, String)> {
    let url = format!("{}://{address}", scheme.as_str());
    let mut variables: Vec<(String, String)> =
        ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]
            .into_iter()
            .map(|name| (name.to_owned(), url.clone()))
            .collect();
    // HOST:PORT, an http:// value breaks rsync.
    variables.push(("RSYNC_PROXY".to_owned(), address.to_string()));
    if scheme == EnvScheme::Http {
        // Node 24 and 26 crash at start-up when this meets a socks5h:// value.
        variables.push(("NODE_USE_ENV_PROXY".to_owned(), "1".to_owned()));
    }
    if !exempt.is_empty() {
        let networks = exempt.iter().map(plain).collect::<Vec<_>>().join(",");
        variables.extend(["no_proxy", "NO_PROXY"].map(|name| (name.to_owned(), networks.clone())));
    }
    variables
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
    if user.is_root() {
        // Root's app sees no /run/user at all (confinement).
        app.retain(|(name, _)| name != "XDG_RUNTIME_DIR");
    }
    if !app.iter().any(|(name, _)| name == "PATH") {
        set(&mut app, "PATH", DEFAULT_PATH);
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
