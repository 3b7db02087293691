//! The published keys of one issuer, and key lookup for a token. Pure: no I/O.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::Algorithm;

use crate::{
    clock::{Instant, Timestamp},
    gate::identity::{keys::Key, rules::TokenError},
    refusal::Refusal,
};

/// The keys of the last fetch.
#[derive(Default)]
pub(super) struct KeySet {
    pub(super) keys: Vec<Arc<Key>>,
    /// The `kid`s of keys that were published before and are no longer, the latest last.
    pub(super) withdrawn: Vec<String>,
    /// The last successful fetch.
    pub(super) confirmed: Option<FetchTime>,
    pub(super) failing: bool,
}

/// The begin of a fetch: by the wall clock, to compare with claims, and by the monotonic one, to measure.
#[derive(Clone, Copy)]
pub(super) struct FetchTime {
    pub(super) began: Timestamp,
    pub(super) at: Instant,
}

/// The result of a key lookup.
pub(in crate::gate::identity) enum KeyLookup {
    Found(Arc<Key>),
    /// The issuer publishes the key, but for another algorithm.
    WrongAlgorithm,
    /// The token has no `kid`, and several keys fit.
    Ambiguous,
    /// The issuer does not publish the key.
    Unknown,
    /// The issuer cannot be reached; the time until the next fetch, if known.
    Unavailable(Option<Duration>),
}

impl KeyLookup {
    /// The key, or the refusal of the token; `refused` makes the refusal for a token error.
    pub(in crate::gate::identity) fn key_or(
        self,
        issuer: &str,
        refused: impl Fn(TokenError) -> Refusal,
    ) -> Result<Arc<Key>, Refusal> {
        match self {
            Self::Found(key) => Ok(key),
            Self::WrongAlgorithm => Err(refused(TokenError::Algorithm)),
            Self::Ambiguous => Err(refused(TokenError::AmbiguousKey)),
            Self::Unknown => Err(refused(TokenError::UnknownKey)),
            Self::Unavailable(wait) => Err(unavailable(issuer, wait)),
        }
    }
}

/// 503: the issuer is unreachable; `wait` is the time until the next fetch, if known.
pub(in crate::gate::identity) fn unavailable(issuer: &str, wait: Option<Duration>) -> Refusal {
    let text = "the token's issuer cannot be reached to validate it; try again later";
    let refusal = Refusal::unavailable("issuer_unavailable", text).with_detail(format!("issuer {issuer}"));
    Refusal { retry_after: wait.map(|wait| wait + Duration::from_secs(1)).or(refusal.retry_after), ..refusal }
}

impl KeySet {
    pub(super) fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> KeyLookup {
        let candidates = || self.keys.iter().filter(|k| kid.is_none() || k.kid() == kid);
        let mut supporting = candidates().filter(|k| k.supports(algorithm));
        match (supporting.next(), supporting.next()) {
            // a token without `kid` is verified with the one key that fits; between two it would be a guess
            (Some(_), Some(_)) if kid.is_none() => KeyLookup::Ambiguous,
            (Some(key), _) => KeyLookup::Found(key.clone()),
            (None, _) if kid.is_some() && candidates().next().is_some() => KeyLookup::WrongAlgorithm,
            (None, _) => KeyLookup::Unknown,
        }
    }
}
