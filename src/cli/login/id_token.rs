//! ID token verification of a login at a shell. Pure: no I/O, no clock.
//!
//! Promises: a [`StoredIdToken`] is made only after signature, `iss`, `aud`, `exp`, and if they apply `azp`, `nonce` and
//! `sub` were checked, by the gate's own rules for signed tokens.

use std::time::Duration;

use serde::Deserialize;

use super::stored::{StoredIdToken, StoredSecret};
use crate::{
    clock::Timestamp,
    gate::identity::{
        jwt::{ASYMMETRIC, Kind, Rules, TokenError, Unverified, is_for_client},
        keys::parse_jwks,
    },
};

/// Clock difference allowed on an ID token.
const LEEWAY: Duration = Duration::from_secs(60);

/// What an ID token has to fit besides its issuer and its client.
#[derive(Clone, Copy, Default)]
pub(super) struct Expected<'a> {
    /// The nonce that was sent with the request for it (OpenID Connect Core 1.0 section 3.1.3.7, 11).
    pub(super) nonce: Option<&'a str>,
    /// Who logged in (section 12.2: it stays the same when tokens are renewed).
    pub(super) subject: Option<&'a str>,
}

/// Checks `token` as OpenID Connect Core 1.0 section 3.1.3.7 asks; says what is wrong with it, without what is in it.
pub(super) fn verify(
    token: &StoredSecret,
    jwks: &[u8],
    issuer: &str,
    client_id: &str,
    expected: Expected<'_>,
    now: Timestamp,
) -> Result<StoredIdToken, String> {
    #[derive(Deserialize)]
    struct Claims {
        nonce: Option<String>,
        azp: Option<String>,
        aud: serde_json::Value,
    }
    let rules = Rules {
        issuer: issuer.to_owned(),
        audiences: vec![client_id.to_owned()],
        // which of them the provider uses, its keys say
        algorithms: ASYMMETRIC.to_vec(),
        leeway: LEEWAY,
        ..Rules::default()
    };
    let keys = parse_jwks(jwks).map_err(|e| e.to_string())?;
    let mut last = TokenError::UnknownKey;
    let mut verified = None;
    // whichever of the issuer's keys it is: all of them are the issuer's
    for key in &keys {
        let unverified = Unverified::parse_as(Kind::Id, token.0.expose()).map_err(|e| e.to_string())?;
        match unverified.verify(key, &rules, now) {
            Ok(token) => verified = Some(token),
            Err(TokenError::Signature) => last = TokenError::Signature,
            // a key of another kind; one that fits says more
            Err(TokenError::Algorithm) if last != TokenError::Signature => last = TokenError::Algorithm,
            Err(TokenError::Algorithm) => {}
            Err(error) => return Err(error.to_string()),
        }
    }
    let verified = verified.ok_or_else(|| last.to_string())?;
    let claims: Claims = serde_json::from_str(&verified.claims).map_err(|_| TokenError::Claims.to_string())?;
    if !is_for_client(&claims.aud, claims.azp.as_deref(), client_id) {
        return Err("it was made for another client".into());
    }
    // step 11
    if expected.nonce.is_some() && claims.nonce.as_deref() != expected.nonce {
        return Err("it belongs to another login (its nonce differs)".into());
    }
    if expected.subject.is_some_and(|subject| subject != verified.subject) {
        return Err("it is of another person than the login".into());
    }
    Ok(StoredIdToken { token: token.clone(), expires_at: verified.expires_at, subject: verified.subject })
}
