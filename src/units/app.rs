//! The app's service: `appfw inside` under the wall and the hardening of [`crate::confinement`].

use std::time::Duration;

use super::{Places, Setting, Unit, Value, appfw, word, words};
use crate::cli::{Capture, WallKind};
use crate::confinement;
use crate::host::Host;
use crate::network::IpLists;
use crate::plan::{Plan, Stdio, Supervisor};

/// How long a launch whose launcher died may take to end by SIGTERM. `appfw stop` and Ctrl-C wait
/// for the app as long as it takes before they stop the unit.
const STOP_TIMEOUT: Duration = Duration::from_millis(1000);

pub(super) fn unit(plan: &Plan, host: &Host, places: &Places) -> Unit {
    let mut unit = Unit::new(plan.name.app(), format!("appfw launch {}", plan.name));
    // What so is needed as long as the app runs. It waits for its sockets.
    let is_early = plan.supervisor == Supervisor::User || !plan.has_fixed_program(host);
    let forwarder = (plan.has_forwarder() && is_early).then(|| plan.name.forwarder());
    let publisher = (!plan.publish.is_empty()).then(|| plan.name.publisher());
    let wanted: Vec<String> = forwarder.into_iter().chain(publisher).collect();
    let lifeline = (!plan.detach).then(|| plan.name.lifeline());
    let mut first: Vec<String> = plan.has_socket_unit().then(|| plan.name.socket()).into_iter().collect();
    if !plan.has_fixed_program(host) {
        // Type=exec: all of them are executed by then. The app could put another file in the place of what still is to be.
        first.extend(wanted.iter().chain(&lifeline).cloned());
    }
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
    unit.kind("TimeoutStopSec", Value::Span(STOP_TIMEOUT));
    if plan.supervisor == Supervisor::System && plan.wall == WallKind::Namespace && plan.has_forwarder() {
        unit.kind("ExecStartPre", Value::Privileged(network(plan, host, places)));
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
        }
    }
    unit.kind.extend(plan.properties.iter().cloned());
    unit.kind.extend(bind.map(|bind| Setting { directive: "BindPaths", value: Value::Binds(vec![bind]) }));
    unit
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
    command.extend((!is_alone).then(|| format!("--cgroup={}", plan.name.cgroup())));
    command.push(format!("--outside={}", host.network_namespace));
    if !plan.app.user().is_root() {
        command.push(format!("--outside-user={}", host.user_namespace));
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
        false => format!("--control={}", places.state.join("control").display()),
    });
    command
}
