//! The forwarder's listening socket: in the strict wall inside the app's namespace, in the address
//! wall on the host's loopback.

use super::{Places, SocketKind, Unit, Value, lists, words};
use crate::cli::WallKind;
use crate::dns::{self, Dns};
use crate::network::{self, IpLists};
use crate::plan::Plan;

pub(super) fn unit(plan: &Plan, places: &Places) -> Unit {
    let mut unit = Unit::new(plan.name.socket(), format!("Forwarder's address for appfw launch {}", plan.name));
    // It goes when the last unit that requires it has gone: the app, or before that the life-line.
    unit.unit("StopWhenUnneeded", Value::Bool(true));
    let mut listen = vec![(SocketKind::Stream, plan.address.to_string())];
    if plan.dns != Dns::Off {
        let address = format!("{}:{}", plan.address.ip(), dns::PORT);
        listen.extend([(SocketKind::Datagram, address.clone()), (SocketKind::Stream, address)]);
    }
    unit.kind("Listen", Value::Listen(listen));
    // More than the default of an accept queue in systemd (SOMAXCONN is the kernel's own limit).
    unit.kind("Backlog", Value::Number(4096));
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
            unit.unit("JoinsNamespaceOf", words([&plan.name.app()]));
        }
    }
    if places.in_run {
        // Removed with the socket, the last of the launch's units to go, whatever became of the launcher.
        unit.kind("RuntimeDirectory", words([&format!("appfw/{}", plan.name)]));
    }
    unit
}
