//! The time that a way out may take: so much a step, and so much for all of them.

use std::time::Duration;

use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use super::Limits;

/// Counts from when it is made.
pub(super) struct Budget {
    connect: Duration,
    answer: Duration,
    end: Instant,
}

impl Budget {
    pub(super) fn new(limits: &Limits) -> Self {
        Self { connect: limits.connect, answer: limits.answer, end: Instant::now() + limits.way }
    }

    /// A step that makes a connection.
    pub(super) async fn connecting<T>(&self, step: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout_at(self.end.min(Instant::now() + self.connect), step).await
    }

    /// A step that waits for an upstream's answer.
    pub(super) async fn answering<T>(&self, step: impl Future<Output = T>) -> Result<T, Elapsed> {
        timeout_at(self.end.min(Instant::now() + self.answer), step).await
    }
}
