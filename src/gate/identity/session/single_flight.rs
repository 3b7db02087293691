//! Single flight: concurrent calls for one key share one execution, and later calls its remembered result.
//!
//! Promises: at most one execution runs for each key; every caller that joins it gets a clone of its result; a result
//! is remembered for as long as the execution says; an execution runs to its end even if every caller goes away.
//! Never: a lock that is held while an execution runs.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use crate::clock::{self, Timestamp};

/// The executions that run now, and the results that are still remembered.
pub(super) struct SingleFlight<K, V>(Mutex<HashMap<K, Flight<V>>>);

impl<K, V> Default for SingleFlight<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// One execution, for each of its callers.
pub(super) struct Flight<V> {
    result: watch::Receiver<Option<Landed<V>>>,
    /// Whether this call started the execution.
    pub(super) started: bool,
}

struct Landed<V> {
    value: V,
    remembered_until: Timestamp,
}

impl<K: Eq + Hash, V: Clone + Send + Sync + 'static> SingleFlight<K, V> {
    /// Joins the execution for `key` that runs now or is still remembered at `now`, or else starts one. `work` gives the
    /// result and how long it is remembered.
    pub(super) fn join<F>(&self, key: K, now: Timestamp, work: impl FnOnce() -> F) -> Flight<V>
    where
        F: Future<Output = (V, Duration)> + Send + 'static,
    {
        let mut flights = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        flights.retain(|_, flight| flight.counts(now));
        if let Some(flight) = flights.get(&key) {
            return Flight { result: flight.result.clone(), started: false };
        }
        let (sender, result) = watch::channel(None);
        let execution = work();
        #[allow(
            clippy::disallowed_methods,
            reason = "a provider that rotates its refresh token has done so even if the caller goes away; the task ends \
            with the deadlines of its few requests"
        )]
        tokio::spawn(async move {
            let (value, span) = execution.await;
            // the execution took its time, and its callers may all have arrived before it ended
            let remembered_until = clock::after(clock::now().max(now), span);
            sender.send_replace(Some(Landed { value, remembered_until }));
        });
        flights.insert(key, Flight { result: result.clone(), started: false });
        Flight { result, started: true }
    }
}

impl<V: Clone> Flight<V> {
    fn counts(&self, now: Timestamp) -> bool {
        match &*self.result.borrow() {
            Some(landed) => now < landed.remembered_until,
            // an execution that panicked has dropped its sender
            None => self.result.has_changed().is_ok(),
        }
    }

    /// Whether the result is there.
    pub(super) fn has_landed(&self) -> bool {
        self.result.borrow().is_some()
    }

    /// Waits for the result; `None` if the execution panicked.
    pub(super) async fn wait(mut self) -> Option<V> {
        let landed = self.result.wait_for(Option::is_some).await.ok()?;
        landed.as_ref().map(|landed| landed.value.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    const SPAN: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn concurrent_calls_share_one_execution_and_later_calls_its_result() {
        let flights = SingleFlight::<u8, usize>::default();
        let executions = Arc::new(AtomicUsize::new(0));
        let now = clock::now();
        let join = |key, now| {
            let executions = executions.clone();
            flights.join(key, now, || async move {
                tokio::task::yield_now().await;
                (executions.fetch_add(1, Ordering::SeqCst) + 1, SPAN)
            })
        };
        let first = join(1, now);
        let second = join(1, now);
        assert!(first.started && !second.started && !second.has_landed());
        assert_eq!((first.wait().await, second.wait().await), (Some(1), Some(1)));
        // a caller from before the execution ended, one after it, and one after the result is forgotten
        assert_eq!(join(1, now - jiff::SignedDuration::from_secs(60)).wait().await, Some(1));
        assert_eq!(join(1, clock::now()).wait().await, Some(1));
        assert_eq!(join(2, now).wait().await, Some(2), "another key");
        assert_eq!(join(1, clock::after(clock::now(), SPAN)).wait().await, Some(3));
    }

    #[tokio::test]
    async fn an_execution_ends_though_its_caller_goes_away() {
        let flights = SingleFlight::<(), bool>::default();
        let (sender, gone) = tokio::sync::oneshot::channel();
        drop(flights.join((), clock::now(), || async { (gone.await.is_ok(), SPAN) }));
        sender.send(()).unwrap();
        assert_eq!(flights.join((), clock::now(), || async { (false, SPAN) }).wait().await, Some(true));
    }

    #[tokio::test]
    async fn an_execution_that_panics_is_not_remembered() {
        let flights = SingleFlight::<(), bool>::default();
        let panicking = flights.join((), clock::now(), || async { panic!("as a bug would") });
        assert_eq!(panicking.wait().await, None);
        assert_eq!(flights.join((), clock::now(), || async { (true, SPAN) }).wait().await, Some(true));
    }
}
