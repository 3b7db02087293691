//! Exponential backoff: the delays between attempts of a background task.
//!
//! Promises: the first delay is the minimum, each further delay is twice the one before, and none exceeds the maximum.
//! [`Backoff::reset`] starts again at the minimum. There is no jitter and no last attempt.
//!
//! Must never sleep: the caller waits, and may wait for something else besides.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// The delays of one task.
pub(crate) struct Backoff {
    settings: ExponentialBuilder,
    delays: ExponentialBackoff,
    max: Duration,
}

impl Backoff {
    /// Delays from `min` to `max`.
    pub(crate) fn new(min: Duration, max: Duration) -> Self {
        let settings =
            ExponentialBuilder::default().with_factor(2.0).with_min_delay(min).with_max_delay(max).without_max_times();
        Self { settings, delays: settings.build(), max }
    }

    /// The delay before the next attempt, after a failed one.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.delays.next().unwrap_or(self.max)
    }

    /// Starts again at the minimum, after a successful attempt.
    pub(crate) fn reset(&mut self) {
        self.delays = self.settings.build();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum_and_start_again() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
        for _ in 0..2 {
            let delays: Vec<u64> = (0..8).map(|_| backoff.next_delay().as_secs()).collect();
            assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30, 30]);
            backoff.reset();
        }
        assert!((0..1_000_000).all(|_| !backoff.next_delay().is_zero()));
        assert_eq!(backoff.next_delay(), Duration::from_secs(30));
    }
}
