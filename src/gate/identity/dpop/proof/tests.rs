//! Valid proofs, and proofs with one changed part.

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair},
};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const TOKEN: &str = "header.claims.signature";
const NOW: i64 = 1_800_000_000;

enum Signer {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// An unsigned proof.
struct ProofBuilder {
    signer: Signer,
    header: Value,
    claims: Value,
    thumbprint: [u8; 32],
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ec() -> ProofBuilder {
    let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let [x, y] = [x, y].map(text);
    let thumbprint = sha256(&format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#));
    let jwk = json!({"kty": "EC", "crv": "P-256", "x": x, "y": y});
    builder(Signer::Ec(pair), "ES256", jwk, thumbprint)
}

fn ed() -> ProofBuilder {
    let pair = Ed25519KeyPair::generate().unwrap();
    let x = text(pair.public_key());
    let thumbprint = sha256(&format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
    builder(Signer::Ed(pair), "EdDSA", jwk, thumbprint)
}

fn builder(signer: Signer, algorithm: &str, jwk: Value, thumbprint: [u8; 32]) -> ProofBuilder {
    let header = json!({"typ": "dpop+jwt", "alg": algorithm, "jwk": jwk});
    let claims = json!({
        "jti": "one", "htm": "GET", "htu": "https://gate.example/exporters/app/metrics", "iat": NOW,
        "ath": text(sha256(TOKEN)),
    });
    ProofBuilder { signer, header, claims, thumbprint }
}

fn set(object: &mut Value, name: &str, value: Value) {
    let object = object.as_object_mut().unwrap();
    match value {
        Value::Null => drop(object.remove(name)),
        value => drop(object.insert(name.into(), value)),
    }
}

impl ProofBuilder {
    /// Sets a claim; `null` removes it.
    fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.claims, name, value.into());
        self
    }

    fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.header, name, value.into());
        self
    }

    fn jwk(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.header["jwk"], name, value.into());
        self
    }

    fn sign(&self) -> String {
        self.sign_text(&self.header.to_string(), &self.claims.to_string())
    }

    fn sign_text(&self, header: &str, claims: &str) -> String {
        let message = format!("{}.{}", text(header), text(claims));
        let signed = match &self.signer {
            Signer::Ec(pair) => pair.sign(&SystemRandom::new(), message.as_bytes()).unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(message.as_bytes()).as_ref().to_vec(),
        };
        format!("{message}.{}", text(signed))
    }
}

fn found(proof: &str, key: [u8; 32]) -> Result<(), ProofError> {
    let url = normalize_url("https://gate.example/exporters/app/metrics").unwrap();
    let max_age = Duration::from_secs(60);
    let now = Timestamp::from_second(NOW).unwrap();
    verify(proof, &ExpectedProof { method: "GET", url: &url, token: Some(TOKEN), key, max_age, now }).map(drop)
}

fn check(builder: ProofBuilder, expected: Result<(), ProofError>) {
    assert_eq!(found(&builder.sign(), builder.thumbprint), expected, "{} {}", builder.header, builder.claims);
}

#[test]
fn a_valid_proof_is_accepted() {
    check(ec(), Ok(()));
    check(ed(), Ok(()));
    check(ec().header("typ", "DPoP+JWT").header("kid", "mine").jwk("use", "sig").jwk("kid", "mine"), Ok(()));
    check(ec().claim("nonce", "n").claim("other", json!({"a": 1})), Ok(()));
    for second in [-59, -1, 1, 10] {
        check(ec().claim("iat", NOW + second), Ok(()));
    }
    check(ec().claim("iat", 1_800_000_000.5), Ok(()));
    for url in [
        "https://gate.example/exporters/app/metrics?a=b#c",
        "HTTPS://GATE.example:443/exporters/app/metrics",
        "https://gate.example/exporters/./x/../app/metrics",
        "https://gate.example/exporters/%61pp/metrics",
    ] {
        check(ec().claim("htu", url), Ok(()));
    }
}

#[test]
fn an_invalid_header_is_refused() {
    for typ in [json!("jwt"), json!("at+jwt"), json!("application/dpop+jwt"), json!(""), Value::Null] {
        check(ec().header("typ", typ), Err(ProofError::Type));
    }
    for algorithm in ["none", "None", "nOnE", "HS256", "ES512", "es256", "RS1", "", "ES256K"] {
        check(ec().header("alg", algorithm), Err(ProofError::Algorithm));
    }
    check(ec().header("alg", Value::Null), Err(ProofError::Algorithm));
    for algorithm in ["ES384", "EdDSA", "RS256", "PS256"] {
        check(ec().header("alg", algorithm), Err(ProofError::Key));
    }
    check(ec().header("crit", json!(["b64"])).header("b64", false), Err(ProofError::Critical));
    check(ec().header("alg", 1), Err(ProofError::Malformed));
    check(ec().header("jwk", "text"), Err(ProofError::Malformed));
    check(ec().header("jwk", Value::Null), Err(ProofError::Key));
    check(ec().header("jwk", json!({})), Err(ProofError::Key));
    for elsewhere in ["jku", "x5u", "x5c"] {
        check(ec().header(elsewhere, "https://evil.example/keys"), Err(ProofError::Key));
    }
}

#[test]
fn an_invalid_key_is_refused() {
    for private in ["d", "p", "q", "dp", "dq", "qi", "oth", "k"] {
        check(ec().jwk(private, "AA"), Err(ProofError::Key));
        check(ed().jwk(private, json!(null)).jwk(private, 1), Err(ProofError::Key));
    }
    check(ec().jwk("kty", "oct"), Err(ProofError::Key));
    check(ec().jwk("crv", "P-384"), Err(ProofError::Key));
    check(ec().jwk("crv", "secp256k1"), Err(ProofError::Key));
    check(ec().jwk("y", Value::Null), Err(ProofError::Key));
    check(ec().jwk("x", text([1; 31])), Err(ProofError::Key));
    check(ec().jwk("x", text([0; 33])), Err(ProofError::Key));
    check(ec().jwk("x", 7), Err(ProofError::Malformed));
    // not on the curve
    check(ec().jwk("x", text([0; 32])).jwk("y", text([0; 32])), Err(ProofError::Signature));
    check(ed().jwk("crv", "X25519"), Err(ProofError::Key));
    let rsa = |n: &[u8], e: &[u8]| json!({"kty": "RSA", "n": text(n), "e": text(e)});
    for jwk in [
        rsa(&[0xff; 128], &[1, 0, 1]),
        rsa(&[0xff; 1024], &[1, 0, 1]),
        rsa(&[0xff; 256], &[0xff; 8]),
        rsa(&[0; 256], &[3]),
    ] {
        check(ec().header("alg", "RS256").header("jwk", jwk), Err(ProofError::Key));
    }
    check(ec().header("alg", "RS256").header("jwk", rsa(&[0xff; 256], &[1, 0, 1])), Err(ProofError::Signature));
}

#[test]
fn a_signature_by_another_key_or_over_other_bytes_is_refused() {
    let ours = ec();
    let theirs = ec();
    assert_eq!(found(&theirs.sign(), ours.thumbprint), Err(ProofError::OtherKey));
    let stolen = ProofBuilder { signer: theirs.signer, ..ec() };
    check(stolen, Err(ProofError::Signature));
    let proof = ours.sign();
    let (message, _) = proof.rsplit_once('.').unwrap();
    for signature in ["", "AA", &text([0; 64]), "!"] {
        let found = found(&format!("{message}.{signature}"), ours.thumbprint);
        assert_eq!(found, Err(ProofError::Signature), "{signature}");
    }
}

#[test]
fn a_malformed_jwt_is_refused() {
    let builder = ec();
    let good = builder.sign();
    for proof in
        ["", ".", "..", "a.b.c", &good.replace('.', ""), &format!("{good}."), &format!(".{good}"), &"a".repeat(5000)]
    {
        assert!(found(proof, builder.thumbprint).is_err(), "{proof}");
    }
    let jwk = &builder.header["jwk"];
    let twice = format!(r#"{{"typ":"dpop+jwt","alg":"none","alg":"ES256","jwk":{jwk}}}"#);
    assert_eq!(
        found(&builder.sign_text(&twice, &builder.claims.to_string()), builder.thumbprint),
        Err(ProofError::Malformed)
    );
    let claims = builder.claims.to_string().replace('}', r#","htm":"GET"}"#);
    assert_eq!(
        found(&builder.sign_text(&builder.header.to_string(), &claims), builder.thumbprint),
        Err(ProofError::Claims)
    );
    for claims in ["", "[]", "1", "null", "{"] {
        assert_eq!(
            found(&builder.sign_text(&builder.header.to_string(), claims), builder.thumbprint),
            Err(ProofError::Claims)
        );
    }
}

#[test]
fn invalid_claims_are_refused() {
    for name in ["jti", "htm", "htu", "iat", "ath"] {
        check(ec().claim(name, Value::Null), Err(ProofError::Claims));
        check(ec().claim(name, json!(["a"])), Err(ProofError::Claims));
    }
    check(ec().claim("jti", ""), Err(ProofError::Claims));
    check(ec().claim("jti", "a".repeat(257)), Err(ProofError::Claims));
    check(ec().claim("iat", "1800000000"), Err(ProofError::Claims));
    check(ec().claim("iat", -1), Err(ProofError::Claims));
    check(ec().claim("iat", 1e300), Err(ProofError::Claims));
    for method in ["POST", "get", "GET ", ""] {
        check(ec().claim("htm", method), Err(ProofError::Method));
    }
    for second in [-60, -61, -3600, 11, 3600] {
        check(ec().claim("iat", NOW + second), Err(ProofError::Time));
    }
    for hash in
        [text(sha256("another")), text(sha256("")), TOKEN.into(), String::new(), format!("{}=", text(sha256(TOKEN)))]
    {
        check(ec().claim("ath", hash), Err(ProofError::Token));
    }
}

#[test]
fn another_url_is_refused() {
    for url in [
        "",
        "/exporters/app/metrics",
        "gate.example/exporters/app/metrics",
        "http://gate.example/exporters/app/metrics",
        "https:/gate.example/exporters/app/metrics",
        "https:gate.example/exporters/app/metrics",
        "https:///exporters/app/metrics",
        "https://gate.example",
        "https://gate.example/",
        "https://gate.example/exporters/app/metrics/",
        "https://gate.example/exporters/APP/metrics",
        "https://gate.example/exporters//app/metrics",
        "https://gate.example/exporters%2Fapp/metrics",
        "https://gate.example/exporters/app/metrics%3f",
        "https://gate.example/exporters/app/metrics%",
        "https://gate.example/exporters/app/metrics%zz",
        "https://gate.example/exporters/app/metrics%+1",
        "https://gate.example:8443/exporters/app/metrics",
        "https://gate.example.evil/exporters/app/metrics",
        "https://evil@gate.example/exporters/app/metrics",
        "https://gate.example@evil/exporters/app/metrics",
        "https://gate.example\\exporters\\app\\metrics",
        "https://gate.example/exporters/app/met\trics",
        " https://gate.example/exporters/app/metrics",
        "https://gate.example/exporters/app/metrics\0",
        "https://gäte.example/exporters/app/metrics",
    ] {
        check(ec().claim("htu", url), Err(ProofError::Url));
    }
}

#[test]
fn the_proof_of_a_token_request_has_no_ath() {
    let builder = ec().claim("ath", Value::Null);
    let url = normalize_url("https://gate.example/exporters/app/metrics").unwrap();
    let max_age = Duration::from_secs(60);
    let now = Timestamp::from_second(NOW).unwrap();
    let expected = ExpectedProof { method: "GET", url: &url, token: None, key: builder.thumbprint, max_age, now };
    assert!(verify(&builder.sign(), &expected).is_ok());
    assert_eq!(
        verify(&builder.sign(), &ExpectedProof { token: Some(TOKEN), ..expected }).err(),
        Some(ProofError::Claims)
    );
}

#[test]
fn the_thumbprint_is_that_of_rfc_7638() {
    // RFC 7638 section 3.1
    let n = "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3\
             oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdA\
             ZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-\
             kEgU8awapJzKnqDKgw";
    let jwk = Jwk { kty: Some("RSA".into()), n: Some(n.into()), e: Some("AQAB".into()), ..Jwk::default() };
    let (thumbprint, _) = jwk.key(Algorithm::RS256).unwrap();
    assert_eq!(text(thumbprint), "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs");
}

proptest! {
    #[test]
    fn an_unsigned_proof_is_refused(proof in "[a-zA-Z0-9_-]{0,80}(\\.[a-zA-Z0-9_-]{0,80}){0,3}") {
        prop_assert!(found(&proof, [0; 32]).is_err());
    }

    #[test]
    fn normalization_is_idempotent(url in "(https://)?[!-~]{0,60}") {
        if let Some(once) = normalize_url(&url) {
            prop_assert_eq!(normalize_url(&once), Some(once));
        }
    }

    #[test]
    fn one_changed_byte_invalidates_a_proof(at in 0usize..400, to in "[a-zA-Z0-9_-]") {
        let builder = ec();
        let proof = builder.sign();
        let at = at % proof.len();
        // the last character of a part may have spare bits; those are refused as well
        let mut changed = proof.clone();
        changed.replace_range(at..=at, &to);
        prop_assert!(changed == proof || found(&changed, builder.thumbprint).is_err());
    }
}
