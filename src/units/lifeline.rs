//! The life-line: a process that waits for the end of a pipe whose other end only the launcher
//! holds. It is started first and needs the socket, so that the socket, which goes when unneeded,
//! stands before the app does.

use super::{Places, Unit, Value, descriptor, word, words};
use crate::host::Host;
use crate::plan::Plan;

pub(super) fn unit(plan: &Plan, host: &Host, places: &Places) -> Unit {
    let mut unit = Unit::new(plan.name.lifeline(), format!("Life-line of appfw launch {}", plan.name));
    if plan.has_forwarder() {
        unit.unit("Requires", words([&plan.name.socket()]));
        unit.unit("After", words([&plan.name.socket()]));
    }
    unit.kind("Type", word("exec"));
    unit.kind("ExecStart", Value::Exec(vec![host.appfw.display().to_string(), "lifeline".into()]));
    unit.kind("StandardInput", Value::Descriptor(descriptor::LIFELINE));
    unit.kind("StandardOutput", if places.terminal { Value::Descriptor(descriptor::TERMINAL) } else { word("null") });
    unit.kind("StandardError", word("journal"));
    if !host.caller.is_root() {
        unit.kind("User", word(&host.caller.name));
    }
    unit.kind("NoNewPrivileges", Value::Bool(true));
    unit.kind("CapabilityBoundingSet", Value::Capabilities(0));
    unit.kind("RestrictAddressFamilies", Value::NoFamilies);
    unit
}
