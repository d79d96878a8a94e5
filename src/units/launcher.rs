//! The one unit of an ordinary user that lasts: the launcher, which keeps the program and what serves it by itself. A
//! user's systemd has no part in the wall, can start nothing before a unit's main process in the same namespace
//! (systemd/systemd#35982), and does not join two units in one (systemd/systemd#29429).

use super::app::lasts;
use super::{Unit, Value, word};
use crate::host::Host;
use crate::plan::Plan;

/// 128 + SIGTERM: what the launcher ends with where it is stopped, and its program by that.
const STOPPED: u8 = 143;

/// Variables by which the dynamic linker loads other code into a program, or ends it with success before it has begun
/// (ld.so(8); `LD_DEBUG=help`); no app of an ordinary user's gets them.
pub const LINKERS: [&str; 16] = [
    "LD_PRELOAD",
    "LD_AUDIT",
    "LD_LIBRARY_PATH",
    "LD_ORIGIN_PATH",
    "LD_PROFILE",
    "LD_PROFILE_OUTPUT",
    "LD_DEBUG",
    "LD_DEBUG_OUTPUT",
    "LD_TRACE_LOADED_OBJECTS",
    "LD_TRACE_PRELINKING",
    "LD_VERBOSE",
    "LD_WARN",
    "LD_SHOW_AUXV",
    "LD_ASSUME_KERNEL",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
];

pub(super) fn unit(plan: &Plan, host: &Host, words: Vec<String>) -> Unit {
    let mut unit = Unit::new(plan, plan.name.app(), plan.whole());
    unit.kind("Type", word("exec"));
    let launcher = host.appfw.with_file_name("appfw-run").display().to_string();
    let own = [launcher, "--standalone".to_owned(), format!("--unit={}", plan.name)];
    unit.kind("ExecStart", Value::Exec(own.into_iter().chain(words).collect()));
    // What a program's own environment says to the dynamic linker is not for what builds its wall.
    unit.kind("UnsetEnvironment", Value::Words(LINKERS.map(str::to_owned).to_vec()));
    // The launcher alone is told to stop; it tells the program, and ends what serves that afterwards.
    unit.kind("KillMode", word("mixed"));
    unit.kind("SuccessExitStatus", Value::ExitCode(STOPPED));
    lasts(&mut unit, plan);
    unit.kind.extend(plan.properties.iter().cloned());
    unit
}
