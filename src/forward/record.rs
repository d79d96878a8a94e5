//! What the log says of a request once it is over: one line each.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use tracing::{info, warn};

use crate::destination::Destination;

use super::Forwarder;
use super::failure::Failure;
use super::relay::Traffic;

/// A request that is served.
pub(super) struct Record {
    /// What was asked for, and what let it through, as far as these are to be logged.
    target: Option<Target>,
    started: Instant,
    pub(super) traffic: Traffic,
}

struct Target {
    destination: Destination,
    /// The value of `--only` that let it through.
    rule: Option<String>,
}

impl Forwarder {
    /// Begins the record of a request for `destination`, which has been let through.
    pub(super) fn record(&self, destination: &Destination) -> Record {
        let target = self.log_destinations.then(|| Target {
            destination: destination.clone(),
            rule: self.admission.passed_by(destination).map(ToString::to_string),
        });
        Record { target, started: Instant::now(), traffic: Traffic::default() }
    }

    /// Logs that a request for `destination` was not let through.
    pub(super) fn log_refusal(&self, destination: &Destination, failure: &Failure) {
        if !self.complaints.refused.has_one() {
            return;
        }
        let destination = self.log_destinations.then_some(destination);
        let via = self.way_to(destination);
        warn!(destination = destination.map(tracing::field::display), via, "{}", self.told(failure));
    }

    /// Logs what was said that is no request.
    pub(super) fn log_wrong(&self, failure: &Failure) {
        if self.complaints.wrong.has_one() {
            warn!("{}", self.told(failure));
        }
    }

    /// Logs that a DNS query gets no answer.
    pub(super) fn log_unanswered(&self, failure: &Failure) {
        if self.complaints.unanswered.has_one() {
            warn!(dns = true, via = self.via, "{}", self.told(failure));
        }
    }

    /// What the log says of the way: this host's loopback is dialled from here. Where destinations are not
    /// logged, that one is not told either.
    fn way_to(&self, destination: Option<&Destination>) -> &str {
        if destination.is_some_and(|destination| destination.host.is_loopback()) { "direct" } else { &self.via }
    }

    /// What the log says of a failure: where destinations are not logged, no more than its kind.
    pub(super) fn told<'a>(&self, failure: &'a Failure) -> &'a str {
        if self.log_destinations { &failure.message } else { failure.kind() }
    }
}

impl Record {
    /// Logs how it ended.
    pub(super) fn write(&self, forwarder: &Forwarder, outcome: Result<(), Failure>) {
        let (sent, received) = (self.traffic.sent.load(Relaxed), self.traffic.received.load(Relaxed));
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let destination = self.target.as_ref().map(|target| tracing::field::display(&target.destination));
        let rule = self.target.as_ref().and_then(|target| target.rule.as_deref());
        let via = forwarder.way_to(self.target.as_ref().map(|target| &target.destination));
        match outcome {
            Ok(()) => info!(destination, rule, via, sent, received, ms, "done"),
            Err(failure) => {
                let told = forwarder.told(&failure);
                // Connections break off; that there is none is worth more attention.
                if received > 0 {
                    info!(destination, rule, via, sent, received, ms, "{told}");
                } else if forwarder.complaints.failed.has_one() {
                    warn!(destination, rule, via, sent, ms, "{told}");
                }
            }
        }
    }
}
