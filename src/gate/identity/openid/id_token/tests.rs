//! ID tokens that are accepted and refused, and the key type that verifies them.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use openidconnect::{
    JsonWebKey,
    core::{CoreJsonWebKey, CoreJwsSigningAlgorithm},
};
use serde_json::{Value, json};

use super::*;
use crate::gate::identity::jwt::TokenKind;

/// RSA of 5120 bits, PKCS#8. The `rsa` crate reads no key of more than 4096 bits.
const RSA_5120: &[u8] = include_bytes!("../../../../../tests/it/support/rsa-5120.pk8");
const NOW: i64 = 1_800_000_000;

fn key(jwk: Value) -> Arc<Key> {
    Arc::new(Key::new(serde_json::from_value(jwk).unwrap()).unwrap())
}

/// An Ed25519 key and its private half.
struct Signer {
    pair: Ed25519KeyPair,
    key: Arc<Key>,
}

impl Signer {
    fn new() -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = URL_SAFE_NO_PAD.encode(pair.public_key());
        Self { key: key(json!({"kty": "OKP", "crv": "Ed25519", "x": x})), pair }
    }

    fn sign(&self, claims: &str) -> String {
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let message = format!("{}.{}", part(r#"{"alg":"EdDSA","kid":"any"}"#), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.pair.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }
}

/// Verifies a token of these claims, which a good token's claims are merged with.
fn result(expected: ExpectedIdToken<'_>, change: Value) -> Result<String, IdTokenError> {
    let signer = Signer::new();
    let mut claims =
        json!({"iss": "https://idp.test", "sub": "ada", "aud": "gate", "exp": NOW + 300, "iat": NOW, "nonce": "n"});
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    // `null` removes a claim
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    verified(&signer, &signer.sign(&claims.to_string()), expected)
}

fn verified(signer: &Signer, token: &str, expected: ExpectedIdToken<'_>) -> Result<String, IdTokenError> {
    let rules = Rules {
        issuer: "https://idp.test".into(),
        audiences: vec!["gate".into()],
        algorithms: vec![Algorithm::EdDSA],
        leeway: std::time::Duration::from_secs(60),
        ..Rules::default()
    };
    let unverified = Unverified::parse_as(TokenKind::Id, token)?;
    let now = Timestamp::from_second(NOW).unwrap();
    verify(token, unverified, &signer.key, &rules, "gate", expected, now).map(|verified| verified.subject)
}

#[test]
fn an_id_token_matches_its_login_or_is_refused() {
    let login = ExpectedIdToken { nonce: ExpectedNonce::Sent("n"), access_token: Some("at"), subject: None };
    let refresh =
        ExpectedIdToken { nonce: ExpectedNonce::SameOrAbsent("n"), access_token: Some("at"), subject: Some("ada") };
    let check = |expected, change: Value, result_of: Result<(), IdTokenError>| {
        assert_eq!(result(expected, change.clone()).map(drop), result_of, "{change}");
    };
    let half = digest(&aws_lc_rs::digest::SHA512, "at", 32);
    check(login, json!({}), Ok(()));
    check(login, json!({"at_hash": half}), Ok(()));
    check(login, json!({"aud": ["gate", "b"], "azp": "gate"}), Ok(()));
    check(refresh, json!({"nonce": null}), Ok(()));
    check(login, json!({"nonce": null}), Err(IdTokenError::Nonce));
    check(login, json!({"nonce": "m"}), Err(IdTokenError::Nonce));
    check(refresh, json!({"nonce": "m"}), Err(IdTokenError::Nonce));
    check(refresh, json!({"sub": "bob"}), Err(IdTokenError::Subject));
    check(login, json!({"aud": ["gate", "b"]}), Err(IdTokenError::AuthorizedParty));
    check(login, json!({"azp": "b"}), Err(IdTokenError::AuthorizedParty));
    check(login, json!({"aud": "b"}), Err(TokenError::Audience.into()));
    check(login, json!({"iat": null}), Err(IdTokenError::IssuedAt));
    check(login, json!({"at_hash": "AAAA"}), Err(IdTokenError::AccessTokenHash));
    check(login, json!({"iss": "https://idp.test/"}), Err(TokenError::Issuer.into()));
    check(login, json!({"exp": NOW - 60}), Err(TokenError::Expired.into()));
    check(login, json!({"exp": NOW - 59}), Ok(()));
    // what `openidconnect` does not check
    check(login, json!({"nbf": NOW + 61}), Err(TokenError::NotYetValid.into()));
    check(login, json!({"iat": NOW + 61}), Err(TokenError::NotYetValid.into()));
    check(login, json!({"sub": "a\nb"}), Err(TokenError::Subject.into()));
}

#[test]
fn claims_of_real_providers_are_accepted() {
    // Apple's booleans are strings, Auth0's `updated_at` is RFC 3339
    for claims in [
        json!({"email_verified": "true", "is_private_email": "false", "nonce_supported": true}),
        json!({"updated_at": "2026-11-28T12:00:00.000Z", "picture": "https://idp.test/p.png", "sid": "s"}),
        json!({"updated_at": NOW, "auth_time": NOW, "acr": "0", "amr": ["pwd"], "address": {}, "groups": ["a"]}),
        json!({"locale": "en", "name#de": "Ada", "tid": "t", "ver": "2.0", "roles": ["scrape"]}),
    ] {
        let expected = ExpectedIdToken { nonce: ExpectedNonce::Sent("n"), ..ExpectedIdToken::default() };
        assert_eq!(result(expected, claims.clone()).as_deref(), Ok("ada"), "{claims}");
    }
}

#[test]
fn a_duplicate_member_is_refused() {
    let signer = Signer::new();
    let claims =
        format!(r#"{{"iss":"https://idp.test","sub":"ada","sub":"bob","aud":"gate","exp":{},"iat":{NOW}}}"#, NOW + 300);
    let refused = verified(&signer, &signer.sign(&claims), ExpectedIdToken::default());
    assert_eq!(refused, Err(TokenError::Duplicate.into()));
}

#[test]
fn at_hash_is_the_one_of_the_specification() {
    // OpenID Connect Core appendix A.3
    let token = AccessToken::new("jHkWEdUXMU1BwAsC4vtUsZwnNvTIxEl0z9K3vx5KF0Y".into());
    let key = VerificationKey::from(Signer::new().key);
    let hash = AccessTokenHash::from_token(&token, &SigningAlgorithm(Algorithm::RS256), &key).unwrap();
    assert_eq!(*hash, "77QmUPtjPfzWtF2AnpK9RQ");
}

#[test]
fn this_programs_key_type_verifies_what_the_crates_own_cannot() {
    let pair = RsaKeyPair::from_pkcs8(RSA_5120).unwrap();
    let public = pair.public_key();
    let jwk = json!({
        "kty": "RSA",
        "use": "sig",
        "n": URL_SAFE_NO_PAD.encode(public.modulus().big_endian_without_leading_zero()),
        "e": URL_SAFE_NO_PAD.encode(public.exponent().big_endian_without_leading_zero()),
    });
    let mut signature = vec![0; pair.public_modulus_len()];
    pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"message", &mut signature).unwrap();
    let ours: VerificationKey = serde_json::from_value(jwk.clone()).unwrap();
    let algorithm = SigningAlgorithm(Algorithm::RS256);
    assert!(ours.verify_signature(&algorithm, b"message", &signature).is_ok());
    assert!(ours.verify_signature(&algorithm, b"another", &signature).is_err());
    assert!(ours.verify_signature(&SigningAlgorithm(Algorithm::EdDSA), b"message", &signature).is_err());
    assert!(VerificationKey::new_symmetric(vec![1; 32]).verify_signature(&algorithm, b"message", &signature).is_err());
    let theirs: CoreJsonWebKey = serde_json::from_value(jwk).unwrap();
    let refused = theirs.verify_signature(&CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256, b"message", &signature);
    assert!(refused.is_err(), "the crate's own key type reads this key now: choose another one");
}

fn digest(algorithm: &'static aws_lc_rs::digest::Algorithm, text: &str, length: usize) -> String {
    let digest = aws_lc_rs::digest::digest(algorithm, text.as_bytes());
    URL_SAFE_NO_PAD.encode(&digest.as_ref()[..length])
}
