//! The clock of a limit's buckets.

use governor::{clock::Clock, nanos::Nanos};

use crate::clock::{self, Instant};

/// Nanoseconds since the limit was made, for `governor`.
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
