//! Server-provided DPoP nonces (RFC 9449 sections 8 and 9).
//!
//! Promises: a client cannot predict a nonce, and each expires within two minutes. Nothing is stored: a nonce is a keyed
//! hash of its minute. The key is per process, so a restart invalidates all nonces.

use aws_lc_rs::{constant_time::verify_slices_are_equal, rand};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use crate::clock::Timestamp;

/// In seconds. A nonce is valid in the period in which it was issued and in the next.
const PERIOD: i64 = 60;

/// Issues and checks nonces.
pub(super) struct Nonces {
    /// `None` if the system provided no randomness; then every nonce is invalid.
    key: Option<[u8; 32]>,
}

/// The status of a nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NonceStatus {
    /// Valid, of this period.
    Current,
    /// Valid, of the previous period: the client should get the next nonce.
    Previous,
    /// Not issued by this process, or expired.
    Invalid,
}

impl Nonces {
    pub(super) fn new() -> Self {
        let mut key = [0; 32];
        Self { key: rand::fill(&mut key).is_ok().then_some(key) }
    }

    /// The nonce to issue now.
    pub(super) fn current(&self, now: Timestamp) -> Option<String> {
        self.of(now.as_second().div_euclid(PERIOD))
    }

    pub(super) fn check(&self, nonce: &str, now: Timestamp) -> NonceStatus {
        let period = now.as_second().div_euclid(PERIOD);
        let is = |period| {
            self.of(period).is_some_and(|ours| verify_slices_are_equal(ours.as_bytes(), nonce.as_bytes()).is_ok())
        };
        match () {
            () if is(period) => NonceStatus::Current,
            () if is(period - 1) => NonceStatus::Previous,
            () => NonceStatus::Invalid,
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
    fn a_nonce_is_valid_in_two_periods_and_for_one_key() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let ours = Nonces::new();
        let theirs = Nonces::new();
        let nonce = ours.current(at(0)).unwrap();
        let found = [0, 59, 60, 119, 120, -1].map(|second| ours.check(&nonce, at(second)));
        assert_eq!(
            found,
            [
                NonceStatus::Current,
                NonceStatus::Current,
                NonceStatus::Previous,
                NonceStatus::Previous,
                NonceStatus::Invalid,
                NonceStatus::Invalid
            ]
        );
        assert_eq!(theirs.check(&nonce, at(0)), NonceStatus::Invalid);
        assert_eq!(ours.check("", at(0)), NonceStatus::Invalid);
        let none = Nonces { key: None };
        assert_eq!((none.current(at(0)), none.check("", at(0))), (None, NonceStatus::Invalid));
    }
}
