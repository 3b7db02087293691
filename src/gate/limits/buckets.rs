//! Who has used how much.
//!
//! Promises: an account is forgotten only when it is as good as a new one: it owes nothing and nobody stands on it. So
//! nobody gets a fresh budget by having others come. Memory is bounded all the same: when it is full of accounts that are
//! in use, whoever comes new shares one account with all others that came new.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use governor::{
    clock::Clock,
    nanos::Nanos,
    state::{InMemoryState, NotKeyed, StateStore},
};
use quick_cache::{DefaultHashBuilder, Lifecycle, UnitWeighter, sync::Cache};

use super::{Quantity, limiter::Ticks};

/// Accounts of one limit from which on those are forgotten that owe nothing.
const USUAL: usize = 32_768;
/// Accounts of one limit that there are at most: some 20 MB.
const MOST: usize = 65_536;

/// Whose an account is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Principal(Arc<str>),
    Role(Arc<str>),
    Exporter(Arc<str>),
    Route(&'static str),
    Gate,
}

/// What one of them has used of one limit.
#[derive(Debug)]
pub(super) struct Account {
    key: Key,
    requests: InMemoryState,
    bytes: InMemoryState,
    instances: InMemoryState,
    tokens: InMemoryState,
    /// Requests that are open now.
    open: AtomicU32,
}

impl Account {
    pub(super) fn new(key: Key) -> Self {
        let [requests, bytes, instances, tokens] = Default::default();
        Self { key, requests, bytes, instances, tokens, open: AtomicU32::new(0) }
    }

    pub(super) fn column(&self, quantity: Quantity) -> &InMemoryState {
        match quantity {
            Quantity::Requests => &self.requests,
            Quantity::Bytes => &self.bytes,
            Quantity::Instances => &self.instances,
            Quantity::Tokens => &self.tokens,
        }
    }

    /// Until when it has used this up, by the limit's clock.
    pub(super) fn until(&self, quantity: Quantity) -> Nanos {
        // an error changes nothing
        let look = |until: Option<Nanos>| Err::<((), Nanos), Nanos>(until.unwrap_or_default());
        self.column(quantity).measure_and_replace(&NotKeyed::NonKey, look).err().unwrap_or_default()
    }

    /// Opens a request where fewer than `most` are open; says how many more can be.
    pub(super) fn open(&self, most: u32) -> Option<u32> {
        let one_more = |open: u32| (open < most).then(|| open + 1);
        let before = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        before.ok().map(|before| most - before - 1)
    }

    /// A request that was opened is over.
    pub(super) fn close(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn is_open(&self, most: u32) -> bool {
        self.open.load(Ordering::Acquire) < most
    }

    fn is_as_new(&self, now: Nanos) -> bool {
        self.open.load(Ordering::Acquire) == 0 && Quantity::ALL.into_iter().all(|of| self.until(of) <= now)
    }
}

impl PartialEq for Account {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Account {}

impl std::hash::Hash for Account {
    fn hash<H: std::hash::Hasher>(&self, to: &mut H) {
        self.key.hash(to);
    }
}

/// All accounts of a limit.
pub(super) struct Accounts {
    accounts: Cache<Key, Arc<Account>, UnitWeighter, DefaultHashBuilder, InUse>,
    most: usize,
    /// Whose it is who came when there was no room.
    crowd: Arc<Account>,
}

/// Keeps what is in use from being forgotten.
#[derive(Clone)]
struct InUse(Ticks);

impl Lifecycle<Key, Arc<Account>> for InUse {
    type RequestState = ();

    fn is_pinned(&self, _: &Key, account: &Arc<Account>) -> bool {
        // whoever holds it may yet charge it
        Arc::strong_count(account) > 1 || !account.is_as_new(self.0.now())
    }
}

impl Accounts {
    pub(super) fn new(ticks: Ticks) -> Self {
        Self::with(USUAL, MOST, ticks)
    }

    fn with(usual: usize, most: usize, ticks: Ticks) -> Self {
        let accounts = Cache::with(usual, usual as u64, UnitWeighter, DefaultHashBuilder::default(), InUse(ticks));
        Self { accounts, most, crowd: Arc::new(Account::new(Key::Gate)) }
    }

    /// The account with this key, made where there is none.
    pub(super) fn of(&self, key: &Key) -> Arc<Account> {
        if let Some(account) = self.accounts.get(key) {
            return account;
        }
        if self.accounts.len() >= self.most {
            return self.crowd.clone();
        }
        let made = self.accounts.get_or_insert_with(key, || Ok::<_, Infallible>(Arc::new(Account::new(key.clone()))));
        let Ok(account) = made;
        account
    }

    /// The account with this key, where there is one.
    pub(super) fn known(&self, key: &Key) -> Option<Arc<Account>> {
        self.accounts.get(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::gate::limits::{
        Rate, Unit,
        limiter::{Meter, Outcome},
    };

    fn key(number: usize) -> Key {
        Key::Principal(format!("corp:{number}").into())
    }

    fn meter(ticks: Ticks) -> Meter {
        Meter::new(Quantity::Requests, Rate::read("1/m", None, Unit::Things).unwrap(), ticks)
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_used_something_is_remembered_however_many_come() {
        let ticks = Ticks::new();
        let (accounts, meter) = (Accounts::with(64, 512, ticks), meter(ticks));
        let take = |number: usize| meter.take(&accounts.of(&key(number)), 1).outcome;
        // twice as many as there is usual room for
        for number in 0..128 {
            assert_eq!(take(number), Outcome::Taken, "{number}");
        }
        for number in 0..128 {
            assert!(matches!(take(number), Outcome::Wait(_)), "{number} has a fresh budget");
        }
        // others that come and use nothing are forgotten, not those
        (1000..1400).for_each(|number| drop(accounts.of(&key(number))));
        for number in 0..128 {
            assert!(matches!(take(number), Outcome::Wait(_)), "{number} has a fresh budget");
        }
        // what is as good as new makes room
        advance(Duration::from_secs(61)).await;
        (2000..2200).for_each(|number| drop(accounts.of(&key(number))));
        assert!(accounts.accounts.len() <= 64 + 32, "{} are kept", accounts.accounts.len());
    }

    #[tokio::test(start_paused = true)]
    async fn when_there_is_no_room_those_who_come_new_share_one_budget() {
        let ticks = Ticks::new();
        let (accounts, meter) = (Accounts::with(32, 48, ticks), meter(ticks));
        let outcomes: Vec<_> = (0..200).map(|number| meter.take(&accounts.of(&key(number)), 1).outcome).collect();
        let taken = outcomes.iter().filter(|outcome| **outcome == Outcome::Taken).count();
        assert_eq!(taken, 48 + 1, "{outcomes:?}");
        assert!(accounts.accounts.len() <= 48);
        // who was there before has its own
        assert!(matches!(meter.take(&accounts.of(&key(0)), 1).outcome, Outcome::Wait(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_that_somebody_stands_on_is_not_forgotten() {
        let ticks = Ticks::new();
        let (accounts, meter) = (Accounts::with(32, 512, ticks), meter(ticks));
        let held = accounts.of(&key(0));
        assert_eq!(accounts.of(&key(1)).open(1), Some(0));
        (100..400).for_each(|number| drop(accounts.of(&key(number))));
        // what it used is only known now
        meter.owe(&held, 5);
        drop(held);
        assert!(matches!(meter.take(&accounts.of(&key(0)), 1).outcome, Outcome::Wait(_)));
        assert_eq!(accounts.of(&key(1)).open(1), None, "an open request is forgotten");
        accounts.of(&key(1)).close();
        assert_eq!(accounts.of(&key(1)).open(1), Some(0));
    }
}
