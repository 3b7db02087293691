//! The tokens that this gate issued itself, as proof of who is asking.
//!
//! Promises: they are believed only with the gate's own `iss`, one of its own keys, and the audience that is the gate
//! itself; their principal is the one that the token was given for, by name, and their roles are those that it was
//! given. A key whose file is removed stops counting with the next look, tokens that were remembered among it. Never: a
//! principal of an issuer that is not configured any longer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonwebtoken::Algorithm;

use super::{
    jwt::{Rules, TokenError, Unverified},
    keys::{Key, parse_jwks},
};
use crate::{
    clock::{self, Timestamp},
    gate::signing::Signing,
    principal::Principal,
};

/// The gates that share keys may differ in time by this much. It is short: a token of the gate must not outlive the one
/// that it was given for.
const LEEWAY: Duration = Duration::from_secs(10);

/// The gate as an issuer that it trusts.
pub struct SelfIssued {
    rules: Rules,
    /// The names that principals may carry.
    issuers: Vec<Arc<str>>,
    signing: Arc<Signing>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Which of the keys' changes this is; nothing before the first look.
    version: Option<u64>,
    keys: Vec<Arc<Key>>,
    /// There are no keys from here on.
    closed: bool,
}

/// What a token of the gate says besides what every token does.
#[derive(serde::Deserialize)]
struct Given {
    roles: Vec<Arc<str>>,
}

impl SelfIssued {
    /// Believes tokens of `issuer` for `audience` that these keys signed and that are of principals of these issuers.
    #[must_use]
    pub fn new(issuer: &str, audience: &str, issuers: Vec<Arc<str>>, signing: Arc<Signing>) -> Self {
        let rules = Rules {
            issuer: issuer.to_owned(),
            audiences: vec![audience.to_owned()],
            algorithms: vec![Algorithm::ES256],
            leeway: LEEWAY,
            // what the gate signs for others is of other types
            access_tokens_only: true,
            ..Rules::default()
        };
        Self { rules, issuers, signing, known: Mutex::default() }
    }

    /// Takes over changes of the keys, for as long as it is polled.
    pub async fn follow_key_changes(&self) {
        let mut changes = self.signing.changes();
        loop {
            drop(self.up_to_date());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Believes nothing from here on: its keys are withdrawn, remembered tokens and open streams with them.
    pub fn close(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.closed = true;
        known.keys.drain(..).for_each(|key| key.withdraw());
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The principal that a token of the gate was given for.
    pub(super) fn verify(
        &self,
        token: Unverified<'_>,
        proof: [u8; 32],
        now: Timestamp,
    ) -> Result<(Principal, Arc<Key>), TokenError> {
        let kid = token.kid.as_deref().ok_or(TokenError::UnknownKey)?;
        let key = self.key(kid).ok_or(TokenError::UnknownKey)?;
        let verified = token.verify(&key, &self.rules, now)?;
        let (issuer, subject) = verified.subject.split_once(':').ok_or(TokenError::Claims)?;
        let issuer = self.issuers.iter().find(|known| ***known == *issuer).ok_or(TokenError::Issuer)?;
        let given: Given = serde_json::from_str(&verified.claims).map_err(|_| TokenError::Claims)?;
        let principal = Principal {
            name: verified.subject.as_str().into(),
            issuer: issuer.clone(),
            subject: subject.into(),
            claims: verified.claims,
            proof,
            expires_at: verified.expires_at,
            until: clock::after(verified.expires_at, LEEWAY),
            ended: key.withdrawn().child_token(),
            roles: Some(given.roles.into()),
            confirmation: verified.confirmation,
        };
        Ok((principal, key))
    }

    fn key(&self, kid: &str) -> Option<Arc<Key>> {
        self.up_to_date().keys.iter().find(|key| key.kid() == Some(kid)).cloned()
    }

    /// The keys of the last look. A key that is still there stays the same value, so tokens that it verified stay
    /// remembered; one that is gone is withdrawn.
    fn up_to_date(&self) -> MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.signing.version();
        if known.version != Some(version) && !known.closed {
            // an empty set is an error to the parser, and no key here
            let published = parse_jwks(self.signing.jwks().as_bytes()).unwrap_or_default();
            let same = |key: &Key| known.keys.iter().find(|old| old.same_as(key)).cloned();
            let keys: Vec<_> = published.into_iter().map(|key| same(&key).unwrap_or_else(|| Arc::new(key))).collect();
            let gone = known.keys.iter().filter(|old| !keys.iter().any(|key| Arc::ptr_eq(key, old)));
            gone.for_each(|old| old.withdraw());
            *known = Known { version: Some(version), keys, closed: false };
        }
        known
    }
}
