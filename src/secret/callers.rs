//! One credential for each caller, so that an upstream's own log names who called.
//!
//! Promises: a caller is only ever shown with the credential that was obtained for it; however many of its requests
//! wait for the first one, it is asked for once; how many are held is bounded, and what is pushed out is dropped with
//! its task. Without a credential the answer is nothing, never another's.

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

use super::{Credential, CredentialSlot};
use crate::clock::Timestamp;

/// Callers whose credentials are held at once, for each name; the least used make room.
const CALLERS: usize = 5_000;
/// Callers that wait for their first credential at once; more are refused.
const WAITING: usize = 1_000;
/// How long a request waits for its caller's first credential.
const DEADLINE: Duration = Duration::from_secs(25);

/// What an upstream is shown: the same whoever calls, or each caller's own.
#[derive(Clone, Debug)]
pub enum Shown {
    /// The gate's.
    Gate(CredentialSlot),
    /// The caller's.
    Caller(CallerSlots),
}

impl Shown {
    /// The credential's name, for audit and metrics; the same for all callers.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Self::Gate(slot) => slot.name(),
            Self::Caller(callers) => &callers.name,
        }
    }

    /// What this principal's request is shown with, or nothing where there is no such credential.
    pub async fn usable(&self, principal: &Arc<str>, now: Timestamp) -> Option<Arc<Credential>> {
        match self {
            Self::Gate(slot) => slot.usable(now),
            Self::Caller(callers) => callers.usable(principal, now).await,
        }
    }
}

/// A named place with a slot for each caller, which a keeper fills.
#[derive(Clone, Debug)]
pub struct CallerSlots {
    name: Arc<str>,
    held: Arc<Cache<Arc<str>, Arc<Held>>>,
    wanted: mpsc::Sender<Wanted>,
}

/// One caller's.
#[derive(Debug)]
struct Held {
    slot: CredentialSlot,
    /// Whether it was asked for since it was last renewed.
    used: AtomicBool,
    state: watch::Sender<State>,
    /// Ends the task that keeps it.
    _end: DropGuard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    First,
    Well,
    Failing,
}

/// A caller whose credential is to be obtained and kept.
pub struct Wanted {
    /// Whose.
    pub principal: Arc<str>,
    /// Is cancelled when nobody holds it any longer.
    pub gone: CancellationToken,
    held: Weak<Held>,
    from: Weak<Cache<Arc<str>, Arc<Held>>>,
}

impl CallerSlots {
    /// A place without any caller, and what its keeper reads.
    #[must_use]
    pub fn new(name: &str) -> (Self, mpsc::Receiver<Wanted>) {
        let (wanted, receiver) = mpsc::channel(WAITING);
        (Self { name: name.into(), held: Arc::new(Cache::new(CALLERS)), wanted }, receiver)
    }

    /// How many callers have one, or wait for it.
    #[must_use]
    pub fn callers(&self) -> usize {
        self.held.len()
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    async fn usable(&self, principal: &Arc<str>, now: Timestamp) -> Option<Arc<Credential>> {
        let held = self.held.get_or_insert_with(principal, || self.want(principal)).ok()?;
        if !held.used.load(Ordering::Relaxed) {
            held.used.store(true, Ordering::Relaxed);
        }
        if let Some(credential) = held.slot.usable(now) {
            return Some(credential);
        }
        let mut state = held.state.subscribe();
        let settled = state.wait_for(|state| *state != State::First);
        // the keeper settles it sooner; this is for one that has ended
        tokio::time::timeout(DEADLINE, settled).await.ok()?.ok()?;
        held.slot.usable(now)
    }

    /// Has the keeper obtain a credential; an error where too many wait already.
    fn want(&self, principal: &Arc<str>) -> Result<Arc<Held>, Box<mpsc::error::TrySendError<Wanted>>> {
        let gone = CancellationToken::new();
        let held = Arc::new(Held {
            slot: CredentialSlot::new(&self.name),
            used: AtomicBool::new(true),
            state: watch::Sender::new(State::First),
            _end: gone.clone().drop_guard(),
        });
        let (principal, from) = (principal.clone(), Arc::downgrade(&self.held));
        self.wanted.try_send(Wanted { principal, gone, held: Arc::downgrade(&held), from })?;
        Ok(held)
    }
}

impl Wanted {
    /// The slot to fill, or nothing when nobody wants it any longer.
    #[must_use]
    pub fn slot(&self) -> Option<CredentialSlot> {
        self.held.upgrade().map(|held| held.slot.clone())
    }

    /// Says how an attempt ended; whoever waits goes on.
    pub fn settle(&self, well: bool) {
        if let Some(held) = self.held.upgrade() {
            held.state.send_replace(if well { State::Well } else { State::Failing });
        }
    }

    /// Whether it was used since this was last asked. One that was not is forgotten, and its `gone` cancelled.
    #[must_use]
    pub fn still_used(&self) -> bool {
        let Some(held) = self.held.upgrade() else { return false };
        let used = held.used.swap(false, Ordering::Relaxed);
        if !used && let Some(cache) = self.from.upgrade() {
            cache.remove_if(&self.principal, |found| Arc::ptr_eq(found, &held));
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

    fn shown(credential: Option<Arc<Credential>>) -> Option<String> {
        credential.map(|credential| credential.authorization.to_str().unwrap().to_owned())
    }

    #[tokio::test]
    async fn however_many_wait_a_caller_is_wanted_once_and_shown_with_its_own_alone() {
        let (slots, mut wanted) = CallerSlots::new("google/infer");
        let (alice, bob) = (Arc::from("corp:alice"), Arc::from("corp:bob"));
        let now = clock::now();
        let keeper = async {
            for _ in 0..2 {
                let next: Wanted = wanted.recv().await.unwrap();
                let value = if *next.principal == *"corp:alice" { "of alice" } else { "of bob" };
                next.slot().unwrap().replace(credential(value, None));
                next.settle(true);
            }
        };
        let asked =
            async { tokio::join!(slots.usable(&alice, now), slots.usable(&bob, now), slots.usable(&alice, now)) };
        let (found, ()) = tokio::join!(asked, keeper);
        assert_eq!(shown(found.0).as_deref(), Some("of alice"));
        assert_eq!(shown(found.1).as_deref(), Some("of bob"));
        assert_eq!(shown(found.2).as_deref(), Some("of alice"));
        assert!(wanted.try_recv().is_err(), "somebody was wanted twice");
        assert_eq!(slots.callers(), 2);
    }

    #[tokio::test]
    async fn a_failure_and_an_end_are_nothing_and_what_is_not_used_is_forgotten() {
        let (slots, mut wanted) = CallerSlots::new("google/infer");
        let alice = Arc::from("corp:alice");
        let now = clock::now();
        let (found, next) = tokio::join!(slots.usable(&alice, now), async {
            let next: Wanted = wanted.recv().await.unwrap();
            next.settle(false);
            next
        });
        assert!(found.is_none() && slots.usable(&alice, now).await.is_none(), "a failure is something");
        next.slot().unwrap().replace(credential("short", Some(clock::after(now, Duration::from_secs(60)))));
        next.settle(true);
        assert_eq!(shown(slots.usable(&alice, now).await).as_deref(), Some("short"));
        assert!(
            slots.usable(&alice, clock::after(now, Duration::from_secs(60))).await.is_none(),
            "it outlived its end"
        );
        assert!(next.still_used() && !next.gone.is_cancelled());
        assert!(!next.still_used(), "nobody asked since");
        assert!(next.gone.is_cancelled() && slots.callers() == 0, "it is held still");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_pushed_out_is_dropped_and_a_keeper_that_has_ended_makes_nobody_wait_for_ever() {
        let (slots, mut wanted) = CallerSlots::new("google/infer");
        let mut tasks = Vec::new();
        for number in 0..3 * CALLERS {
            let principal: Arc<str> = format!("corp:{number}").into();
            let held = slots.held.get_or_insert_with(&principal, || slots.want(&principal)).unwrap();
            drop(held);
            let next = wanted.recv().await.unwrap();
            tasks.push(next.gone);
        }
        assert!(slots.callers() <= CALLERS, "{} are held", slots.callers());
        let running = tasks.iter().filter(|gone| !gone.is_cancelled()).count();
        assert_eq!(running, slots.callers(), "what was pushed out is kept fresh still");
        // nobody reads any longer, but the place is still there
        assert!(slots.usable(&Arc::from("corp:late"), clock::now()).await.is_none());
        drop(wanted);
        assert!(slots.usable(&Arc::from("corp:later"), clock::now()).await.is_none());
    }
}
