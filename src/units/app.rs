//! The app's service: `appfw inside` under the wall and the hardening of [`crate::confinement`].

use std::path::Path;
use std::time::Duration;

use super::{Places, Setting, Unit, Value, appfw, word, words};
use crate::cli::{Capture, WallKind};
use crate::confinement;
use crate::exit;
use crate::host::Host;
use crate::network::IpLists;
use crate::plan::{Plan, Stdio, Supervisor};

/// How long a launch whose launcher died may take to end by SIGTERM. `appfw stop` and Ctrl-C wait
/// for the app as long as it takes before they stop the unit.
const STOP_TIMEOUT: Duration = Duration::from_millis(1000);

/// How long a unit that lasts rests after a failure: five starts within ten seconds are systemd's limit
/// (DefaultStartLimitBurst=), at which it gives up.
const RESTART: Duration = Duration::from_secs(5);

/// The units of this host's Tor, as Debian calls them: the first stands for all of its instances.
pub(crate) const TOR: [&str; 2] = ["tor.service", "tor@default.service"];

/// What `inside` is told where there is no launcher, in the unit's directory.
pub const ORDER: &str = "order";

pub(super) fn unit(plan: &Plan, host: &Host, places: &Places) -> Unit {
    let mut unit = Unit::new(plan, plan.name.app(), plan.whole());
    // What so is needed as long as the app runs. It waits for its sockets.
    let is_early = plan.supervisor == Supervisor::User || !plan.has_fixed_program(host);
    let forwarder = (plan.has_forwarder() && is_early).then(|| plan.name.forwarder());
    let publisher = (!plan.publish.is_empty()).then(|| match plan.is_permanent() {
        true => plan.name.publisher_socket(),
        false => plan.name.publisher(),
    });
    let servants: Vec<String> = forwarder.into_iter().chain(publisher).collect();
    let tor = if plan.is_permanent() && plan.via.is_by_local_tor() { &TOR[..] } else { &[] };
    let tor = tor.iter().map(|unit| (*unit).to_owned());
    let lifeline = (!plan.detach).then(|| plan.name.lifeline());
    let mut first: Vec<String> = plan.has_socket_unit().then(|| plan.name.socket()).into_iter().collect();
    if !plan.has_fixed_program(host) {
        // Type=exec: all of them are executed by then. The app could put another file in the place of what still is to be.
        first.extend(servants.iter().chain(&lifeline).cloned());
    }
    first.extend(tor.clone());
    let wanted: Vec<String> = servants.into_iter().chain(tor).collect();
    if plan.has_socket_unit() {
        unit.unit("Requires", words([&plan.name.socket()]));
    }
    if !first.is_empty() {
        unit.unit("After", Value::Words(first));
    }
    if plan.has_socket_unit() && plan.wall != WallKind::Address {
        unit.unit("JoinsNamespaceOf", words([&plan.name.socket()]));
    }
    if plan.supervisor == Supervisor::System && !plan.has_socket_unit() && !plan.publish.is_empty() {
        // Mutual from systemd 254 on anyway; what is held is compared with what was asked for.
        unit.unit("JoinsNamespaceOf", words([&plan.name.publisher()]));
    }
    if !wanted.is_empty() {
        unit.unit("Wants", Value::Words(wanted));
    }
    if let Some(lifeline) = lifeline {
        // Never to the forwarder, which restarts by itself. No After= is needed for it: both start at once, and a
        // life-line that ends or fails while the app starts takes it along all the same.
        unit.unit("BindsTo", words([&lifeline]));
    }
    unit.kind("Type", word("exec"));
    unit.kind("ExitType", word(if plan.exit_with_main { "main" } else { "cgroup" }));
    if plan.is_permanent() {
        lasts(&mut unit, plan);
    } else {
        unit.kind("TimeoutStopSec", Value::Span(STOP_TIMEOUT));
    }
    if let Some(before) = before(plan, host, places) {
        unit.kind("ExecStartPre", Value::Privileged(before));
    }
    let (appfw, bind) = match plan.supervisor {
        Supervisor::System => appfw(host, places.state.join("appfw")),
        // The user's own manager makes no mounts that could be relied on, and needs none.
        Supervisor::User | Supervisor::Standalone => (host.appfw.display().to_string(), None),
    };
    unit.kind("ExecStart", Value::Exec(inside(plan, host, places, appfw)));
    if !plan.proxy_variables.is_empty() {
        let variables = plan.proxy_variables.iter().map(|(name, value)| format!("{name}={value}"));
        unit.kind("Environment", Value::Words(variables.collect()));
    }
    unit.kind("UMask", Value::Number(plan.umask));
    if plan.supervisor == Supervisor::System && !plan.app.user().is_root() {
        unit.kind("User", word(&plan.app.user().name));
    }
    // The caller's descriptors arrive by the control socket; until then there is the journal.
    unit.kind("StandardInput", word("null"));
    unit.kind("StandardOutput", word("journal"));
    unit.kind("StandardError", word("journal"));
    match plan.supervisor {
        Supervisor::System => unit.kind.extend(confinement::settings(plan, host)),
        // Nothing else: `inside` builds the wall and forbids what leads past it, and proves both.
        Supervisor::User | Supervisor::Standalone => {
            unit.kind("NoNewPrivileges", Value::Bool(true));
            unit.kind("IgnoreSIGPIPE", Value::Bool(false));
            if places.in_run {
                // Removed with the app, whatever became of the launcher. There is no socket unit to outlive it, and the
                // forwarder, which does, needs nothing of it once it runs.
                unit.kind("RuntimeDirectory", words([&format!("appfw/{}", plan.name)]));
                unit.kind("RuntimeDirectoryMode", Value::Number(0o700));
            }
        }
    }
    unit.kind.extend(plan.properties.iter().cloned());
    unit.kind.extend(bind.map(|bind| Setting { directive: "BindPaths", value: Value::Binds(vec![bind]) }));
    unit
}

/// What no launcher starts, or starts again.
pub(super) fn lasts(unit: &mut Unit, plan: &Plan) {
    unit.kind("Restart", word("on-failure"));
    unit.kind("RestartSec", Value::Span(RESTART));
    // What keeps the app from running does not go away by another try.
    unit.kind("RestartPreventExitStatus", Value::ExitCode(exit::OURS));
    let target = match plan.supervisor {
        Supervisor::System => "multi-user.target",
        Supervisor::User | Supervisor::Standalone => "default.target",
    };
    unit.install.push(Setting { directive: "WantedBy", value: words([target]) });
}

/// What runs before `inside`, as root, in the app's cgroup and network namespace. A permanent unit has no launcher that
/// reads it back and sends the order.
fn before(plan: &Plan, host: &Host, places: &Places) -> Option<Vec<String>> {
    match (plan.supervisor, plan.is_permanent()) {
        (Supervisor::User | Supervisor::Standalone, _) => None,
        (Supervisor::System, true) => Some(ready(host, &places.units.join(plan.app_unit()))),
        (Supervisor::System, false) => {
            let is_captured = plan.wall == WallKind::Namespace && plan.has_forwarder();
            is_captured.then(|| network(plan, host, places))
        }
    }
}

/// The first command of a permanent unit, whose file is `made` by us.
fn ready(host: &Host, made: &Path) -> Vec<String> {
    vec![host.appfw.display().to_string(), "ready".to_owned(), made.display().to_string()]
}

/// In the app's network namespace, but none of its mounts: where `appfw` is.
fn network(plan: &Plan, host: &Host, places: &Places) -> Vec<String> {
    vec![
        host.appfw.display().to_string(),
        "network".to_owned(),
        format!("--capture={}", plan.capture.as_str()),
        format!("--outside={}", host.network_namespace),
        format!("--control={}", places.state.join("control").display()),
    ]
}

/// The command of `appfw inside`, whoever starts it.
pub(crate) fn inside(plan: &Plan, host: &Host, places: &Places, appfw: String) -> Vec<String> {
    let is_alone = plan.supervisor == Supervisor::Standalone;
    let lists = match plan.supervisor {
        Supervisor::System => plan.lists(),
        Supervisor::User | Supervisor::Standalone => IpLists::default(),
    };
    let mut command = vec![appfw, "inside".to_owned(), format!("--wall={}", plan.wall.as_str())];
    if plan.has_forwarder() {
        command.push(format!("--forwarder={}", plan.address));
    }
    if plan.supervisor != Supervisor::System {
        command.push("--build".to_owned());
        command.extend(plan.listening().iter().map(|listening| format!("--listen={listening}")));
        command.extend((!plan.publish.is_empty()).then(|| "--publish".to_owned()));
    }
    if plan.capture != Capture::Off {
        command.push(format!("--capture={}", plan.capture.as_str()));
    }
    command.extend(lists.allow.iter().map(|network| format!("--allow={network}")));
    command.extend(lists.deny.iter().map(|network| format!("--deny={network}")));
    command.extend(lists.canary().map(|canary| format!("--canary={canary}")));
    command.extend((!plan.filters.is_empty()).then(|| "--filtered".to_owned()));
    command.extend((!is_alone).then(|| format!("--cgroup={}", plan.app_cgroup())));
    if !plan.is_permanent() {
        command.push(format!("--outside={}", host.network_namespace));
        if !plan.app.user().is_root() {
            command.push(format!("--outside-user={}", host.user_namespace));
        }
    }
    let is_init = confinement::has_pid_namespace(plan, host);
    command.extend(is_init.then(|| "--init".to_owned()));
    command.extend(((is_init || is_alone) && plan.exit_with_main).then(|| "--exit-with-main".to_owned()));
    if matches!(plan.stdio, Stdio::Terminal { .. }) {
        command.push("--terminal".to_owned());
    }
    command.push(match is_alone {
        // The launcher is at standard input.
        true => format!("--state={}", places.state.display()),
        false if plan.is_permanent() => format!("--order={}", places.state.join(ORDER).display()),
        false => format!("--control={}", places.state.join("control").display()),
    });
    command
}
