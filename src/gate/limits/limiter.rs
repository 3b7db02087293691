//! GCRA (generic cell rate algorithm) limiter for one rate, over `governor`.
//!
//! Promises: units are taken together or not at all, by any number of threads. A reported wait is true unless another
//! request is faster. Usage that is known only afterwards is charged beyond the budget, and later requests wait for it.
//! Nothing here locks or allocates.

use std::{convert::Infallible, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    RateLimiter,
    clock::{Clock, Reference},
    middleware::StateInformationMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};

use super::{buckets::Bucket, rate::Rate, settings::Quantity, ticks::Ticks};

/// Longest wait that late charges cause.
const LONGEST_DEBT: Nanos = Nanos::new(24 * 3600 * 1_000_000_000);

/// The counter of a bucket that holds a quantity.
struct Counter(Quantity);

impl StateStore for Counter {
    type Key = Arc<Bucket>;

    fn measure_and_replace<T, F, E>(&self, bucket: &Arc<Bucket>, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        bucket.counter(self.0).measure_and_replace(&NotKeyed::NonKey, f)
    }
}

/// Takes units of one rate from buckets.
pub(super) struct Limiter {
    pub(super) quantity: Quantity,
    pub(super) rate: Rate,
    /// Units in a cell.
    grain: u64,
    /// Time between two cells.
    cell: Nanos,
    /// How far the arrival time may be ahead of now: the burst less one cell.
    tolerance: Nanos,
    ticks: Ticks,
    governor: RateLimiter<Arc<Bucket>, Counter, Ticks, StateInformationMiddleware>,
}

/// A bucket after an attempt to take units from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BucketState {
    pub(super) outcome: TakeOutcome,
    /// Units that can be taken now.
    pub(super) remaining: u64,
}

/// The result of an attempt to take units. The later variant is the stricter one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum TakeOutcome {
    Taken,
    /// There will be enough units after this wait.
    Wait(Duration),
    /// The burst is smaller than the units.
    Never,
}

impl Limiter {
    pub(super) fn new(quantity: Quantity, rate: Rate, ticks: Ticks) -> Self {
        let quota = rate.quota();
        let cell = Nanos::from(quota.replenish_interval());
        let tolerance = cell * u64::from(quota.burst_size().get() - 1);
        let governor = RateLimiter::new(quota, Counter(quantity), ticks);
        Self { quantity, rate, grain: rate.grain(), cell, tolerance, ticks, governor }
    }

    /// Takes `units`, at least one, or nothing.
    pub(super) fn take(&self, bucket: &Arc<Bucket>, units: u64) -> BucketState {
        let cells = u32::try_from(self.cells(units)).ok().and_then(NonZeroU32::new);
        let Some(Ok(taken)) = cells.map(|cells| self.governor.check_key_n(bucket, cells)) else {
            return BucketState { outcome: TakeOutcome::Never, remaining: self.remaining(bucket) };
        };
        match taken {
            Ok(after) => {
                let remaining = u64::from(after.remaining_burst_capacity()) * self.grain;
                BucketState { outcome: TakeOutcome::Taken, remaining }
            }
            Err(until) => {
                let wait = until.wait_time_from(self.ticks.now());
                BucketState { outcome: TakeOutcome::Wait(wait), remaining: self.remaining(bucket) }
            }
        }
    }

    /// Time until a single unit can be taken; `None` if it can be taken now.
    pub(super) fn wait(&self, bucket: &Bucket) -> Option<Duration> {
        let until = bucket.arrival_time(self.quantity).saturating_sub(self.tolerance);
        let wait = until.duration_since(self.ticks.now());
        (wait > Nanos::new(0)).then(|| wait.into())
    }

    /// Charges units that were used already, beyond the budget if need be.
    pub(super) fn charge_later(&self, bucket: &Arc<Bucket>, units: u64) {
        if units == 0 {
            return;
        }
        let now = self.ticks.now();
        let debt = self.cell.as_u64().saturating_mul(self.cells(units));
        let most = now + self.tolerance + LONGEST_DEBT;
        let Ok(()) = Counter(self.quantity).measure_and_replace(bucket, |until| {
            let from = until.map_or(now, |until| until.max(now)).as_u64();
            Ok::<_, Infallible>(((), Nanos::new(from.saturating_add(debt)).min(most)))
        });
    }

    /// Returns units that were taken for a request that was then refused.
    pub(super) fn give_back(&self, bucket: &Arc<Bucket>, units: u64) {
        let credit = Nanos::new(self.cell.as_u64().saturating_mul(self.cells(units)));
        let Ok(()) = Counter(self.quantity).measure_and_replace(bucket, |until| {
            Ok::<_, Infallible>(((), until.unwrap_or_default().saturating_sub(credit)))
        });
    }

    /// Units that can be taken now.
    fn remaining(&self, bucket: &Bucket) -> u64 {
        let most = self.ticks.now() + self.tolerance + self.cell;
        let free = most.saturating_sub(bucket.arrival_time(self.quantity)).min(self.tolerance + self.cell);
        free / self.cell * self.grain
    }

    fn cells(&self, units: u64) -> u64 {
        units.div_ceil(self.grain).max(1)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::gate::limits::{buckets::BucketKey, rate::Unit};

    fn limiter(rate: &str, burst: Option<&str>) -> Limiter {
        Limiter::new(Quantity::Requests, Rate::read(rate, burst, Unit::Count).unwrap(), Ticks::new())
    }

    fn bucket() -> Arc<Bucket> {
        Arc::new(Bucket::new(BucketKey::Gate))
    }

    fn check(state: BucketState, outcome: TakeOutcome, remaining: u64) {
        assert_eq!(state, BucketState { outcome, remaining });
    }

    const fn wait(millis: u64) -> TakeOutcome {
        TakeOutcome::Wait(Duration::from_millis(millis))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate() {
        let limiter = limiter("60/m", Some("3"));
        let bucket = bucket();
        for remaining in [2, 1, 0] {
            check(limiter.take(&bucket, 1), TakeOutcome::Taken, remaining);
        }
        check(limiter.take(&bucket, 1), wait(1000), 0);
        advance(Duration::from_millis(999)).await;
        check(limiter.take(&bucket, 1), wait(1), 0);
        assert_eq!(limiter.wait(&bucket), Some(Duration::from_millis(1)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(limiter.wait(&bucket), None);
        check(limiter.take(&bucket, 1), TakeOutcome::Taken, 0);
        // a pause gives back no more than the burst
        advance(Duration::from_secs(3600)).await;
        check(limiter.take(&bucket, 3), TakeOutcome::Taken, 0);
        check(limiter.take(&bucket, 2), wait(2000), 0);
        check(limiter.take(&bucket, 4), TakeOutcome::Never, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn late_charges_are_waited_for_and_returned_units_are_there_again() {
        let limiter = limiter("10/s", None);
        let bucket = bucket();
        limiter.charge_later(&bucket, 25);
        // the burst is ten, so the wait is for fifteen, and for the one that is taken
        check(limiter.take(&bucket, 1), wait(1600), 0);
        advance(Duration::from_millis(1600)).await;
        check(limiter.take(&bucket, 1), TakeOutcome::Taken, 0);
        limiter.give_back(&bucket, 1);
        check(limiter.take(&bucket, 1), TakeOutcome::Taken, 0);
        // late charges are bounded by a day
        limiter.charge_later(&bucket, u64::MAX);
        limiter.charge_later(&bucket, u64::MAX);
        let TakeOutcome::Wait(longest) = limiter.take(&bucket, 1).outcome else { panic!("a late charge is forgotten") };
        assert!(longest <= Duration::from_secs(24 * 3600 + 1), "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn rates_above_the_clocks_resolution_are_counted_in_larger_cells() {
        let rate = Rate::read("10GiB/s", None, Unit::Bytes).unwrap();
        let limiter = Limiter::new(Quantity::Bytes, rate, Ticks::new());
        let bucket = bucket();
        assert!(limiter.grain > 1);
        let state = limiter.take(&bucket, 9 << 30);
        assert_eq!(state.outcome, TakeOutcome::Taken);
        assert!(state.remaining <= 1 << 30 && state.remaining > (1 << 30) - (1 << 23), "{state:?}");
        assert_eq!(limiter.take(&bucket, 11 << 30).outcome, TakeOutcome::Never);
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let limiter = limiter("1/h", Some("24"));
        let bucket = bucket();
        let taken: usize = std::thread::scope(|scope| {
            let one = || (0..24).filter(|_| limiter.take(&bucket, 1).outcome == TakeOutcome::Taken).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 24);
    }
}
