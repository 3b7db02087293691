//! Builder of JWTs: valid by default, and invalid in any way that a test needs.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, crypto};
use serde_json::{Map, Value, json};

use super::keys::KeyRing;
use crate::{
    clock,
    demo::{error::DemoError, random::random_text},
};

/// The lifetime of a token, unless [`Token::lifetime`] sets another.
pub(crate) const LIFETIME: Duration = Duration::from_secs(60 * 60);

/// A JWT that is not signed yet. [`Token::mint`] signs it.
#[derive(Clone)]
pub struct Token {
    keys: KeyRing,
    header: Map<String, Value>,
    claims: Map<String, Value>,
    signature_kind: Signature,
}

#[derive(Clone)]
enum Signature {
    /// The newest published key of this algorithm.
    Newest(Algorithm),
    /// A key by its `kid`, withdrawn or not.
    Key(String),
    /// HS256 with these bytes.
    Hmac(Vec<u8>),
    /// An empty signature.
    Unsigned,
}

impl Token {
    pub(crate) fn new(keys: KeyRing, issuer: &str, subject: &str, audience: &str) -> Self {
        let now = clock::now().as_second();
        let Value::Object(claims) = json!({
            "iss": issuer, "sub": subject, "aud": audience,
            "iat": now, "nbf": now, "exp": now.saturating_add_unsigned(LIFETIME.as_secs()),
        }) else {
            return Self { keys, header: Map::new(), claims: Map::new(), signature_kind: Signature::Unsigned };
        };
        let header = Map::from_iter([("typ".to_owned(), json!("at+jwt"))]);
        Self { keys, header, claims, signature_kind: Signature::Newest(Algorithm::RS256) }
    }

    /// Sets the `roles` claim.
    #[must_use]
    pub fn roles(self, roles: &[&str]) -> Self {
        self.claim("roles", roles)
    }

    /// Sets `aud`.
    #[must_use]
    pub fn audience(self, audience: &str) -> Self {
        self.claim("aud", audience)
    }

    /// Sets `exp` to this long after `iat`.
    #[must_use]
    pub fn lifetime(self, lifetime: Duration) -> Self {
        let issued = self.claims.get("iat").and_then(Value::as_i64).unwrap_or_default();
        self.claim("exp", issued.saturating_add_unsigned(lifetime.as_secs()))
    }

    /// Moves `iat`, `nbf` and `exp` this many seconds into the past.
    #[must_use]
    pub fn aged(mut self, seconds: i64) -> Self {
        for name in ["iat", "nbf", "exp"] {
            if let Some(Value::Number(at)) = self.claims.get_mut(name) {
                *at = at.as_i64().unwrap_or_default().saturating_sub(seconds).into();
            }
        }
        self
    }

    /// Sets any claim.
    #[must_use]
    pub fn claim(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.claims.insert(name.to_owned(), value.into());
        self
    }

    /// Leaves a claim out.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.claims.remove(name);
        self
    }

    /// Sets any header field; `alg` and `kid` set here win over the key's own.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.header.insert(name.to_owned(), value.into());
        self
    }

    /// Signs with the newest key of this algorithm; RS256 unless called.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.signature_kind = Signature::Newest(algorithm);
        self
    }

    /// Signs with this key, even a withdrawn one.
    #[must_use]
    pub fn key(mut self, kid: &str) -> Self {
        self.signature_kind = Signature::Key(kid.to_owned());
        self
    }

    /// Signs HS256 with these bytes, such as the issuer's public key.
    #[must_use]
    pub fn hmac(mut self, secret: impl Into<Vec<u8>>) -> Self {
        self.signature_kind = Signature::Hmac(secret.into());
        self
    }

    /// `alg: none` and no signature.
    #[must_use]
    pub fn unsigned(mut self) -> Self {
        self.signature_kind = Signature::Unsigned;
        self
    }

    /// Signs it, with a fresh `jti`. The compact form.
    ///
    /// # Errors
    /// When the issuer has no such key.
    pub fn mint(mut self) -> Result<String, DemoError> {
        if !self.claims.contains_key("jti") {
            self.claims.insert("jti".to_owned(), random_text(9)?.into());
        }
        let key = match &self.signature_kind {
            Signature::Newest(algorithm) => {
                self.keys.newest(*algorithm).ok_or_else(|| format!("{algorithm:?}")).map(Some)
            }
            Signature::Key(kid) => self.keys.by_id(kid).ok_or_else(|| kid.clone()).map(Some),
            Signature::Hmac(_) | Signature::Unsigned => Ok(None),
        };
        let key = key.map_err(DemoError::NoKey)?;
        let (algorithm, private) = match (&key, &self.signature_kind) {
            (Some(key), _) => (Some(key.algorithm), Some(&key.private)),
            (None, Signature::Hmac(secret)) => (Some(Algorithm::HS256), Some(&EncodingKey::from_secret(secret))),
            (None, _) => (None, None),
        };
        let name = algorithm.map_or_else(|| "none".to_owned(), |algorithm| format!("{algorithm:?}"));
        self.header.entry("alg").or_insert(name.into());
        if let Some(key) = &key {
            self.header.entry("kid").or_insert(key.kid.clone().into());
        }
        let part = |fields: &Map<String, Value>| URL_SAFE_NO_PAD.encode(Value::Object(fields.clone()).to_string());
        let signed = format!("{}.{}", part(&self.header), part(&self.claims));
        let signature = match algorithm.zip(private) {
            Some((algorithm, private)) => crypto::sign(signed.as_bytes(), private, algorithm)?,
            None => String::new(),
        };
        Ok(format!("{signed}.{signature}"))
    }
}
