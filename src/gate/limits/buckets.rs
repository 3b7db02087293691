//! Buckets of a limit: what each principal, role or route has used.
//!
//! Promises: a bucket is evicted only if it is full again, has no open request, and no reservation refers to it. So a
//! caller cannot get a new budget by filling the cache. Memory is bounded all the same: if the cache is full of buckets in
//! use, all new keys share one bucket.

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

use super::{settings::Quantity, ticks::Ticks};

/// Buckets of one limit from which on full ones are evicted.
const SOFT_LIMIT: usize = 32_768;
/// Most buckets of one limit: some 20 MB.
const HARD_LIMIT: usize = 65_536;

/// What a bucket belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum BucketKey {
    Principal(Arc<str>),
    Role(Arc<str>),
    Exporter(Arc<str>),
    Route(&'static str),
    Gate,
}

/// What one key has used of a limit.
#[derive(Debug)]
pub(super) struct Bucket {
    key: BucketKey,
    requests: InMemoryState,
    bytes: InMemoryState,
    instances: InMemoryState,
    tokens: InMemoryState,
    /// Requests that are open now.
    open: AtomicU32,
}

impl Bucket {
    pub(super) fn new(key: BucketKey) -> Self {
        let [requests, bytes, instances, tokens] = Default::default();
        Self { key, requests, bytes, instances, tokens, open: AtomicU32::new(0) }
    }

    pub(super) fn counter(&self, quantity: Quantity) -> &InMemoryState {
        match quantity {
            Quantity::Requests => &self.requests,
            Quantity::Bytes => &self.bytes,
            Quantity::Instances => &self.instances,
            Quantity::Tokens => &self.tokens,
        }
    }

    /// GCRA's theoretical arrival time of a quantity, by the limit's clock.
    pub(super) fn arrival_time(&self, quantity: Quantity) -> Nanos {
        // an error leaves the counter as it is
        let read = |time: Option<Nanos>| Err::<((), Nanos), Nanos>(time.unwrap_or_default());
        self.counter(quantity).measure_and_replace(&NotKeyed::NonKey, read).err().unwrap_or_default()
    }

    /// Opens a request if fewer than `most` are open. Returns how many more can be opened.
    pub(super) fn open(&self, most: u32) -> Option<u32> {
        let one_more = |open: u32| (open < most).then(|| open + 1);
        let before = self.open.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more);
        before.ok().map(|before| most - before - 1)
    }

    /// Closes a request.
    pub(super) fn close(&self) {
        self.open.fetch_sub(1, Ordering::AcqRel);
    }

    pub(super) fn can_open(&self, most: u32) -> bool {
        self.open.load(Ordering::Acquire) < most
    }

    fn is_full(&self, now: Nanos) -> bool {
        self.open.load(Ordering::Acquire) == 0 && Quantity::ALL.into_iter().all(|of| self.arrival_time(of) <= now)
    }
}

impl PartialEq for Bucket {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Bucket {}

impl std::hash::Hash for Bucket {
    fn hash<H: std::hash::Hasher>(&self, to: &mut H) {
        self.key.hash(to);
    }
}

/// All buckets of a limit.
pub(super) struct Buckets {
    cache: Cache<BucketKey, Arc<Bucket>, UnitWeighter, DefaultHashBuilder, InUse>,
    hard_limit: usize,
    /// The bucket of all keys that the cache has no room for.
    overflow: Arc<Bucket>,
}

/// Pins buckets that are in use.
#[derive(Clone)]
struct InUse(Ticks);

impl Lifecycle<BucketKey, Arc<Bucket>> for InUse {
    type RequestState = ();

    fn is_pinned(&self, _: &BucketKey, bucket: &Arc<Bucket>) -> bool {
        // a reservation that refers to it may yet charge it
        Arc::strong_count(bucket) > 1 || !bucket.is_full(self.0.now())
    }
}

impl Buckets {
    pub(super) fn new(ticks: Ticks) -> Self {
        Self::with(SOFT_LIMIT, HARD_LIMIT, ticks)
    }

    pub(super) fn with(soft_limit: usize, hard_limit: usize, ticks: Ticks) -> Self {
        let cache =
            Cache::with(soft_limit, soft_limit as u64, UnitWeighter, DefaultHashBuilder::default(), InUse(ticks));
        Self { cache, hard_limit, overflow: Arc::new(Bucket::new(BucketKey::Gate)) }
    }

    /// The bucket of this key, made if there is none.
    pub(super) fn of(&self, key: &BucketKey) -> Arc<Bucket> {
        if let Some(bucket) = self.cache.get(key) {
            return bucket;
        }
        if self.cache.len() >= self.hard_limit {
            return self.overflow.clone();
        }
        let made = self.cache.get_or_insert_with(key, || Ok::<_, Infallible>(Arc::new(Bucket::new(key.clone()))));
        let Ok(bucket) = made;
        bucket
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.cache.len()
    }

    /// The bucket of this key, if there is one.
    pub(super) fn get(&self, key: &BucketKey) -> Option<Arc<Bucket>> {
        self.cache.get(key)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;
    use crate::gate::limits::{
        limiter::{Limiter, TakeOutcome},
        rate::{Rate, Unit},
    };

    fn key(number: usize) -> BucketKey {
        BucketKey::Principal(format!("corp:{number}").into())
    }

    fn limiter(ticks: Ticks) -> Limiter {
        Limiter::new(Quantity::Requests, Rate::read("1/m", None, Unit::Count).unwrap(), ticks)
    }

    #[tokio::test(start_paused = true)]
    async fn a_used_bucket_is_not_evicted_however_many_keys_come() {
        let ticks = Ticks::new();
        let buckets = Buckets::with(64, 512, ticks);
        let limiter = limiter(ticks);
        let take = |number: usize| limiter.take(&buckets.of(&key(number)), 1).outcome;
        // twice the soft limit
        for number in 0..128 {
            assert_eq!(take(number), TakeOutcome::Taken, "{number}");
        }
        for number in 0..128 {
            assert!(matches!(take(number), TakeOutcome::Wait(_)), "{number} has a new budget");
        }
        // full buckets are evicted instead
        (1000..1400).for_each(|number| drop(buckets.of(&key(number))));
        for number in 0..128 {
            assert!(matches!(take(number), TakeOutcome::Wait(_)), "{number} has a new budget");
        }
        // refilled buckets are evicted
        advance(Duration::from_secs(61)).await;
        (2000..2200).for_each(|number| drop(buckets.of(&key(number))));
        assert!(buckets.len() <= 64 + 32, "{} are cached", buckets.len());
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_hard_limit_new_keys_share_one_bucket() {
        let ticks = Ticks::new();
        let buckets = Buckets::with(32, 48, ticks);
        let limiter = limiter(ticks);
        let outcomes: Vec<_> = (0..200).map(|number| limiter.take(&buckets.of(&key(number)), 1).outcome).collect();
        let taken = outcomes.iter().filter(|outcome| **outcome == TakeOutcome::Taken).count();
        assert_eq!(taken, 48 + 1, "{outcomes:?}");
        assert!(buckets.len() <= 48);
        // a cached key has its own
        assert!(matches!(limiter.take(&buckets.of(&key(0)), 1).outcome, TakeOutcome::Wait(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_referenced_or_open_bucket_is_not_evicted() {
        let ticks = Ticks::new();
        let buckets = Buckets::with(32, 512, ticks);
        let limiter = limiter(ticks);
        let reserved = buckets.of(&key(0));
        assert_eq!(buckets.of(&key(1)).open(1), Some(0));
        (100..400).for_each(|number| drop(buckets.of(&key(number))));
        // the usage is only known now
        limiter.charge_later(&reserved, 5);
        drop(reserved);
        assert!(matches!(limiter.take(&buckets.of(&key(0)), 1).outcome, TakeOutcome::Wait(_)));
        assert_eq!(buckets.of(&key(1)).open(1), None, "an open request is not counted");
        buckets.of(&key(1)).close();
        assert_eq!(buckets.of(&key(1)).open(1), Some(0));
    }
}
