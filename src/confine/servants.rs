//! What serves a confined service: the forwarder and its socket, as a permanent unit has them. Pure.

use std::path::Path;

use super::UNITS;
use crate::cli::WallKind;
use crate::host::Host;
use crate::plan::Plan;
use crate::units::{INNER, Places, Unit, Units};

/// Who makes the network namespace that the service joins, if it joins one.
#[must_use]
pub fn maker(plan: &Plan) -> Option<String> {
    match plan.wall {
        WallKind::Address => None,
        _ if plan.has_socket_unit() => Some(plan.name.socket()),
        _ => (!plan.publish.is_empty()).then(|| plan.name.publisher()),
    }
}

/// The units themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct Servants(pub Vec<Unit>);

impl Servants {
    /// Those of a plan. `credential` is the file that holds a via with a password.
    #[must_use]
    pub fn new(plan: &Plan, host: &Host, credential: &Path) -> Self {
        let places = Places {
            credential: credential.to_owned(),
            units: UNITS.into(),
            // The service's files are not there.
            in_run: false,
            ..Places::new(Path::new(INNER), plan)
        };
        let units = Units::new(plan, host, &places);
        let published = units.publisher_socket.into_iter().chain(units.publisher);
        Self(units.socket.into_iter().chain(units.forwarder).chain(published).collect())
    }
}
