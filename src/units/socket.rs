//! The forwarder's listening sockets: in the address wall on the host's loopback, in the others inside the
//! app's namespace, and there, with capture, also those that take what is sent anywhere.

use std::time::Duration;

use super::{Places, SHARED, Unit, Value, lists, word, words};
use crate::cli::{Capture, WallKind};
use crate::listening::BACKLOG;
use crate::network::{self, IpLists};
use crate::plan::Plan;

/// Starts of the forwarder in so many seconds. It takes 20 ms to start and fail, and ten times that on a
/// machine under load, where it must be given up as well.
const TRIGGER_INTERVAL: Duration = Duration::from_secs(10);
const TRIGGER_BURST: u32 = 40;

pub(super) fn unit(plan: &Plan, places: &Places) -> Unit {
    let mut unit = Unit::new(plan, plan.name.socket(), format!("Forwarder's address for {}", plan.whole()));
    // It goes when the last unit that requires it has gone: the app, or before that the life-line.
    unit.unit("StopWhenUnneeded", Value::Bool(true));
    if plan.is_permanent() {
        // A restart of the app begins with a new namespace, in which nothing is made yet. How often that may be is the
        // app's own limit.
        unit.unit("PartOf", words([&plan.app_unit()]));
        unit.unit("StartLimitIntervalSec", Value::Span(Duration::ZERO));
    }
    unit.kind("Listen", Value::Listen(plan.listening()));
    if plan.capture != Capture::Off {
        // Connections to any address are taken, and answers sent from it.
        unit.kind("Transparent", Value::Bool(true));
        unit.kind("BindIPv6Only", word("ipv6-only"));
        // Which server was asked is the one that answers.
        unit.kind("PassPacketInfo", Value::Bool(true));
    }
    // More than the default of an accept queue in systemd (SOMAXCONN is the kernel's own limit).
    unit.kind("Backlog", Value::Number(BACKLOG.into()));
    // An app that makes its forwarder crash has it back each time; one that can't start at all is given
    // up, so that the app's connections end instead of waiting (by default after 20 starts in 2 s).
    unit.kind("TriggerLimitIntervalSec", Value::Span(TRIGGER_INTERVAL));
    unit.kind("TriggerLimitBurst", Value::Number(TRIGGER_BURST));
    match plan.wall {
        WallKind::Address => {
            // Accepted sockets keep the cgroup of the listener, so these lists hold for the
            // forwarder's side of every connection; clients come from 127.0.0.1.
            let own = [*plan.address.ip(), std::net::Ipv4Addr::LOCALHOST].map(network::host);
            unit.kind.extend(lists(IpLists::only(own.to_vec())));
        }
        WallKind::Strict | WallKind::Namespace => {
            // The helper that binds the socket makes the namespace, the app joins it.
            // On both sides: not symmetric before systemd 254.
            unit.kind("PrivateNetwork", Value::Bool(true));
            unit.unit("JoinsNamespaceOf", words([&plan.app_unit()]));
            let shared = plan.properties.iter().filter(|setting| SHARED.contains(&setting.directive));
            unit.kind.extend(shared.cloned());
        }
    }
    if places.in_run {
        // Removed with the socket, the last of the launch's units to go, whatever became of the launcher.
        unit.kind("RuntimeDirectory", words([&format!("appfw/{}", plan.name)]));
    }
    unit
}
