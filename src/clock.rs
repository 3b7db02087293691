//! The one place that reads the clock.
//!
//! Promises: wall time for what is written down and compared with claims, monotonic time for how long
//! something took. Decisions never call this: they take `now` as an argument.

use std::time::Duration;

pub use jiff::Timestamp;
pub(crate) use tokio::time::Instant;

/// The wall clock, to the nanosecond, in UTC.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// A reading for measuring durations. It follows tokio's clock, so a test that pauses time pauses this.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "this is the clock")]
pub fn monotonic() -> Instant {
    Instant::now()
}

/// `at` plus `span`, or the far end of time where that does not fit.
#[must_use]
pub fn after(at: Timestamp, span: Duration) -> Timestamp {
    at.checked_add(jiff::SignedDuration::try_from(span).unwrap_or(jiff::SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}

/// Seconds from `earlier` to `later`; 0 when `later` is the earlier one.
#[must_use]
pub(crate) fn seconds_between(earlier: Timestamp, later: Timestamp) -> f64 {
    later.duration_since(earlier).as_secs_f64().max(0.0)
}
