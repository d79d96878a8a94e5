//! What leads published ports into the app's network namespace.

use std::path::Path;

use super::forwarder::{comes_back, harden, harden_as_system, keeps_descriptors};
use super::{INNER, Places, Unit, Value, appfw, words};
use crate::host::Host;
use crate::plan::{Plan, Supervisor};
use crate::view::Bind;

pub(super) fn unit(plan: &Plan, host: &Host, places: &Places) -> Unit {
    let mut unit = Unit::new(plan, plan.name.publisher(), format!("Published ports of {}", plan.whole()));
    // It stops with the app, which wants it, and does not start that one again, as one that requires it could.
    unit.unit("StopWhenUnneeded", Value::Bool(true));
    unit.unit("After", words([&plan.app_unit()]));
    comes_back(&mut unit, plan, host);
    keeps_descriptors(&mut unit);
    let at = places.state.join("publish");
    if plan.supervisor == Supervisor::System {
        // PID 1 brings it into the app's namespace: by the name of who made that one.
        let maker = if plan.has_socket_unit() { plan.name.socket() } else { plan.name.app() };
        unit.unit("JoinsNamespaceOf", words([&maker]));
        unit.kind("PrivateNetwork", Value::Bool(true));
        let (appfw, bind) = appfw(host, Path::new(INNER).join("appfw"));
        let target = Path::new(INNER).join("publish");
        unit.kind("ExecStart", Value::Exec(command(plan, host, appfw, &target)));
        unit.kind("TemporaryFileSystem", Value::FileSystems(vec![(INNER.into(), "mode=0755".into())]));
        unit.kind("BindPaths", Value::Binds(bind.into_iter().chain([Bind { source: at, target }]).collect()));
        harden_as_system(&mut unit);
        harden(&mut unit, false);
    } else {
        unit.kind("ExecStart", Value::Exec(command(plan, host, host.appfw.display().to_string(), &at)));
        harden(&mut unit, true);
    }
    unit
}

fn command(plan: &Plan, host: &Host, appfw: String, report: &Path) -> Vec<String> {
    let mut command = vec![appfw, "publish".to_owned(), format!("--report={}", report.display())];
    command.extend(publishing(plan, host));
    command
}

/// What is published: whoever starts it.
pub(crate) fn publishing(plan: &Plan, host: &Host) -> Vec<String> {
    let outside = format!("--outside={}", host.network_namespace);
    plan.publish.iter().map(|published| format!("--publish={published}")).chain([outside]).collect()
}
