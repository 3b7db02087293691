//! ID token verification.
//!
//! Promises: the rules of every token (see `jwt`), those of OpenID Connect Core section 3.1.3.7 on `nonce`, `azp`,
//! `at_hash` and `iat`, and those of section 12.2 for an ID token of a refresh.

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::Deserialize;

use super::{keys::digest as of_secret, provider::Provider};
use crate::{
    clock::Timestamp,
    gate::identity::{
        found,
        jwt::{Kind, Rules, TokenError, Unverified, Verified, is_for_client},
    },
    refusal::Refusal,
};

/// The values that an ID token must match, besides its issuer's rules.
pub(super) struct Expected<'a> {
    /// The nonce of the login attempt; on a refresh that of the first ID token, which a new one may omit.
    pub(super) nonce: Option<&'a str>,
    /// The access token of the same response.
    pub(super) access_token: &'a str,
    /// The subject of the session that is refreshed.
    pub(super) refreshed_subject: Option<&'a str>,
}

/// A verified ID token.
pub(super) struct VerifiedIdToken {
    pub(super) expires_at: Timestamp,
    /// The provider's identifier of its session.
    pub(super) sid: Option<Box<str>>,
}

/// The claims that only the client of an ID token reads.
#[derive(Deserialize)]
struct IdTokenClaims {
    aud: serde_json::Value,
    azp: Option<String>,
    nonce: Option<String>,
    at_hash: Option<String>,
    iat: Option<f64>,
    sid: Option<Box<str>>,
}

impl Provider {
    /// Verifies an ID token.
    pub(super) async fn id_token(
        &self,
        token: &str,
        expected: Expected<'_>,
        now: Timestamp,
    ) -> Result<VerifiedIdToken, Refusal> {
        let (algorithm, _, verified) = self.verified(Kind::Id, token, now).await?;
        let claims: IdTokenClaims = serde_json::from_str(&verified.claims).map_err(|_| self.bad("id_token_claims"))?;
        check(&claims, &self.settings.client_id, algorithm, &expected).map_err(|reason| self.bad(reason))?;
        if expected.refreshed_subject.is_some_and(|before| before != verified.subject) {
            return Err(self.bad("id_token_subject"));
        }
        if verified.expires_at <= now {
            // a bearer token has leeway, but a session cannot begin at its end
            return Err(self.bad(TokenError::Expired.reason()));
        }
        Ok(VerifiedIdToken { expires_at: verified.expires_at, sid: claims.sid })
    }

    /// Whether today's rules would accept the ID token of a session, apart from its end. The ID token was verified when
    /// the session began; it is the cookie's record of the session's provider and client.
    pub(super) fn still_accepts(&self, token: &str) -> bool {
        let Ok(unverified) = Unverified::parse_as(Kind::Id, token) else { return false };
        let ours = |claims: IdTokenClaims| is_for_client(&claims.aud, claims.azp.as_deref(), &self.settings.client_id);
        unverified.keeps(&self.rules).is_ok_and(|payload| serde_json::from_str(payload).is_ok_and(ours))
    }

    /// Verifies a token of this provider for this client. Whether `sub` is required depends on the kind.
    pub(super) async fn verified(
        &self,
        kind: Kind,
        token: &str,
        now: Timestamp,
    ) -> Result<(Algorithm, Option<String>, Verified), Refusal> {
        let bad = |error: TokenError| self.bad(error.reason()).with_detail(error);
        let unverified = Unverified::parse_as(kind, token).map_err(bad)?;
        unverified.fits(&self.rules).map_err(bad)?;
        let (algorithm, issued_at) = (unverified.algorithm, unverified.issued_at());
        let lookup = self.issuer.key(unverified.kid.as_deref(), algorithm, issued_at, now).await;
        let key = found(lookup, &self.issuer, bad)?;
        let (subject, verified) = if kind == Kind::Logout {
            // a logout token lacks the claims that the issuer's section requires of other tokens
            let rules = Rules { required: Vec::new(), ..self.rules.clone() };
            unverified.verify_any(&key, &rules, now).map_err(bad)?
        } else {
            let verified = unverified.verify(&key, &self.rules, now).map_err(bad)?;
            (Some(verified.subject.clone()), verified)
        };
        Ok((algorithm, subject, verified))
    }

    /// The person at the browser cannot mend their provider's token.
    fn bad(&self, reason: &'static str) -> Refusal {
        let text = "the identity provider's ID token is not valid; sign in again, and tell the operator of this gate";
        Refusal::new(http::StatusCode::FORBIDDEN, reason, text).with_detail(format!("issuer {}", self.issuer.name))
    }
}

fn check(
    claims: &IdTokenClaims,
    client_id: &str,
    algorithm: Algorithm,
    expected: &Expected<'_>,
) -> Result<(), &'static str> {
    // step 11: the nonce that was sent must be there; section 12.2: an ID token of a refresh may omit it
    let nonce_fits = match (&claims.nonce, expected.nonce) {
        (Some(claimed), Some(sent)) => of_secret(claimed) == of_secret(sent),
        (None, Some(_)) => expected.refreshed_subject.is_some(),
        (_, None) => true,
    };
    if !nonce_fits {
        return Err("id_token_nonce");
    }
    if !is_for_client(&claims.aud, claims.azp.as_deref(), client_id) {
        return Err("id_token_azp");
    }
    if !claims.iat.is_some_and(f64::is_finite) {
        return Err("id_token_iat");
    }
    // section 3.1.3.6: the left half of the access token's hash
    if claims.at_hash.as_ref().is_some_and(|hash| *hash != at_hash(algorithm, expected.access_token)) {
        return Err("id_token_at_hash");
    }
    Ok(())
}

/// The hash of the algorithm that signed; EdDSA on Ed25519 is SHA-512.
fn at_hash(algorithm: Algorithm, access_token: &str) -> String {
    let hash = match algorithm {
        Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 => &SHA384,
        Algorithm::RS512 | Algorithm::PS512 | Algorithm::EdDSA => &SHA512,
        _ => &SHA256,
    };
    let whole = digest::digest(hash, access_token.as_bytes());
    let bytes = whole.as_ref();
    URL_SAFE_NO_PAD.encode(bytes.get(..bytes.len() / 2).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_id_token_matches_its_attempt_or_is_refused() {
        let row = |claims: serde_json::Value, refreshed_subject: Option<&str>, result: Result<(), &str>| {
            let expected = Expected { nonce: Some("n"), access_token: "at", refreshed_subject };
            let read: IdTokenClaims = serde_json::from_value(claims.clone()).unwrap();
            assert_eq!(check(&read, "gate", Algorithm::RS256, &expected), result, "{claims}");
        };
        let at_hash = at_hash(Algorithm::RS256, "at");
        row(json!({"aud": "gate", "nonce": "n", "iat": 1}), None, Ok(()));
        row(json!({"aud": "gate", "nonce": "n", "iat": 1, "at_hash": at_hash}), None, Ok(()));
        row(json!({"aud": ["gate", "b"], "azp": "gate", "nonce": "n", "iat": 1}), None, Ok(()));
        row(json!({"aud": "gate", "iat": 1}), Some("ada"), Ok(()));
        row(json!({"aud": "gate", "iat": 1}), None, Err("id_token_nonce"));
        row(json!({"aud": "gate", "nonce": "m", "iat": 1}), None, Err("id_token_nonce"));
        row(json!({"aud": "gate", "nonce": "m", "iat": 1}), Some("ada"), Err("id_token_nonce"));
        row(json!({"aud": ["gate", "b"], "nonce": "n", "iat": 1}), None, Err("id_token_azp"));
        row(json!({"aud": "gate", "azp": "b", "nonce": "n", "iat": 1}), None, Err("id_token_azp"));
        row(json!({"aud": "gate", "nonce": "n"}), None, Err("id_token_iat"));
        row(json!({"aud": "gate", "nonce": "n", "iat": 1, "at_hash": "AAAA"}), None, Err("id_token_at_hash"));
    }

    #[test]
    fn at_hash_is_the_one_of_the_specification() {
        // OpenID Connect Core appendix A.3
        let token = "jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y";
        assert_eq!(at_hash(Algorithm::RS256, token), "77QmUPtjPfzWtF2AnpK9RQ");
    }
}
