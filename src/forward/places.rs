//! Places for connections. A full house makes room for a newcomer by sending away whoever has been there
//! longest without a request, or with one that was refused: who only holds places must not keep out who has
//! something to ask.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::timeout;

use super::limits::REFUSAL_TIME;

/// So many connections at once.
#[derive(Debug)]
pub(super) struct Places {
    free: Arc<Semaphore>,
    waiting: Mutex<Waiting>,
}

/// Those in their places that have no request, in the order of their coming.
#[derive(Debug, Default)]
struct Waiting {
    last: u64,
    calls: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A place that is about to be left.
pub(super) struct Awaited(Arc<Semaphore>);

/// A connection in its place that has no request. It is forgotten when this is dropped.
pub(super) struct Wait<'a> {
    places: &'a Places,
    number: u64,
    call: oneshot::Receiver<()>,
}

impl Places {
    pub(super) fn new(count: usize) -> Self {
        Self { free: Arc::new(Semaphore::new(count)), waiting: Mutex::default() }
    }

    /// A place, if one is free.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// Sends somebody away, if anybody can be.
    pub(super) fn make_room(&self) -> Option<Awaited> {
        let (_, call) = self.waiting().calls.pop_first()?;
        // Whoever has made a request by now does not hear it: then the newcomer waits in vain.
        call.send(()).ok().map(|()| Awaited(Arc::clone(&self.free)))
    }

    /// A connection in its place begins to wait for a request.
    pub(super) fn wait(&self) -> Wait<'_> {
        let (sender, call) = oneshot::channel();
        let mut waiting = self.waiting();
        waiting.last += 1;
        let number = waiting.last;
        waiting.calls.insert(number, sender);
        Wait { places: self, number, call }
    }

    /// What is in there is whole after each change: nothing can panic in the middle of one.
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Awaited {
    /// Waits until it is free; `None` if it does not become so soon.
    pub(super) async fn free(self) -> Option<OwnedSemaphorePermit> {
        timeout(REFUSAL_TIME, self.0.acquire_owned()).await.ok()?.ok()
    }
}

impl Wait<'_> {
    /// Returns when the place is wanted by somebody else.
    pub(super) async fn sent_away(&mut self) {
        if (&mut self.call).await.is_err() {
            // Nobody can call any more.
            std::future::pending().await
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.places.waiting().calls.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_one_that_waits_longest_makes_room() {
        let places = Places::new(2);
        let kept = [places.take().unwrap(), places.take().unwrap()];
        assert!(places.take().is_none() && places.make_room().is_none());
        let [mut first, mut second] = [places.wait(), places.wait()];
        let awaited = places.make_room().unwrap();
        first.sent_away().await;
        assert!(timeout(std::time::Duration::from_millis(1), second.sent_away()).await.is_err());
        drop(kept);
        assert!(awaited.free().await.is_some());
    }

    #[tokio::test]
    async fn whoever_has_asked_stays() {
        let places = Places::new(1);
        let _kept = places.take().unwrap();
        drop(places.wait());
        assert!(places.make_room().is_none());
    }
}
