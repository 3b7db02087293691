//! DPoP (RFC 9449): a token that counts only with a proof, made for this one request, that its sender holds a key.
//!
//! Promises: a proof is taken for the method, URL, token and moment that it was made for, once. Where nonces are
//! required it holds one of ours, so it was not made ahead. What cannot be remembered is refused. A reload forgets
//! nothing, and lets no proof in that was too old before it. After a restart nothing is remembered: a proof of the last
//! minute could be sent once more then, unless nonces are required.

mod nonce;
pub(crate) mod proof;
mod replay;

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header::CACHE_CONTROL};

use self::{
    nonce::{Known, Nonces},
    proof::{ExpectedProof, FUTURE, ProofError, normalize_url},
    replay::{Replay, Seen},
};
use super::AuthContext;
use crate::{clock::Timestamp, refusal::Refusal};

const DPOP: HeaderName = HeaderName::from_static("dpop");
const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// The `[dpop]` section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How old a proof may be.
    pub max_age: Duration,
    /// Whether a proof must hold a nonce of ours.
    pub nonces: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(60), nonces: false }
    }
}

/// Checks proofs.
#[derive(Clone)]
pub struct Dpop {
    settings: Settings,
    /// The URL that clients know the gate by, normalised, without a slash at its end.
    base: Option<String>,
    /// No proof made before this is taken: it may have been forgotten while proofs might not be as old as now.
    since: Timestamp,
    memory: Arc<Memory>,
}

/// What outlives a configuration.
struct Memory {
    replay: Replay,
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
    /// `url` is what clients know the gate by; without it no proof can be checked. `before` is what checked them so
    /// far: the proofs that it saw stay seen, and what is too old for it at `now` stays so.
    #[must_use]
    pub fn new(settings: Settings, url: Option<&str>, before: Option<&Self>, now: Timestamp) -> Self {
        let base = url.and_then(normalize_url).map(|url| url.trim_end_matches('/').to_owned());
        let since = before.map_or(Timestamp::MIN, |before| {
            let oldest = now.checked_sub(before.settings.max_age).unwrap_or(Timestamp::MIN);
            if settings.max_age > before.settings.max_age { before.since.max(oldest) } else { before.since }
        });
        let memory = before.map(|before| before.memory.clone());
        let memory = memory.unwrap_or_else(|| Arc::new(Memory { replay: Replay::new(), nonces: Nonces::new() }));
        Self { settings, base, since, memory }
    }

    /// How old a proof may be at `now`.
    fn max_age(&self, now: Timestamp) -> Duration {
        now.duration_since(self.since).try_into().map_or(Duration::ZERO, |age| self.settings.max_age.min(age))
    }

    /// How long a proof is remembered.
    fn window(&self) -> Duration {
        // a proof counts from `FUTURE` before its time until `max_age` after; one second more for good measure
        self.settings.max_age + FUTURE + Duration::from_secs(1)
    }

    /// Whether proofs can be checked.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        self.base.is_some()
    }

    /// Checks the request's one proof for `token`, which names `key`; without `token` as one that goes with a request
    /// for another token (RFC 9449 section 5). A nonce that the client shall use next goes into `reply`.
    ///
    /// # Errors
    /// 401 where there is no proof or it breaks a rule, 503 where it cannot be remembered.
    pub(super) fn check(
        &self,
        token: Option<&str>,
        key: [u8; 32],
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<(), Refusal> {
        let Some(base) = &self.base else {
            let text = "this gate cannot check DPoP proofs: its configuration lacks `url` under [gate]; have it added";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_not_configured", text));
        };
        let proof = only_proof(context.headers)?;
        let url = normalize_url(&format!("{base}{}", context.path)).ok_or_else(|| broken(ProofError::Url))?;
        let expected = ExpectedProof {
            method: context.method.as_str(),
            url: &url,
            token,
            key,
            max_age: self.max_age(context.now),
            now: context.now,
        };
        let proof = proof::verify(proof, &expected).map_err(broken)?;
        if self.settings.nonces {
            self.nonce(proof.nonce.as_deref(), context.now, reply)?;
        }
        // last, so that only what would be taken is remembered
        match self.memory.replay.seen(proof.id, &key, context.now, self.window()) {
            Seen::Never => Ok(()),
            Seen::Before => {
                let text = "this DPoP proof was used before; make one for each request";
                Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_replayed", text))
            }
            Seen::Full => {
                let text = "too many DPoP proofs came lately to remember them all; try again later";
                Err(Refusal::unavailable("dpop_replay_full", text))
            }
        }
    }

    /// RFC 9449 section 9: a proof without a nonce of ours is answered with one; section 8.2: the next one is given out
    /// before the last ends.
    fn nonce(&self, nonce: Option<&str>, now: Timestamp, reply: &mut HeaderMap) -> Result<(), Refusal> {
        let known = nonce.map_or(Known::No, |nonce| self.memory.nonces.know(nonce, now));
        if known == Known::Good {
            return Ok(());
        }
        let next = self.memory.nonces.current(now).and_then(|nonce| HeaderValue::try_from(nonce).ok());
        let next =
            next.ok_or_else(|| Refusal::unavailable("dpop_no_nonce", "no nonce can be made; try again later"))?;
        reply.append(DPOP_NONCE, next);
        // section 8.2: a stored answer would hand out an old nonce
        reply.append(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if known == Known::Ending {
            return Ok(());
        }
        let text =
            "the DPoP proof needs the nonce in this answer's DPoP-Nonce header; make a proof with it and come again";
        Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_nonce", text))
    }
}

/// RFC 9449 section 4.3, rule 1: not more than one header.
fn only_proof(headers: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = headers.get_all(DPOP).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| broken(ProofError::Malformed)),
        (None, _) => {
            let text = "the token is bound to a key; send a DPoP proof by it in the DPoP header";
            Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_missing", text))
        }
        (Some(_), Some(_)) => {
            Err(Refusal::new(StatusCode::UNAUTHORIZED, "dpop_several", "send one DPoP header, not several"))
        }
    }
}

fn broken(error: ProofError) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, error.reason(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_lets_nothing_in_that_may_have_been_forgotten() {
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let dpop = |max_age: u64, before: Option<&Dpop>, second: i64| {
            Dpop::new(Settings { max_age: Duration::from_secs(max_age), nonces: false }, None, before, at(second))
        };
        let check = |dpop: &Dpop, second: i64, expected: u64| {
            assert_eq!(dpop.max_age(at(second)), Duration::from_secs(expected), "at {second}");
        };
        let first = dpop(60, None, 0);
        check(&first, 0, 60);
        // as old as the first would have taken, and no older until the proofs of its time are too old
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
        // what was seen stays seen by all of them
        let id = 7;
        assert_eq!(first.memory.replay.seen(id, &[0; 32], at(90), first.window()), Seen::Never);
        assert_eq!(raised.memory.replay.seen(id, &[0; 32], at(389), raised.window()), Seen::Before);
    }
}
