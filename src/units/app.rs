//! The app's service: `appfw inside` under the wall and the hardening of [`crate::confinement`].

use std::path::Path;
use std::time::Duration;

use super::{Bind, INNER, Places, Setting, Unit, Value, appfw, bind_appfw, word, words};
use crate::cli::WallKind;
use crate::confinement;
use crate::host::Host;
use crate::plan::{Plan, Resolver, Stdio};

/// How long a launch whose launcher died may take to end by SIGTERM. `appfw stop` and Ctrl-C wait
/// for the app as long as it takes before they stop the unit.
const STOP_TIMEOUT: Duration = Duration::from_millis(1000);

pub(super) fn unit(plan: &Plan, host: &Host, places: &Places) -> Unit {
    let mut unit = Unit::new(plan.name.app(), format!("appfw launch {}", plan.name));
    let mut after = vec![plan.name.lifeline()];
    if plan.has_forwarder() {
        unit.unit("Requires", words([&plan.name.socket()]));
        after.push(plan.name.socket());
        if plan.wall != WallKind::Address {
            unit.unit("JoinsNamespaceOf", words([&plan.name.socket()]));
        }
    }
    unit.unit("After", Value::Words(after));
    if !plan.detach {
        // Never to the forwarder, which restarts by itself.
        unit.unit("BindsTo", words([&plan.name.lifeline()]));
    }
    unit.kind("Type", word("exec"));
    unit.kind("ExitType", word(if plan.exit_with_main { "main" } else { "cgroup" }));
    unit.kind("TimeoutStopSec", Value::Span(STOP_TIMEOUT));
    unit.kind("ExecStart", Value::Exec(inside(plan, host)));
    if !plan.proxy_variables.is_empty() {
        let variables = plan.proxy_variables.iter().map(|(name, value)| format!("{name}={value}"));
        unit.kind("Environment", Value::Words(variables.collect()));
    }
    unit.kind("UMask", Value::Number(plan.umask));
    if !plan.app.user().is_root() {
        unit.kind("User", word(&plan.app.user().name));
    }
    // The caller's descriptors arrive by the control socket; until then there is the journal.
    unit.kind("StandardInput", word("null"));
    unit.kind("StandardOutput", word("journal"));
    unit.kind("StandardError", word("journal"));
    unit.kind.extend(confinement::settings(plan, host));
    bind(&mut unit.kind, plan, places, host);
    unit
}

fn inside(plan: &Plan, host: &Host) -> Vec<String> {
    let lists = plan.lists();
    let mut command = vec![appfw(host), "inside".to_owned(), format!("--wall={}", plan.wall.as_str())];
    if plan.has_forwarder() {
        command.push(format!("--forwarder={}", plan.address));
    }
    command.extend(lists.allow.iter().map(|network| format!("--allow={network}")));
    command.extend(lists.deny.iter().map(|network| format!("--deny={network}")));
    command.extend(lists.canary().map(|canary| format!("--canary={canary}")));
    command.push(format!("--cgroup={}", plan.name.cgroup()));
    command.push(format!("--outside={}", host.network_namespace));
    if confinement::has_pid_namespace(plan, host) {
        command.push("--init".to_owned());
        command.extend(plan.exit_with_main.then(|| "--exit-with-main".to_owned()));
    }
    if matches!(plan.stdio, Stdio::Terminal { .. }) {
        command.push("--terminal".to_owned());
    }
    command.push(format!("--control={INNER}/control"));
    command
}

/// Adds our own files to the binds that the confinement asks for.
fn bind(settings: &mut [Setting], plan: &Plan, places: &Places, host: &Host) {
    let file = |name: &str, target: &Path| Bind { source: places.state.join(name), target: target.to_owned() };
    let mut own: Vec<Bind> = bind_appfw(host).into_iter().collect();
    own.push(file("control", &Path::new(INNER).join("control")));
    if plan.resolver == Resolver::Off {
        own.extend(host.resolv_conf.iter().map(|target| file("resolv.conf", target)));
        own.extend(host.nsswitch.iter().map(|_| file("nsswitch.conf", Path::new("/etc/nsswitch.conf"))));
    }
    for setting in settings {
        if let ("BindPaths", Value::Binds(binds)) = (setting.directive, &mut setting.value) {
            binds.splice(0..0, own.clone());
        }
    }
}
