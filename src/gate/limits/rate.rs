//! Rates of limits: an amount in a window, and a burst. Pure.
//!
//! Promises: the limiter enforces a configured rate to within 0.1%, never above it. A rate that it cannot enforce so is
//! refused when it is read.

use std::{num::NonZeroU32, time::Duration};

use governor::Quota;

/// The largest integer of structured fields (RFC 9651 section 3.3.1): clients read the amount in `RateLimit-Policy`.
const MOST: u64 = 999_999_999_999_999;
/// Requests are counted one by one, and cells come at most every microsecond: closer ones would be enforced less exactly.
const MOST_A_SECOND: u64 = 1_000_000;
const SHORTEST_CELL: u64 = 1_000;
/// Longest time in which an empty bucket is full again.
const LONGEST_BURST: Duration = Duration::from_secs(24 * 3600);

const SIZES: [(&str, u64); 6] =
    [("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("kB", 1_000), ("MB", 1_000_000), ("GB", 1_000_000_000)];

/// An amount of units in a window, and a burst.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units that are refilled in a window.
    pub amount: u64,
    /// The window: a second, a minute or an hour.
    pub window: Duration,
    /// Size of the bucket: units that may be used at once after a pause.
    pub burst: u64,
}

/// A text is not a rate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum RateError {
    #[error("`{0}` is not a rate; write an amount and `/s`, `/m` or `/h`, such as `\"{1}\"`")]
    Form(String, &'static str),
    #[error("`{0}` is not an amount; write a whole number from 1, such as `\"{1}\"`")]
    Amount(String, &'static str),
    #[error("more than a million a second cannot be enforced; write a smaller rate")]
    TooFast,
    #[error("a burst of more than a day's worth would limit nothing for a day; write at most {0}")]
    Burst(u64),
}

/// The unit of a rate's amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A number of requests, instances or tokens: `600/m`.
    Count,
    /// Bytes: `100MiB/m`.
    Bytes,
}

impl Unit {
    const fn rate(self) -> &'static str {
        match self {
            Self::Count => "600/m",
            Self::Bytes => "100MiB/m",
        }
    }

    const fn amount(self) -> &'static str {
        match self {
            Self::Count => "600",
            Self::Bytes => "100MiB",
        }
    }

    /// Reads an amount.
    ///
    /// # Errors
    /// If the text is not an amount.
    pub fn read(self, text: &str) -> Result<u64, RateError> {
        let text = text.trim();
        let (digits, unit) = SIZES
            .iter()
            .filter(|_| self == Self::Bytes)
            .find_map(|&(suffix, unit)| Some((text.strip_suffix(suffix)?.trim_end(), unit)))
            .unwrap_or((text, 1));
        let number: Option<u64> = digits.replace('_', "").parse().ok();
        let amount = number.and_then(|number| number.checked_mul(unit)).filter(|amount| (1..=MOST).contains(amount));
        amount.ok_or_else(|| RateError::Amount(text.to_owned(), self.amount()))
    }
}

impl Rate {
    /// Reads a rate such as `600/m` or `100MiB/s`. Without `burst`, the burst is the amount.
    ///
    /// # Errors
    /// If the text is not a rate, or the limiter cannot enforce it.
    pub fn read(text: &str, burst: Option<&str>, unit: Unit) -> Result<Self, RateError> {
        let form = || RateError::Form(text.to_owned(), unit.rate());
        let (amount, window) = text.split_once('/').ok_or_else(form)?;
        let window = match window.trim() {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(form()),
        };
        let amount = unit.read(amount)?;
        if unit == Unit::Count && amount > MOST_A_SECOND * window {
            return Err(RateError::TooFast);
        }
        let burst = burst.map(|burst| unit.read(burst)).transpose()?.unwrap_or(amount);
        let most = u128::from(amount) * u128::from(LONGEST_BURST.as_secs()) / u128::from(window);
        if u128::from(burst) > most {
            return Err(RateError::Burst(u64::try_from(most).unwrap_or(MOST)));
        }
        Ok(Self { amount, window: Duration::from_secs(window), burst })
    }

    /// Units of one cell, which is what the limiter counts: one, or a power of two if units come faster than its clock
    /// resolves.
    pub(super) fn grain(self) -> u64 {
        let mut grain: u64 = 1;
        while self.cell(grain) < SHORTEST_CELL || self.burst / grain >= u64::from(u32::MAX) {
            grain *= 2;
        }
        grain
    }

    /// The quota of `governor`.
    pub(super) fn quota(self) -> Quota {
        let grain = self.grain();
        let burst = u32::try_from(self.burst / grain).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
        let cell = Duration::from_nanos(self.cell(grain));
        Quota::with_period(cell).unwrap_or(Quota::per_hour(NonZeroU32::MIN)).allow_burst(burst)
    }

    /// Nanoseconds from one cell to the next, rounded up.
    fn cell(self, grain: u64) -> u64 {
        let nanos = (self.window.as_nanos() * u128::from(grain)).div_ceil(u128::from(self.amount.max(1)));
        u64::try_from(nanos).unwrap_or(u64::MAX)
    }

    /// The window in words.
    pub(super) fn window_name(self) -> &'static str {
        match self.window.as_secs() {
            1 => "a second",
            60 => "a minute",
            _ => "an hour",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, burst: Option<&str>, unit: Unit, expected: Option<(u64, u64, u64)>) {
        let read = Rate::read(text, burst, unit);
        let found = read.as_ref().ok().map(|rate| (rate.amount, rate.window.as_secs(), rate.burst));
        assert_eq!(found, expected, "{text}: {read:?}");
    }

    #[test]
    fn rates_are_read() {
        check("600/m", None, Unit::Count, Some((600, 60, 600)));
        check("6_000/h", Some("10"), Unit::Count, Some((6000, 3600, 10)));
        check("1/s", None, Unit::Count, Some((1, 1, 1)));
        check("100MiB/m", Some("1 GiB"), Unit::Bytes, Some((100 << 20, 60, 1 << 30)));
        check("5kB / s", None, Unit::Bytes, Some((5000, 1, 5000)));
        check("4096/s", None, Unit::Bytes, Some((4096, 1, 4096)));
        for bad in ["600", "600/d", "/m", "0/m", "-1/m", "1.5/m", "600/m/m", "many/m", "10MiB/m", "60000001/m"] {
            check(bad, None, Unit::Count, None);
        }
        for bad in ["10 TiB/m", "MiB/m", "1000000000000000/s"] {
            check(bad, None, Unit::Bytes, None);
        }
        // an hour's worth of burst takes an hour; more than a day's is none
        check("1/s", Some("86400"), Unit::Count, Some((1, 1, 86400)));
        check("1/s", Some("86401"), Unit::Count, None);
    }

    proptest! {
        #[test]
        fn a_rate_is_enforced_to_within_a_thousandth_and_never_above(
            amount in 1..=MOST, window in prop::sample::select(vec![1u64, 60, 3600]), share in 1u64..=24 * 3600,
        ) {
            let window = Duration::from_secs(window);
            let burst = (u128::from(amount) * u128::from(share) / u128::from(window.as_secs())).max(1);
            let rate = Rate { amount, window, burst: u64::try_from(burst).unwrap_or(u64::MAX).min(MOST) };
            let grain = rate.grain();
            let quota = rate.quota();
            let enforced = grain as f64 / quota.replenish_interval().as_secs_f64();
            let configured = amount as f64 / window.as_secs_f64();
            prop_assert!(enforced <= configured * (1.0 + 1e-9), "{enforced} of {configured}: {rate:?}");
            // what is slower than a cell in an hour is exact; the rest is rounded by less than its last microsecond
            prop_assert!(enforced >= configured * 0.999, "{enforced} of {configured}: {rate:?}");
            let at_once = u128::from(quota.burst_size().get()) * u128::from(grain);
            prop_assert!(at_once <= u128::from(rate.burst.max(grain)));
        }
    }
}
