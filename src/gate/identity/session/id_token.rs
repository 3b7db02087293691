//! Checking an ID token that a provider gave the gate itself.
//!
//! Promises: besides everything that every token must satisfy (see `jwt`), the rules of OpenID Connect Core section
//! 3.1.3.7 on `nonce`, `azp`, `at_hash` and `iat`, and those of section 12.2 for one that came of a refresh.

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

/// What an ID token must fit besides its issuer's rules.
pub(super) struct Expected<'a> {
    /// The nonce of the attempt; on a refresh that of the first ID token, which a new one may leave out.
    pub(super) nonce: Option<&'a str>,
    /// The access token that came with it.
    pub(super) access_token: &'a str,
    /// The subject of the session that it refreshes.
    pub(super) refreshes: Option<&'a str>,
}

/// An ID token that was checked whole.
pub(super) struct IdToken {
    pub(super) expires_at: Timestamp,
    /// The provider's name of its session.
    pub(super) sid: Option<Box<str>>,
}

/// Claims that only an ID token's client looks at.
#[derive(Deserialize)]
struct Claims {
    aud: serde_json::Value,
    azp: Option<String>,
    nonce: Option<String>,
    at_hash: Option<String>,
    iat: Option<f64>,
    sid: Option<Box<str>>,
}

impl Provider {
    /// Checks an ID token whole.
    pub(super) async fn id_token(
        &self,
        token: &str,
        expected: Expected<'_>,
        now: Timestamp,
    ) -> Result<IdToken, Refusal> {
        let (algorithm, _, verified) = self.verified(Kind::Id, token, now).await?;
        let claims: Claims = serde_json::from_str(&verified.claims).map_err(|_| self.bad("id_token_claims"))?;
        check(&claims, &self.settings.client_id, algorithm, &expected).map_err(|reason| self.bad(reason))?;
        if expected.refreshes.is_some_and(|before| before != verified.subject) {
            return Err(self.bad("id_token_subject"));
        }
        if verified.expires_at <= now {
            // within the leeway for a bearer, but a session cannot begin at its end
            return Err(self.bad(TokenError::Expired.reason()));
        }
        Ok(IdToken { expires_at: verified.expires_at, sid: claims.sid })
    }

    /// Whether an ID token that was checked whole when its session began would be taken today, apart from its end: it is
    /// the cookie's own record of which provider and client the session is of.
    pub(super) fn still_takes(&self, token: &str) -> bool {
        let Ok(unverified) = Unverified::parse_as(Kind::Id, token) else { return false };
        let ours = |claims: Claims| is_for_client(&claims.aud, claims.azp.as_deref(), &self.settings.client_id);
        unverified.keeps(&self.rules).is_ok_and(|payload| serde_json::from_str(payload).is_ok_and(ours))
    }

    /// A token of this provider for this client, as the one verifier reads it; whether its `sub` must be there depends
    /// on its kind.
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
            // what the issuer's section requires of tokens is not said in those that only end a session
            let rules = Rules { required: Vec::new(), ..self.rules.clone() };
            unverified.verify_any(&key, &rules, now).map_err(bad)?
        } else {
            let verified = unverified.verify(&key, &self.rules, now).map_err(bad)?;
            (Some(verified.subject.clone()), verified)
        };
        Ok((algorithm, subject, verified))
    }

    /// The person at the browser can do nothing about what their provider says.
    fn bad(&self, reason: &'static str) -> Refusal {
        let text =
            "the identity provider's token does not prove who you are; sign in again, and tell whoever runs this";
        Refusal::new(http::StatusCode::FORBIDDEN, reason, text).with_detail(format!("issuer {}", self.issuer.name))
    }
}

fn check(claims: &Claims, client_id: &str, algorithm: Algorithm, expected: &Expected<'_>) -> Result<(), &'static str> {
    // step 11: it must be there where one was sent, and be that one; section 12.2: a refreshed one may leave it out
    let nonce_fits = match (&claims.nonce, expected.nonce) {
        (Some(said), Some(sent)) => of_secret(said) == of_secret(sent),
        (None, Some(_)) => expected.refreshes.is_some(),
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
    fn an_id_token_fits_its_attempt_or_is_refused() {
        let row = |claims: serde_json::Value, refreshes: Option<&str>, result: Result<(), &str>| {
            let expected = Expected { nonce: Some("n"), access_token: "at", refreshes };
            let read: Claims = serde_json::from_value(claims.clone()).unwrap();
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
