//! Nonces that the gate gives clients to put into their proofs (RFC 9449 sections 8 and 9).
//!
//! Promises: nobody can make one ahead of its time, and each ends by itself within two minutes. Nothing is stored: a
//! nonce is a keyed hash of its minute. The key lives as long as the process, so no nonce outlives it.

use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::clock::Timestamp;

/// A nonce counts in the period that it was made in and in the next, in seconds.
const PERIOD: i64 = 60;

/// Makes and knows nonces.
pub(super) struct Nonces {
    /// `None` where the system gave no randomness: then no nonce is good.
    key: Option<[u8; 32]>,
}

/// What is known of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It is good.
    Good,
    /// It is good for a while yet; the client had better have the next.
    Ending,
    /// It is not one of ours, or has ended.
    No,
}

impl Nonces {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        Self { key: rand::fill(&mut key).is_ok().then_some(key) }
    }

    /// The nonce to be given out now.
    pub(super) fn current(&self, now: Timestamp) -> Option<String> {
        self.of(now.as_second().div_euclid(PERIOD))
    }

    pub(super) fn know(&self, nonce: &str, now: Timestamp) -> Known {
        let period = now.as_second().div_euclid(PERIOD);
        let is = |period| {
            self.of(period).is_some_and(|ours| verify_slices_are_equal(ours.as_bytes(), nonce.as_bytes()).is_ok())
        };
        match () {
            () if is(period) => Known::Good,
            () if is(period - 1) => Known::Ending,
            () => Known::No,
        }
    }

    fn of(&self, period: i64) -> Option<String> {
        let hash = blake3::keyed_hash(&self.key?, &period.to_be_bytes());
        hash.as_bytes().first_chunk::<16>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_good_in_its_period_and_the_next_and_with_its_key_alone() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let (ours, theirs) = (Nonces::new(), Nonces::new());
        let nonce = ours.current(at(0)).unwrap();
        let found = [0, 59, 60, 119, 120, -1].map(|second| ours.know(&nonce, at(second)));
        assert_eq!(found, [Known::Good, Known::Good, Known::Ending, Known::Ending, Known::No, Known::No]);
        assert_eq!(theirs.know(&nonce, at(0)), Known::No);
        assert_eq!(ours.know("", at(0)), Known::No);
        let none = Nonces { key: None };
        assert_eq!((none.current(at(0)), none.know("", at(0))), (None, Known::No));
    }
}
