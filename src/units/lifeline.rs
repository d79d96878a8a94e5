//! The life-line: a process that waits for the end of a pipe whose other end only the launcher
//! holds. It is started first and needs the socket, so that the socket, which goes when unneeded,
//! stands before the app does.

use std::path::Path;

use super::{INNER, Places, Unit, Value, appfw, descriptor, word, words};
use crate::host::Host;
use crate::plan::{Plan, Supervisor};

pub(super) fn unit(plan: &Plan, host: &Host, places: &Places) -> Unit {
    let mut unit = Unit::new(plan, plan.name.lifeline(), format!("Life-line of {}", plan.whole()));
    if plan.has_socket_unit() {
        unit.unit("Requires", words([&plan.name.socket()]));
        unit.unit("After", words([&plan.name.socket()]));
    }
    unit.kind("Type", word("exec"));
    // Not the caller, whom the app runs as: it could stop it (kill(2) reaches across user namespaces). The
    // user's own manager has no other user.
    let is_anothers = plan.supervisor == Supervisor::System && !host.caller.is_root();
    let (appfw, bind) = match is_anothers {
        false => (host.appfw.display().to_string(), None),
        true => appfw(host, Path::new(INNER).join("appfw")),
    };
    unit.kind("ExecStart", Value::Exec(vec![appfw, "lifeline".into()]));
    unit.kind("StandardInput", Value::Descriptor(descriptor::LIFELINE));
    unit.kind("StandardOutput", if places.terminal { Value::Descriptor(descriptor::TERMINAL) } else { word("null") });
    unit.kind("StandardError", word("journal"));
    if is_anothers {
        unit.kind("DynamicUser", Value::Bool(true));
        if let Some(bind) = bind {
            unit.kind("TemporaryFileSystem", Value::FileSystems(vec![(INNER.into(), "mode=0755".into())]));
            unit.kind("BindPaths", Value::Binds(vec![bind]));
        }
    }
    unit.kind("NoNewPrivileges", Value::Bool(true));
    if plan.supervisor == Supervisor::System {
        // The user's manager may not reduce it.
        unit.kind("CapabilityBoundingSet", Value::Capabilities(0));
    }
    unit.kind("RestrictAddressFamilies", Value::NoFamilies);
    unit
}
