//! An identity provider whose tokens a test can corrupt.
//!
//! It signs with aws-lc-rs directly, not with the library that the gate verifies with.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use aws_lc_rs::{
    encoding::AsDer,
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use http::StatusCode;
use serde_json::{Value, json};
use wicketgate::internals::clock;

use super::upstream::{self, Upstream};

enum Signer {
    Rsa(Box<RsaKeyPair>),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

/// A signing key and what the issuer publishes of it.
pub(crate) struct Key {
    pub(crate) kid: String,
    pub(crate) jwk: Value,
    signer: Signer,
}

impl Key {
    pub(crate) fn rsa(kid: &str) -> Self {
        Self::of_rsa(kid, RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    /// RSA of 5120 bits: more than the `rsa` crate reads.
    pub(crate) fn rsa_5120(kid: &str) -> Self {
        Self::of_rsa(kid, RsaKeyPair::from_pkcs8(include_bytes!("rsa-5120.pk8")).unwrap())
    }

    fn of_rsa(kid: &str, pair: RsaKeyPair) -> Self {
        let n = pair.public_key().modulus().big_endian_without_leading_zero().to_vec();
        let e = pair.public_key().exponent().big_endian_without_leading_zero().to_vec();
        let jwk = json!({"kty": "RSA", "use": "sig", "kid": kid, "n": text(n), "e": text(e)});
        Self { kid: kid.into(), jwk, signer: Signer::Rsa(Box::new(pair)) }
    }

    pub(crate) fn ec(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        // an uncompressed point: 4, x, y
        let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
        let jwk = json!({"kty": "EC", "use": "sig", "crv": "P-256", "kid": kid, "x": text(x), "y": text(y)});
        Self { kid: kid.into(), jwk, signer: Signer::Ec(pair) }
    }

    pub(crate) fn ed(kid: &str) -> Self {
        let pair = Ed25519KeyPair::generate().unwrap();
        let jwk = json!({"kty": "OKP", "use": "sig", "crv": "Ed25519", "kid": kid, "x": text(pair.public_key())});
        Self { kid: kid.into(), jwk, signer: Signer::Ed(pair) }
    }

    /// P-384; it signs ES384 whatever the header says.
    pub(crate) fn ec384(kid: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&signature::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
        let (x, y) = pair.public_key().as_ref()[1..].split_at(48);
        let jwk = json!({"kty": "EC", "use": "sig", "crv": "P-384", "kid": kid, "x": text(x), "y": text(y)});
        Self { kid: kid.into(), jwk, signer: Signer::Ec(pair) }
    }

    /// The same key, published with this member changed.
    pub(crate) fn published_with(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.jwk, name, value.into());
        self
    }

    /// A token of exactly these bytes for header and payload, signed.
    pub(crate) fn token_of(&self, algorithm: &str, header: impl AsRef<[u8]>, payload: impl AsRef<[u8]>) -> String {
        let message = format!("{}.{}", text(header), text(payload));
        let made = self.sign(algorithm, message.as_bytes());
        format!("{message}.{}", text(made))
    }

    pub(crate) fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.signer {
            Signer::Rsa(pair) => {
                let padding: &dyn signature::RsaEncoding =
                    if algorithm == "PS256" { &signature::RSA_PSS_SHA256 } else { &signature::RSA_PKCS1_SHA256 };
                let mut made = vec![0; pair.public_modulus_len()];
                pair.sign(padding, &random, message, &mut made).unwrap();
                made
            }
            Signer::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    /// The public half in PEM, as a confused verifier would take it for an HMAC secret.
    pub(crate) fn public_pem(&self) -> String {
        let Signer::Rsa(pair) = &self.signer else { panic!("only the RSA key is asked for its PEM") };
        let der = STANDARD.encode(pair.public_key().as_der().unwrap().as_ref());
        let lines: Vec<&str> = der.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }
}

/// The issuer: discovery and key set on a loopback port, and keys in hand. It publishes `rsa`, `ec` and `ed`.
pub(crate) struct Issuer {
    pub(crate) server: Upstream,
    pub(crate) keys: Vec<Key>,
    published: Arc<Mutex<Value>>,
    down: Arc<AtomicBool>,
}

impl Issuer {
    pub(crate) async fn start() -> Self {
        let keys = vec![Key::rsa("rsa"), Key::ec("ec"), Key::ed("ed")];
        let published = Arc::new(Mutex::new(key_set(&keys)));
        let down = Arc::new(AtomicBool::new(false));
        let server = Upstream::start(|_| upstream::reply(StatusCode::SERVICE_UNAVAILABLE, "text/plain", "")).await;
        let at = server.url();
        let keys_now = Arc::clone(&published);
        let is_down = Arc::clone(&down);
        server.answer(move |seen| match seen.target.as_str() {
            _ if is_down.load(Ordering::SeqCst) => upstream::reply(StatusCode::BAD_GATEWAY, "text/plain", "down"),
            "/.well-known/openid-configuration" => upstream::json(&json!({
                "issuer": at, "jwks_uri": format!("{at}/jwks"), "token_endpoint": format!("{at}/token"),
                "authorization_endpoint": format!("{at}/auth"), "response_types_supported": ["code"],
                "subject_types_supported": ["public"], "id_token_signing_alg_values_supported": ["RS256"],
            })),
            "/jwks" => upstream::json(&keys_now.lock().unwrap()),
            _ => upstream::reply(StatusCode::NOT_FOUND, "text/plain", "no such page"),
        });
        Self { server, keys, published, down }
    }

    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    pub(crate) fn key(&self, kid: &str) -> &Key {
        self.keys.iter().find(|key| key.kid == kid).unwrap()
    }

    /// Answers every request with 502 while `down`.
    pub(crate) fn set_down(&self, down: bool) {
        self.down.store(down, Ordering::SeqCst);
    }

    /// Publishes this text, whatever it is.
    pub(crate) fn publish_jwks(&self, jwks: Value) {
        *self.published.lock().unwrap() = jwks;
    }

    /// Publishes these keys and no others.
    pub(crate) fn publish(&self, keys: &[&Key]) {
        *self.published.lock().unwrap() = key_set(keys.iter().copied());
    }

    /// A good token of a caller `subject` with these roles, to be minted or bent first.
    pub(crate) fn token(&self, subject: &str, roles: &[&str]) -> Token<'_> {
        let now = clock::now().as_second();
        Token {
            key: self.key("rsa"),
            header: json!({"alg": "RS256", "typ": "at+jwt", "kid": "rsa"}),
            claims: json!({
                "iss": self.url(), "aud": "wicketgate", "sub": subject, "roles": roles,
                "iat": now, "nbf": now, "exp": now + 600, "jti": uuid::Uuid::now_v7().to_string(),
            }),
        }
    }
}

fn key_set<'a>(keys: impl IntoIterator<Item = &'a Key>) -> Value {
    json!({"keys": keys.into_iter().map(|key| &key.jwk).collect::<Vec<_>>()})
}

/// A token before it is signed.
pub(crate) struct Token<'a> {
    key: &'a Key,
    header: Value,
    claims: Value,
}

impl<'a> Token<'a> {
    /// Sets a claim; `null` takes it away.
    pub(crate) fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.claims, name, value.into());
        self
    }

    /// Sets a header parameter; `null` takes it away.
    pub(crate) fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.header, name, value.into());
        self
    }

    /// Signs with this key and algorithm instead, and says so in the header.
    pub(crate) fn signed_by(mut self, key: &'a Key, algorithm: &str) -> Self {
        self.key = key;
        self.header("alg", algorithm).header("kid", key.kid.clone())
    }

    pub(crate) fn mint(self) -> String {
        let algorithm = self.header["alg"].as_str().unwrap_or_default().to_owned();
        let message = self.message();
        let made = self.key.sign(&algorithm, message.as_bytes());
        format!("{message}.{}", text(made))
    }

    /// `alg: none` and an empty signature.
    pub(crate) fn mint_unsigned(self) -> String {
        format!("{}.", self.header("alg", "none").message())
    }

    /// `alg: HS256`, with `secret` as the key.
    pub(crate) fn mint_hs256(self, secret: &[u8]) -> String {
        let message = self.header("alg", "HS256").message();
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", text(tag))
    }

    /// Header and claims as JSON.
    pub(crate) fn parts(&self) -> (String, String) {
        (self.header.to_string(), self.claims.to_string())
    }

    fn message(&self) -> String {
        format!("{}.{}", text(self.header.to_string()), text(self.claims.to_string()))
    }
}

pub(crate) fn set(object: &mut Value, name: &str, value: Value) {
    let object = object.as_object_mut().unwrap();
    if value.is_null() {
        object.remove(name);
    } else {
        object.insert(name.into(), value);
    }
}

/// In base64url, as JOSE writes it.
pub(crate) fn text(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
