//! Verification of the tokens that this gate issued itself.
//!
//! Promises: a token is accepted only with the gate's own `iss`, one of its own keys, and the gate itself as audience. Its
//! principal is the one that it was issued for, by name, with the roles in the token. A key whose file is removed is
//! withdrawn when the directory is next read, and cached tokens with it. Never: a principal of an issuer that is no longer
//! configured.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jsonwebtoken::Algorithm;

use super::{
    jwt::Unverified,
    keys::{Key, parse_jwks},
    rules::{Rules, TokenError},
};
use crate::{
    clock::{self, Timestamp},
    gate::signing::Signing,
    principal::Principal,
};

/// Clock difference allowed between gates that share keys. It is short: a token of the gate must not outlive the token
/// that it was exchanged for.
const LEEWAY: Duration = Duration::from_secs(10);

/// The gate as an issuer of tokens for itself.
pub struct SelfIssued {
    rules: Rules,
    /// The accepted issuer names of principals.
    issuers: Vec<Arc<str>>,
    signing: Arc<Signing>,
    state: Mutex<KeyState>,
}

#[derive(Default)]
struct KeyState {
    /// The version of the keys; `None` before they are first read.
    version: Option<u64>,
    keys: Vec<Arc<Key>>,
    /// Whether the keys were withdrawn for good.
    closed: bool,
}

/// The additional claims of a token of the gate.
#[derive(serde::Deserialize)]
struct RolesClaim {
    roles: Vec<Arc<str>>,
}

impl SelfIssued {
    /// Accepts tokens of `issuer` for `audience`, signed by these keys, for principals of these issuers.
    #[must_use]
    pub fn new(issuer: &str, audience: &str, issuers: Vec<Arc<str>>, signing: Arc<Signing>) -> Self {
        let rules = Rules {
            issuer: issuer.to_owned(),
            audiences: vec![audience.to_owned()],
            algorithms: vec![Algorithm::ES256],
            leeway: LEEWAY,
            // what the gate signs for other audiences has other types
            access_tokens_only: true,
            ..Rules::default()
        };
        Self { rules, issuers, signing, state: Mutex::default() }
    }

    /// Follows changes of the keys, while it is polled.
    pub async fn follow_key_changes(&self) {
        let mut changes = self.signing.changes();
        loop {
            drop(self.current());
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Withdraws all keys for good; cached tokens and open streams end with them.
    pub fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.keys.drain(..).for_each(|key| key.withdraw());
    }

    pub(super) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Verifies a token of the gate. Returns its principal and the key.
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
        let issuer = self.issuers.iter().find(|name| ***name == *issuer).ok_or(TokenError::Issuer)?;
        let claims: RolesClaim = serde_json::from_str(&verified.claims).map_err(|_| TokenError::Claims)?;
        let principal = Principal {
            name: verified.subject.as_str().into(),
            issuer: issuer.clone(),
            subject: subject.into(),
            claims: verified.claims,
            proof,
            expires_at: verified.expires_at,
            until: clock::after(verified.expires_at, LEEWAY),
            ended: key.withdrawn().child_token(),
            roles: Some(claims.roles.into()),
            confirmation: verified.confirmation,
        };
        Ok((principal, key))
    }

    fn key(&self, kid: &str) -> Option<Arc<Key>> {
        self.current().keys.iter().find(|key| key.kid() == Some(kid)).cloned()
    }

    /// The current keys. A key that is still published keeps its identity, so that tokens verified with it stay cached;
    /// one that is no longer published is withdrawn.
    fn current(&self) -> MutexGuard<'_, KeyState> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let version = self.signing.version();
        if state.version != Some(version) && !state.closed {
            // an empty set is an error for the parser, and no keys here
            let published = parse_jwks(self.signing.jwks().as_bytes()).unwrap_or_default();
            let same = |key: &Key| state.keys.iter().find(|old| old.same_as(key)).cloned();
            let keys: Vec<_> = published.into_iter().map(|key| same(&key).unwrap_or_else(|| Arc::new(key))).collect();
            let removed = state.keys.iter().filter(|old| !keys.iter().any(|key| Arc::ptr_eq(key, old)));
            removed.for_each(|old| old.withdraw());
            *state = KeyState { version: Some(version), keys, closed: false };
        }
        state
    }
}
