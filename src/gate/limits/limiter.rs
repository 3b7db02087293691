//! One rate, metered: the door to `governor`, whose arithmetic (GCRA, the generic cell rate algorithm) decides.
//!
//! Promises: what is taken is taken whole or not at all, by any number of threads; what is said of a wait is true unless
//! somebody else is faster. What is only known afterwards is owed: it is charged beyond the budget, and whoever owes waits.
//! Nothing here locks or allocates.

use std::{convert::Infallible, num::NonZeroU32, sync::Arc, time::Duration};

use governor::{
    RateLimiter,
    clock::{Clock, Reference},
    middleware::StateInformationMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};

use super::{Quantity, Rate, buckets::Account};
use crate::clock::{self, Instant};

/// Nobody waits longer for what they owe.
const LONGEST_DEBT: Nanos = Nanos::new(24 * 3600 * 1_000_000_000);

/// The clock of all meters of a limit: nanoseconds since the limit was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks(Instant);

impl Ticks {
    pub(super) fn new() -> Self {
        Self(clock::monotonic())
    }
}

impl Clock for Ticks {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::new(u64::try_from(clock::monotonic().duration_since(self.0).as_nanos()).unwrap_or(u64::MAX))
    }
}

/// The column of accounts that a quantity is kept in.
struct Column(Quantity);

impl StateStore for Column {
    type Key = Arc<Account>;

    fn measure_and_replace<T, F, E>(&self, account: &Arc<Account>, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        account.column(self.0).measure_and_replace(&NotKeyed::NonKey, f)
    }
}

/// One rate.
pub(super) struct Meter {
    pub(super) quantity: Quantity,
    pub(super) rate: Rate,
    /// Units of a cell.
    grain: u64,
    /// From one cell to the next.
    cell: Nanos,
    /// How far ahead of its time an account may be: its burst, less one cell.
    tolerance: Nanos,
    ticks: Ticks,
    limiter: RateLimiter<Arc<Account>, Column, Ticks, StateInformationMiddleware>,
}

/// How an account stands after somebody wanted something of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) outcome: Outcome,
    /// Units that can be used now.
    pub(super) left: u64,
}

/// What became of it. The later variant is the stricter one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    /// It was taken.
    Taken,
    /// It will be there after this long.
    Wait(Duration),
    /// It is more than there ever is at once.
    Never,
}

impl Meter {
    pub(super) fn new(quantity: Quantity, rate: Rate, ticks: Ticks) -> Self {
        let quota = rate.quota();
        let cell = Nanos::from(quota.replenish_interval());
        let tolerance = cell * u64::from(quota.burst_size().get() - 1);
        let limiter = RateLimiter::new(quota, Column(quantity), ticks);
        Self { quantity, rate, grain: rate.grain(), cell, tolerance, ticks, limiter }
    }

    /// Takes `units`, one at least, or nothing.
    pub(super) fn take(&self, account: &Arc<Account>, units: u64) -> Standing {
        let cells = u32::try_from(self.cells(units)).ok().and_then(NonZeroU32::new);
        let Some(Ok(taken)) = cells.map(|cells| self.limiter.check_key_n(account, cells)) else {
            return Standing { outcome: Outcome::Never, left: self.left(account) };
        };
        match taken {
            Ok(after) => {
                let left = u64::from(after.remaining_burst_capacity()) * self.grain;
                Standing { outcome: Outcome::Taken, left }
            }
            Err(until) => {
                let wait = until.wait_time_from(self.ticks.now());
                Standing { outcome: Outcome::Wait(wait), left: self.left(account) }
            }
        }
    }

    /// How long until a single unit can be taken; nothing where it can be taken now.
    pub(super) fn wait(&self, account: &Account) -> Option<Duration> {
        let until = account.until(self.quantity).saturating_sub(self.tolerance);
        let wait = until.duration_since(self.ticks.now());
        (wait > Nanos::new(0)).then(|| wait.into())
    }

    /// Charges what was used already, whether or not there is as much.
    pub(super) fn owe(&self, account: &Arc<Account>, units: u64) {
        if units == 0 {
            return;
        }
        let (now, debt) = (self.ticks.now(), self.cell.as_u64().saturating_mul(self.cells(units)));
        let most = now + self.tolerance + LONGEST_DEBT;
        let Ok(()) = Column(self.quantity).measure_and_replace(account, |until| {
            let from = until.map_or(now, |until| until.max(now)).as_u64();
            Ok::<_, Infallible>(((), Nanos::new(from.saturating_add(debt)).min(most)))
        });
    }

    /// Gives back what was taken for a request that was refused after all.
    pub(super) fn give_back(&self, account: &Arc<Account>, units: u64) {
        let credit = Nanos::new(self.cell.as_u64().saturating_mul(self.cells(units)));
        let Ok(()) = Column(self.quantity).measure_and_replace(account, |until| {
            Ok::<_, Infallible>(((), until.unwrap_or_default().saturating_sub(credit)))
        });
    }

    /// Units that can be taken now.
    fn left(&self, account: &Account) -> u64 {
        let most = self.ticks.now() + self.tolerance + self.cell;
        let free = most.saturating_sub(account.until(self.quantity)).min(self.tolerance + self.cell);
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
    use crate::gate::limits::{Unit, buckets::Key};

    fn meter(rate: &str, burst: Option<&str>) -> Meter {
        Meter::new(Quantity::Requests, Rate::read(rate, burst, Unit::Things).unwrap(), Ticks::new())
    }

    fn account() -> Arc<Account> {
        Arc::new(Account::new(Key::Gate))
    }

    fn check(standing: Standing, outcome: Outcome, left: u64) {
        assert_eq!(standing, Standing { outcome, left });
    }

    const fn wait(millis: u64) -> Outcome {
        Outcome::Wait(Duration::from_millis(millis))
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_then_the_rate() {
        let (meter, account) = (meter("60/m", Some("3")), account());
        for left in [2, 1, 0] {
            check(meter.take(&account, 1), Outcome::Taken, left);
        }
        check(meter.take(&account, 1), wait(1000), 0);
        advance(Duration::from_millis(999)).await;
        check(meter.take(&account, 1), wait(1), 0);
        assert_eq!(meter.wait(&account), Some(Duration::from_millis(1)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(meter.wait(&account), None);
        check(meter.take(&account, 1), Outcome::Taken, 0);
        // a pause gives back no more than the burst
        advance(Duration::from_secs(3600)).await;
        check(meter.take(&account, 3), Outcome::Taken, 0);
        check(meter.take(&account, 2), wait(2000), 0);
        check(meter.take(&account, 4), Outcome::Never, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_owed_is_waited_for_and_what_is_given_back_is_there_again() {
        let (meter, account) = (meter("10/s", None), account());
        meter.owe(&account, 25);
        // ten at once, so fifteen too many, and the one that is asked for
        check(meter.take(&account, 1), wait(1600), 0);
        advance(Duration::from_millis(1600)).await;
        check(meter.take(&account, 1), Outcome::Taken, 0);
        meter.give_back(&account, 1);
        check(meter.take(&account, 1), Outcome::Taken, 0);
        // no debt is longer than a day, however it came
        meter.owe(&account, u64::MAX);
        meter.owe(&account, u64::MAX);
        let Outcome::Wait(longest) = meter.take(&account, 1).outcome else { panic!("a debt is forgotten") };
        assert!(longest <= Duration::from_secs(24 * 3600 + 1), "{longest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn units_that_come_faster_than_the_clock_tells_are_counted_in_larger_cells() {
        let rate = Rate::read("10GiB/s", None, Unit::Bytes).unwrap();
        let (meter, account) = (Meter::new(Quantity::Bytes, rate, Ticks::new()), account());
        assert!(meter.grain > 1);
        let standing = meter.take(&account, 9 << 30);
        assert_eq!(standing.outcome, Outcome::Taken);
        assert!(standing.left <= 1 << 30 && standing.left > (1 << 30) - (1 << 23), "{standing:?}");
        assert_eq!(meter.take(&account, 11 << 30).outcome, Outcome::Never);
    }

    #[test]
    fn threads_never_take_more_than_there_is() {
        let (meter, account) = (meter("1/h", Some("24")), account());
        let taken: usize = std::thread::scope(|scope| {
            let one = || (0..24).filter(|_| meter.take(&account, 1).outcome == Outcome::Taken).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 24);
    }
}
