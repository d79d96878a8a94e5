//! Names whose addresses datagrams wait for.

use std::net::SocketAddr;
use std::sync::{Arc, Weak};

use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::forward::Forwarder;
use crate::forward::failure::Failure;
use crate::forward::limits::UDP_LOOKUPS;
use crate::forward::upstream::look_up;

use super::association::{Association, LookUp};

/// Lookups that go on, a bounded number of them.
#[derive(Default)]
pub(super) struct Lookups(JoinSet<Found>);

/// What one has found.
pub(super) struct Found {
    association: Weak<Association>,
    wanted: LookUp,
    found: Result<Vec<SocketAddr>, Failure>,
}

impl Lookups {
    /// Whether there can be one more.
    pub(super) fn has_room(&self) -> bool {
        self.0.len() < UDP_LOOKUPS
    }

    /// Begins one for an association, which may end before it.
    pub(super) fn begin(&mut self, forwarder: &Forwarder, association: &Arc<Association>, wanted: LookUp) {
        let (limit, association) = (forwarder.limits.connect, Arc::downgrade(association));
        self.0.spawn(async move {
            let late = |_| Err(Failure::timed_out(format_args!("looking up {}", wanted.destination.host)));
            let found = timeout(limit, look_up(&wanted.destination)).await.unwrap_or_else(late);
            Found { association, wanted, found }
        });
    }

    /// The next one that is done; `None` if none goes on.
    pub(super) async fn next(&mut self) -> Option<Found> {
        loop {
            if let Ok(found) = self.0.join_next().await? {
                return Some(found);
            }
        }
    }
}

impl Found {
    /// Tells the association, if it still is.
    pub(super) fn tell(self, forwarder: &Forwarder) {
        if let Some(association) = self.association.upgrade() {
            association.found(forwarder, self.wanted, self.found);
        }
    }
}
