//! ID token verification (OpenID Connect Core section 3.1.3.7, and section 12.2 for a refresh).
//!
//! Promises: a [`VerifiedIdToken`] exists only if both verifiers accept the token. The one of `openidconnect` checks
//! signature, algorithm, `iss`, `aud`, `exp`, `iat` and `nonce`, with this program's key type. The one of `jwt` checks
//! what the crate leaves out: `nbf`, the form of `sub`, required claims, and members that occur twice. `azp` and
//! `at_hash` are checked here. Pure: no I/O, no clock.

use std::{sync::Arc, time::SystemTime};

use openidconnect::{
    AccessToken, AccessTokenHash, ClaimsVerificationError, ClientId, IdTokenVerifier, IssuerUrl, JsonWebKeySet, Nonce,
    SignatureVerificationError,
};
use serde::Deserialize;

use super::{
    client::IdToken,
    key::{SigningAlgorithm, VerificationKey},
};
use crate::{
    clock::Timestamp,
    gate::identity::{
        jwt::{Rules, TokenError, Unverified, Verified, is_for_client},
        keys::Key,
    },
};

/// The values that an ID token must match, besides its issuer's rules.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ExpectedIdToken<'a> {
    pub(crate) nonce: ExpectedNonce<'a>,
    /// The access token of the same response.
    pub(crate) access_token: Option<&'a str>,
    /// The subject of the login that is refreshed.
    pub(crate) subject: Option<&'a str>,
}

/// What is expected of `nonce`.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum ExpectedNonce<'a> {
    /// No nonce was sent.
    #[default]
    Any,
    /// Step 11: the nonce that was sent must be there.
    Sent(&'a str),
    /// Section 12.2: an ID token of a refresh may omit it.
    SameOrAbsent(&'a str),
}

/// A verified ID token.
#[derive(Debug)]
pub(crate) struct VerifiedIdToken {
    pub(crate) subject: String,
    pub(crate) expires_at: Timestamp,
    /// The provider's identifier of its session.
    pub(crate) sid: Option<Box<str>>,
}

/// An ID token that is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum IdTokenError {
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("it belongs to another login (its nonce differs)")]
    Nonce,
    #[error("it was made for another client")]
    AuthorizedParty,
    #[error("it has no `iat`")]
    IssuedAt,
    #[error("it belongs to another access token (its `at_hash` differs)")]
    AccessTokenHash,
    #[error("it is of another person than the login")]
    Subject,
}

impl IdTokenError {
    /// The stable reason for audit and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Token(error) => error.reason(),
            Self::Nonce => "id_token_nonce",
            Self::AuthorizedParty => "id_token_azp",
            Self::IssuedAt => "id_token_iat",
            Self::AccessTokenHash => "id_token_at_hash",
            Self::Subject => "id_token_subject",
        }
    }
}

/// The claims that only the client of an ID token reads.
#[derive(Deserialize)]
struct ClientClaims {
    aud: serde_json::Value,
    azp: Option<String>,
    iat: Option<f64>,
    sid: Option<Box<str>>,
}

/// Verifies an ID token of the client `client_id` with the key that was selected for it. `unverified` is `token`, parsed.
///
/// # Errors
/// The first rule that the token breaks.
pub(crate) fn verify(
    token: &str,
    unverified: Unverified<'_>,
    key: &Arc<Key>,
    rules: &Rules,
    client_id: &str,
    expected: ExpectedIdToken<'_>,
    now: Timestamp,
) -> Result<VerifiedIdToken, IdTokenError> {
    let keys = JsonWebKeySet::new(vec![VerificationKey::selected(key.clone(), unverified.kid.as_deref())]);
    let claims: ClientClaims = serde_json::from_str(unverified.payload()).map_err(|_| TokenError::Claims)?;
    let id_token: IdToken = token.parse().map_err(|_| match claims.iat {
        None => IdTokenError::IssuedAt,
        Some(_) => TokenError::Claims.into(),
    })?;
    let issuer = IssuerUrl::new(rules.issuer.clone()).map_err(|_| TokenError::Issuer)?;
    let expiry_clock = SystemTime::from(now).checked_sub(rules.leeway).ok_or(TokenError::Expired)?;
    let verifier = IdTokenVerifier::new_public_client(ClientId::new(client_id.to_owned()), issuer, keys)
        .set_allowed_algs(rules.algorithms.iter().copied().map(SigningAlgorithm))
        // step 3 of section 3.1.3.7: `azp` decides, below
        .set_other_audience_verifier_fn(|_| true)
        .set_time_fn(move || expiry_clock.into());
    let read = id_token.claims(&verifier, |nonce: Option<&Nonce>| check_nonce(nonce, expected.nonce));
    let read = read.map_err(|error| reason_of(&error))?;
    if let (Some(hash), Some(access_token)) = (read.access_token_hash(), expected.access_token) {
        let algorithm = id_token.signing_alg().map_err(|_| TokenError::Algorithm)?;
        let key = id_token.signing_key(&verifier).map_err(|_| TokenError::UnknownKey)?;
        let access_token = AccessToken::new(access_token.to_owned());
        let ours = AccessTokenHash::from_token(&access_token, algorithm, key).map_err(|_| TokenError::Algorithm)?;
        if ours != *hash {
            return Err(IdTokenError::AccessTokenHash);
        }
    }
    let Verified { subject, expires_at, .. } = unverified.verify(key, rules, now)?;
    // the crate leaves steps 4 and 5 of section 3.1.3.7 to its caller
    if !is_for_client(&claims.aud, claims.azp.as_deref(), client_id) {
        return Err(IdTokenError::AuthorizedParty);
    }
    if expected.subject.is_some_and(|expected| expected != subject) {
        return Err(IdTokenError::Subject);
    }
    Ok(VerifiedIdToken { subject, expires_at, sid: claims.sid })
}

/// Whether an ID token that was verified before would be accepted today, apart from its end and its signature.
pub(crate) fn is_still_accepted(unverified: &Unverified<'_>, rules: &Rules, client_id: &str) -> bool {
    let is_ours = |claims: ClientClaims| is_for_client(&claims.aud, claims.azp.as_deref(), client_id);
    unverified.check_offline(rules).is_ok_and(|payload| serde_json::from_str(payload).is_ok_and(is_ours))
}

fn check_nonce(nonce: Option<&Nonce>, expected: ExpectedNonce<'_>) -> Result<(), String> {
    // a nonce is no secret to its token's sender, but comparing it in constant time costs nothing
    let same = |expected: &str| {
        nonce.is_some_and(|nonce| {
            aws_lc_rs::constant_time::verify_slices_are_equal(nonce.secret().as_bytes(), expected.as_bytes()).is_ok()
        })
    };
    let accepted = match expected {
        ExpectedNonce::Any => true,
        ExpectedNonce::Sent(expected) => same(expected),
        ExpectedNonce::SameOrAbsent(expected) => nonce.is_none() || same(expected),
    };
    if accepted { Ok(()) } else { Err("nonce".into()) }
}

/// The error in this program's terms. The crate's own text repeats claims.
fn reason_of(error: &ClaimsVerificationError) -> IdTokenError {
    use SignatureVerificationError::{AmbiguousKeyId, CryptoError, DisallowedAlg, NoSignature, UnsupportedAlg};
    IdTokenError::Token(match error {
        ClaimsVerificationError::InvalidNonce(_) => return IdTokenError::Nonce,
        ClaimsVerificationError::Expired(_) => TokenError::Expired,
        ClaimsVerificationError::InvalidAudience(_) => TokenError::Audience,
        ClaimsVerificationError::InvalidIssuer(_) => TokenError::Issuer,
        ClaimsVerificationError::Unsupported(_) => TokenError::Type,
        ClaimsVerificationError::SignatureVerification(error) => match error {
            CryptoError(_) => TokenError::Signature,
            NoSignature | DisallowedAlg(_) | UnsupportedAlg(_) => TokenError::Algorithm,
            AmbiguousKeyId(_) => TokenError::AmbiguousKey,
            _ => TokenError::UnknownKey,
        },
        _ => TokenError::Claims,
    })
}

#[cfg(test)]
mod tests;
