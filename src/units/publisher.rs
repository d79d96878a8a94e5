//! What leads published ports into the app's network namespace.

use std::path::Path;
use std::time::Duration;

use super::forwarder::{comes_back, harden, harden_as_system, keeps_descriptors};
use super::{INNER, Places, Unit, Value, appfw, word, words};
use crate::host::Host;
use crate::listening::{BACKLOG, Kind, Listening};
use crate::plan::{Plan, Supervisor};
use crate::view::Bind;

pub(super) fn unit(plan: &Plan, host: &Host, places: &Places) -> Unit {
    let mut unit = Unit::new(plan, plan.name.publisher(), format!("Published ports of {}", plan.whole()));
    if plan.is_permanent() {
        // Its first connection starts it.
        unit.unit("PartOf", words([&plan.name.publisher_socket()]));
        // Where all is started again, it would else join the namespace of before, and keep it.
        unit.unit("After", words([&plan.name.publisher_socket(), &plan.app_unit()]));
    } else {
        // It stops with the app, which wants it, and does not start that one again, as one that requires it could.
        unit.unit("StopWhenUnneeded", Value::Bool(true));
        if plan.has_fixed_program(host) {
            // In the system manager the app may be who makes the namespace.
            unit.unit("After", words([&plan.app_unit()]));
        }
    }
    comes_back(&mut unit, plan, host);
    keeps_descriptors(&mut unit);
    let at = places.state.join("publish");
    if plan.supervisor == Supervisor::System {
        // PID 1 brings it into the app's namespace: by the name of who made that one.
        let maker = if plan.has_socket_unit() { plan.name.socket() } else { plan.app_unit() };
        unit.unit("JoinsNamespaceOf", words([&maker]));
        unit.kind("PrivateNetwork", Value::Bool(true));
        let (appfw, bind) = appfw(host, Path::new(INNER).join("appfw"));
        let target = Path::new(INNER).join("publish");
        let report = (!plan.is_permanent()).then_some(Bind { source: at, target });
        let at = report.as_ref().map(|bind| bind.target.as_path());
        unit.kind("ExecStart", Value::Exec(command(plan, host, appfw, at)));
        unit.kind("TemporaryFileSystem", Value::FileSystems(vec![(INNER.into(), "mode=0755".into())]));
        let binds: Vec<_> = bind.into_iter().chain(report).collect();
        if !binds.is_empty() {
            unit.kind("BindPaths", Value::Binds(binds));
        }
        harden_as_system(&mut unit);
        harden(&mut unit, false);
    } else {
        unit.kind("ExecStart", Value::Exec(command(plan, host, host.appfw.display().to_string(), Some(&at))));
        harden(&mut unit, true);
    }
    unit
}

/// The host's side, where systemd listens for as long as the app is there.
pub(super) fn socket(plan: &Plan) -> Unit {
    let mut unit = Unit::new(plan, plan.name.publisher_socket(), format!("Host's ports of {}", plan.whole()));
    unit.unit("PartOf", words([&plan.app_unit()]));
    // An app that ends by itself stops nothing that is part of it.
    unit.unit("StopWhenUnneeded", Value::Bool(true));
    unit.unit("StartLimitIntervalSec", Value::Span(Duration::ZERO));
    let listen = plan.publish.iter().map(|one| Listening { kind: Kind::Stream, address: one.outer });
    unit.kind("Listen", Value::Listen(listen.collect()));
    // [::] would be every v4 address as well, which nobody asked for.
    unit.kind("BindIPv6Only", word("ipv6-only"));
    unit.kind("Backlog", Value::Number(BACKLOG.into()));
    unit
}

/// Whose descriptors it gets by `report`, and else from systemd.
fn command(plan: &Plan, host: &Host, appfw: String, report: Option<&Path>) -> Vec<String> {
    let mut command = vec![appfw, "publish".to_owned()];
    match report {
        Some(report) => {
            command.push(format!("--report={}", report.display()));
            command.extend(publishing(plan, host));
        }
        // The number of the host's network namespace at a later boot isn't known yet.
        None => command.extend(published(plan)),
    }
    command
}

fn published(plan: &Plan) -> impl Iterator<Item = String> {
    plan.publish.iter().map(|published| format!("--publish={published}"))
}

/// What is published: whoever starts it.
pub(crate) fn publishing(plan: &Plan, host: &Host) -> Vec<String> {
    let outside = format!("--outside={}", host.network_namespace);
    published(plan).chain([outside]).collect()
}
