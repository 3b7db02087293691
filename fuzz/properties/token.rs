//! What holds for every token, whatever its bytes: nothing panics, nothing unsigned is believed, and what is believed
//! keeps every rule, as a reader of its own finds it.
//!
//! An input is a header, a payload and a signature, each on a line of its own; without a third line the token is
//! signed, so that the fuzzer comes past the signature. The bytes as they stand are tried as a token too.

use std::{sync::LazyLock, time::Duration};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;
use wicketgate::internals::{
    Algorithm,
    clock::Timestamp,
    jwt::{Rules, TokenError, Unverified, Verified},
    keys::{Key, parse_jwks},
};

/// When everything here happens.
const NOW: i64 = 1_800_000_000;
const LEEWAY: i64 = 60;

struct Issuer {
    pair: Ed25519KeyPair,
    key: Key,
    rules: Rules,
}

static ISSUER: LazyLock<Issuer> = LazyLock::new(|| {
    let pair = Ed25519KeyPair::generate().unwrap();
    let x = URL_SAFE_NO_PAD.encode(pair.public_key());
    let jwks = serde_json::json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": x}]});
    let key = parse_jwks(jwks.to_string().as_bytes()).unwrap().remove(0);
    let rules = Rules {
        issuer: "https://idp.test".into(),
        audiences: vec!["wicketgate".into()],
        algorithms: vec![Algorithm::EdDSA],
        leeway: Duration::from_secs(60),
        ..Rules::default()
    };
    Issuer { pair, key, rules }
});

/// Holds one input to the rules.
pub(super) fn check(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        assert!(verify(text).is_err(), "an unsigned token is accepted: {text}");
    }
    let mut lines = bytes.splitn(3, |b| *b == b'\n');
    let encode = |part: Option<&[u8]>| URL_SAFE_NO_PAD.encode(part.unwrap_or_default());
    let message = format!("{}.{}", encode(lines.next()), encode(lines.next()));
    if let Some(signature) = lines.next() {
        let token = format!("{message}.{}", encode(Some(signature)));
        assert!(verify(&token).is_err(), "an unsigned token is accepted: {token}");
        return;
    }
    let token = format!("{message}.{}", encode(Some(ISSUER.pair.sign(message.as_bytes()).as_ref())));
    if let Ok(verified) = verify(&token) {
        holds(&verified);
    }
}

fn verify(token: &str) -> Result<Verified, TokenError> {
    Unverified::parse(token)?.verify(&ISSUER.key, &ISSUER.rules, Timestamp::from_second(NOW).unwrap())
}

/// Reads the claims again, with a reader that knows nothing of the first.
fn holds(verified: &Verified) {
    let claims: Value = serde_json::from_str(&verified.claims).unwrap();
    assert_eq!(claims["iss"], "https://idp.test");
    assert_eq!(claims["sub"], *verified.subject);
    assert!(!verified.subject.is_empty() && !verified.subject.chars().any(char::is_control), "{claims}");
    let is_ours = |aud: &Value| aud == "wicketgate";
    assert!(is_ours(&claims["aud"]) || claims["aud"].as_array().is_some_and(|all| all.iter().any(is_ours)), "{claims}");
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let now = NOW as f64;
    let leeway = LEEWAY as f64;
    assert!(claims["exp"].as_f64().is_some_and(|exp| exp + leeway > now), "{claims}");
    for name in ["nbf", "iat"] {
        // to the second, as dates are compared
        assert!(claims.get(name).is_none_or(|at| at.as_f64().unwrap().floor() <= now + leeway), "{claims}");
    }
}
