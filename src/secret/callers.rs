//! Per-caller credentials, so that an upstream's own log names the caller.
//!
//! Promises: a request only ever gets the credential that was obtained for its caller. Concurrent requests of one caller
//! cause one exchange. The number of cached callers is bounded; eviction cancels the caller's refresh task. If there is
//! no credential, the request gets none, never that of another caller.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::credential::{Credential, CredentialSlot};
use crate::clock::Timestamp;

/// Callers whose credentials are cached at once, for each name; the least used are evicted.
const MAX_CALLERS: usize = 5_000;
/// Callers that wait for their first credential at once; more are refused.
const MAX_PENDING: usize = 1_000;
/// How long a request waits for its caller's first credential.
const DEADLINE: Duration = Duration::from_secs(25);

/// Where a route gets its downstream credential: one of the gate, or one for each caller.
#[derive(Clone, Debug)]
pub enum CredentialSource {
    /// The credential that all callers share.
    Gate(CredentialSlot),
    /// Each caller's own.
    Caller(CallerSlots),
}

impl CredentialSource {
    /// The credential's name, for audit and metrics; the same for all callers.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Gate(slot) => slot.name(),
            Self::Caller(callers) => &callers.name,
        }
    }

    /// The credential for a request of this principal; `None` if there is none that is valid at `now`.
    pub async fn usable(&self, principal: &Arc<str>, now: Timestamp) -> Option<Arc<Credential>> {
        match self {
            Self::Gate(slot) => slot.usable(now),
            Self::Caller(callers) => callers.usable(principal, now).await,
        }
    }
}

/// A named cache with a slot for each caller. A refresher fills the slots.
#[derive(Clone, Debug)]
pub struct CallerSlots {
    name: Arc<str>,
    cache: Arc<SlotCache>,
    tasks: mpsc::Sender<RefreshTask>,
}

type SlotCache = Cache<Arc<str>, Arc<CallerSlot>>;

/// The slot of one caller.
#[derive(Debug)]
struct CallerSlot {
    slot: CredentialSlot,
    /// Whether a request used it since its last renewal.
    used: AtomicBool,
    state: watch::Sender<RefreshState>,
    /// Cancels the refresh task.
    _cancel: DropGuard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RefreshState {
    Pending,
    Succeeded,
    Failed,
}

/// The refresher's side of one caller's slot: obtain its credential, then renew it while it is used.
pub struct RefreshTask {
    /// The caller.
    pub principal: Arc<str>,
    /// Cancelled when the slot is evicted or no longer used.
    pub cancelled: CancellationToken,
    slot: Weak<CallerSlot>,
    cache: Weak<SlotCache>,
}

impl CallerSlots {
    /// An empty cache, and the tasks that its refresher has to run.
    #[must_use]
    pub fn new(name: &str) -> (Self, mpsc::Receiver<RefreshTask>) {
        let (tasks, receiver) = mpsc::channel(MAX_PENDING);
        (Self { name: name.into(), cache: Arc::new(Cache::new(MAX_CALLERS)), tasks }, receiver)
    }

    /// How many callers have a slot, filled or not.
    #[must_use]
    pub fn callers(&self) -> usize {
        self.cache.len()
    }

    /// The credential's name, for audit and metrics.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    async fn usable(&self, principal: &Arc<str>, now: Timestamp) -> Option<Arc<Credential>> {
        let caller = self.cache.get_or_insert_with(principal, || self.start_refresh(principal)).ok()?;
        if !caller.used.load(Ordering::Relaxed) {
            caller.used.store(true, Ordering::Relaxed);
        }
        if let Some(credential) = caller.slot.usable(now) {
            return Some(credential);
        }
        let mut state = caller.state.subscribe();
        let attempted = state.wait_for(|state| *state != RefreshState::Pending);
        // the refresher has a shorter deadline; this one is for a refresher that has ended
        tokio::time::timeout(DEADLINE, attempted).await.ok()?.ok()?;
        caller.slot.usable(now)
    }

    /// A new slot, whose refresh task is queued; an error if too many are pending.
    fn start_refresh(
        &self,
        principal: &Arc<str>,
    ) -> Result<Arc<CallerSlot>, Box<mpsc::error::TrySendError<RefreshTask>>> {
        let cancelled = CancellationToken::new();
        let caller = Arc::new(CallerSlot {
            slot: CredentialSlot::new(&self.name),
            used: AtomicBool::new(true),
            state: watch::Sender::new(RefreshState::Pending),
            _cancel: cancelled.clone().drop_guard(),
        });
        let cache = Arc::downgrade(&self.cache);
        let task = RefreshTask { principal: principal.clone(), cancelled, slot: Arc::downgrade(&caller), cache };
        self.tasks.try_send(task)?;
        Ok(caller)
    }
}

impl RefreshTask {
    /// The slot to fill; `None` if it was evicted.
    #[must_use]
    pub fn slot(&self) -> Option<CredentialSlot> {
        self.slot.upgrade().map(|caller| caller.slot.clone())
    }

    /// Reports the result of an attempt; waiting requests go on.
    pub fn finish_attempt(&self, succeeded: bool) {
        if let Some(caller) = self.slot.upgrade() {
            caller.state.send_replace(if succeeded { RefreshState::Succeeded } else { RefreshState::Failed });
        }
    }

    /// Whether a request used the slot since the last call. A slot that was not used is evicted.
    #[must_use]
    pub fn still_used(&self) -> bool {
        let Some(caller) = self.slot.upgrade() else { return false };
        let used = caller.used.swap(false, Ordering::Relaxed);
        if !used && let Some(cache) = self.cache.upgrade() {
            cache.remove_if(&self.principal, |cached| Arc::ptr_eq(cached, &caller));
        }
        used
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    fn credential(value: &'static str, expires_at: Option<Timestamp>) -> Credential {
        let authorization = http::HeaderValue::from_static(value);
        Credential { authorization, generation: 1, obtained_at: clock::now(), expires_at }
    }

    fn text(credential: Option<Arc<Credential>>) -> Option<String> {
        credential.map(|credential| credential.authorization.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn concurrent_requests_of_a_caller_start_one_refresh_and_get_that_callers_credential() {
        let (slots, mut tasks) = CallerSlots::new("google/infer");
        let alice = Arc::from("corp:alice");
        let bob = Arc::from("corp:bob");
        let now = clock::now();
        let refresher = async {
            for _ in 0..2 {
                let task: RefreshTask = tasks.recv().await.unwrap();
                let value = if *task.principal == *"corp:alice" { "of alice" } else { "of bob" };
                task.slot().unwrap().replace(credential(value, None));
                task.finish_attempt(true);
            }
        };
        let requests =
            async { tokio::join!(slots.usable(&alice, now), slots.usable(&bob, now), slots.usable(&alice, now)) };
        let (found, ()) = tokio::join!(requests, refresher);
        assert_eq!(text(found.0).as_deref(), Some("of alice"));
        assert_eq!(text(found.1).as_deref(), Some("of bob"));
        assert_eq!(text(found.2).as_deref(), Some("of alice"));
        assert!(tasks.try_recv().is_err(), "a caller has two refresh tasks");
        assert_eq!(slots.callers(), 2);
    }

    #[tokio::test]
    async fn a_failed_or_expired_credential_is_none_and_an_unused_slot_is_evicted() {
        let (slots, mut tasks) = CallerSlots::new("google/infer");
        let alice = Arc::from("corp:alice");
        let now = clock::now();
        let (found, task) = tokio::join!(slots.usable(&alice, now), async {
            let task: RefreshTask = tasks.recv().await.unwrap();
            task.finish_attempt(false);
            task
        });
        assert!(found.is_none() && slots.usable(&alice, now).await.is_none(), "a failed attempt gave a credential");
        let expiry = clock::after(now, Duration::from_secs(60));
        task.slot().unwrap().replace(credential("short", Some(expiry)));
        task.finish_attempt(true);
        assert_eq!(text(slots.usable(&alice, now).await).as_deref(), Some("short"));
        assert!(slots.usable(&alice, expiry).await.is_none(), "an expired credential is used");
        assert!(task.still_used() && !task.cancelled.is_cancelled());
        assert!(!task.still_used(), "no request used it since");
        assert!(task.cancelled.is_cancelled() && slots.callers() == 0, "the unused slot is still cached");
    }

    #[tokio::test(start_paused = true)]
    async fn eviction_cancels_the_refresh_and_a_refresher_that_has_ended_blocks_no_request() {
        let (slots, mut tasks) = CallerSlots::new("google/infer");
        let mut cancelled = Vec::new();
        for number in 0..3 * MAX_CALLERS {
            let principal: Arc<str> = format!("corp:{number}").into();
            drop(slots.cache.get_or_insert_with(&principal, || slots.start_refresh(&principal)).unwrap());
            cancelled.push(tasks.recv().await.unwrap().cancelled);
        }
        assert!(slots.callers() <= MAX_CALLERS, "{} are cached", slots.callers());
        let running = cancelled.iter().filter(|cancelled| !cancelled.is_cancelled()).count();
        assert_eq!(running, slots.callers(), "an evicted slot is still refreshed");
        // the channel is open, but nothing reads it
        assert!(slots.usable(&Arc::from("corp:late"), clock::now()).await.is_none());
        drop(tasks);
        assert!(slots.usable(&Arc::from("corp:later"), clock::now()).await.is_none());
    }
}
