//! DPoP (RFC 9449): sender-constrained tokens, accepted only with a proof of possession made for the request.
//!
//! Promises: a proof is accepted once, for its method, URL, token and time. If nonces are required, it contains a nonce of
//! this gate, so it was not made in advance. If the replay cache is full, proofs are refused. A reload keeps the replay
//! cache, and accepts no proof that was too old before. A restart loses the cache: a proof of the last minute could be
//! replayed once then, unless nonces are required.

mod nonce;
pub(crate) mod proof;
mod replay;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CACHE_CONTROL};

use self::{
    nonce::{NonceStatus, Nonces},
    proof::{ExpectedProof, MAX_CLOCK_AHEAD, ProofError, normalize_url},
    replay::{ReplayCache, ReplayCheck},
};
use super::auth_context::AuthContext;
use crate::{clock::Timestamp, refusal::Refusal};

const DPOP: HeaderName = HeaderName::from_static("dpop");
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// The `[dpop]` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The maximum age of a proof.
    pub max_age: Duration,
    /// Whether a proof must contain a nonce of this gate.
    pub nonces: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(60), nonces: false }
    }
}

/// Verifies DPoP proofs.
#[derive(Clone)]
pub struct Dpop {
    settings: Settings,
    /// The gate's external URL, normalized, without a trailing slash.
    base: Option<String>,
    /// Proofs made before this are refused: the replay cache may have dropped them under a shorter `max_age`.
    not_before: Timestamp,
    state: Arc<State>,
}

/// The state that a reload keeps.
struct State {
    replay: ReplayCache,
    nonces: Nonces,
}

impl Default for Dpop {
    fn default() -> Self {
        Self::new(Settings::default(), None, None, Timestamp::MIN)
    }
}

impl PartialEq for Dpop {
    fn eq(&self, other: &Self) -> bool {
        (self.settings, &self.base) == (other.settings, &other.base)
    }
}

impl Dpop {
    /// `url` is the gate's external URL; without it no proof can be verified. `before` is the previous verifier: its replay
    /// cache is kept, and proofs that are too old for it at `now` stay refused.
    #[must_use]
    pub fn new(settings: Settings, url: Option<&str>, before: Option<&Self>, now: Timestamp) -> Self {
        let base = url.and_then(normalize_url).map(|url| url.trim_end_matches('/').to_owned());
        let not_before = before.map_or(Timestamp::MIN, |before| {
            let oldest = now.checked_sub(before.settings.max_age).unwrap_or(Timestamp::MIN);
            if settings.max_age > before.settings.max_age { before.not_before.max(oldest) } else { before.not_before }
        });
        let state = before.map(|before| before.state.clone());
        let state = state.unwrap_or_else(|| Arc::new(State { replay: ReplayCache::new(), nonces: Nonces::new() }));
        Self { settings, base, not_before, state }
    }

    /// The maximum age of a proof at `now`.
    fn max_age(&self, now: Timestamp) -> Duration {
        now.duration_since(self.not_before).try_into().map_or(Duration::ZERO, |age| self.settings.max_age.min(age))
    }

    /// How long the replay cache keeps a proof.
    fn window(&self) -> Duration {
        // a proof is valid from `MAX_CLOCK_AHEAD` before its time until `max_age` after it; one second is a margin
        self.settings.max_age + MAX_CLOCK_AHEAD + Duration::from_secs(1)
    }

    /// Whether proofs can be verified.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.base.is_some()
    }

    /// Verifies the request's proof for `token`, which is bound to `key`; without `token`, the proof of a token request
    /// (RFC 9449 section 5). The client's next nonce is put into `reply`.
    ///
    /// # Errors
    /// 401 if there is no proof or it violates a rule, 503 if the replay cache is full.
    pub(super) fn check(
        &self,
        token: Option<&str>,
        key: [u8; 32],
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<(), Refusal> {
        let Some(base) = &self.base else {
            let text = "this gate cannot verify DPoP proofs: `url` under [gate] is missing in its configuration; have it added";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_not_configured", text));
        };
        let proof = single_proof(context.headers)?;
        let url = normalize_url(&format!("{base}{}", context.path)).ok_or_else(|| refused(ProofError::Url))?;
        let expected = ExpectedProof {
            method: context.method.as_str(),
            url: &url,
            token,
            key,
            max_age: self.max_age(context.now),
            now: context.now,
        };
        let proof = proof::verify(proof, &expected).map_err(refused)?;
        if self.settings.nonces {
            self.check_nonce(proof.nonce.as_deref(), context.now, reply)?;
        }
        // last, so that only valid proofs enter the replay cache
        match self.state.replay.check_and_insert(proof.id, &key, context.now, self.window()) {
            ReplayCheck::New => Ok(()),
            ReplayCheck::Replayed => {
                let text = "this DPoP proof was used before; make one for each request";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_replayed", text))
            }
            ReplayCheck::Full => {
                let text = "the replay cache for DPoP proofs is full; try again later";
                Err(Refusal::unavailable("dpop_replay_full", text))
            }
        }
    }

    /// RFC 9449 section 9: the response to a proof without a valid nonce contains one. Section 8.2: the next nonce is issued
    /// before the previous one expires.
    fn check_nonce(&self, nonce: Option<&str>, now: Timestamp, reply: &mut HeaderMap) -> Result<(), Refusal> {
        let status = nonce.map_or(NonceStatus::Invalid, |nonce| self.state.nonces.check(nonce, now));
        if status == NonceStatus::Current {
            return Ok(());
        }
        let next = self.state.nonces.current(now).and_then(|nonce| HeaderValue::try_from(nonce).ok());
        let next =
            next.ok_or_else(|| Refusal::unavailable("dpop_no_nonce", "no nonce can be generated; try again later"))?;
        reply.append(DPOP_NONCE, next);
        // section 8.2: a cached response would contain an old nonce
        reply.append(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if status == NonceStatus::Previous {
            return Ok(());
        }
        let text =
            "the DPoP proof must contain the nonce in the DPoP-Nonce header of this response; retry with a new proof";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_nonce", text))
    }
}

/// RFC 9449 section 4.3, rule 1: not more than one header.
fn single_proof(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(DPOP).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| refused(ProofError::Malformed)),
        (None, _) => {
            let text = "the token is bound to a key; send a DPoP proof signed with it in the DPoP header";
            Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_missing", text))
        }
        (Some(_), Some(_)) => {
            Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_several", "send one DPoP header, not several"))
        }
    }
}

fn refused(error: ProofError) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, error.reason(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_accepts_no_proof_that_the_replay_cache_may_have_dropped() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let dpop = |max_age: u64, before: Option<&Dpop>, second: i64| {
            Dpop::new(Settings { max_age: Duration::from_secs(max_age), nonces: false }, None, before, at(second))
        };
        let check = |dpop: &Dpop, second: i64, expected: u64| {
            assert_eq!(dpop.max_age(at(second)), Duration::from_secs(expected), "at {second}");
        };
        let first = dpop(60, None, 0);
        check(&first, 0, 60);
        // the first verifier's maximum age, growing until proofs of its time are too old
        let raised = dpop(300, Some(&first), 100);
        for (second, age) in [(100, 60), (200, 160), (340, 300), (400, 300)] {
            check(&raised, second, age);
        }
        let lowered = dpop(30, Some(&raised), 150);
        check(&lowered, 150, 30);
        let again = dpop(300, Some(&lowered), 160);
        for (second, age) in [(160, 30), (161, 31), (430, 300), (500, 300)] {
            check(&again, second, age);
        }
        // all of them share the replay cache
        let id = 7;
        assert_eq!(first.state.replay.check_and_insert(id, &[0; 32], at(90), first.window()), ReplayCheck::New);
        assert_eq!(raised.state.replay.check_and_insert(id, &[0; 32], at(389), raised.window()), ReplayCheck::Replayed);
    }
}
