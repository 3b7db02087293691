//! DPoP of a client: a key, tokens bound to it, and proofs that a test can corrupt.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use wicketgate::internals::clock;

use super::{
    Gate,
    issuer::{Key, set, text},
};

/// The URL that the gate of these tests says that it has.
pub(crate) const URL: &str = "https://gate.example";

/// A client's key.
pub(crate) struct Prover {
    pub(crate) key: Key,
    algorithm: &'static str,
}

/// A proof before it is signed.
pub(crate) struct Proof<'a> {
    prover: &'a Prover,
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

impl Prover {
    pub(crate) fn ec() -> Self {
        Self { key: Key::ec("client"), algorithm: "ES256" }
    }

    pub(crate) fn rsa() -> Self {
        Self { key: Key::rsa("client"), algorithm: "PS256" }
    }

    pub(crate) fn ed() -> Self {
        Self { key: Key::ed("client"), algorithm: "EdDSA" }
    }

    /// The key's RFC 7638 thumbprint.
    pub(crate) fn thumbprint(&self) -> String {
        let members = match self.algorithm {
            "ES256" => &["crv", "kty", "x", "y"][..],
            "EdDSA" => &["crv", "kty", "x"],
            _ => &["e", "kty", "n"],
        };
        let pairs: Vec<String> = members.iter().map(|name| format!("\"{name}\":{}", self.key.jwk[name])).collect();
        URL_SAFE_NO_PAD.encode(digest(&SHA256, format!("{{{}}}", pairs.join(",")).as_bytes()))
    }

    /// A good token with this role that is bound to the key.
    pub(crate) fn token(&self, gate: &Gate, role: &str) -> String {
        gate.token_builder(role).claim("cnf", json!({"jkt": self.thumbprint()})).mint()
    }

    /// A good proof for GET of `path` with `token`.
    pub(crate) fn proof(&self, path: &str, token: &str) -> Proof<'_> {
        Proof {
            prover: self,
            header: json!({"typ": "dpop+jwt", "alg": self.algorithm, "jwk": self.key.jwk}),
            claims: json!({
                "jti": uuid::Uuid::now_v7().to_string(), "htm": "GET", "htu": format!("{URL}{path}"),
                "iat": clock::now().as_second(), "ath": text(digest(&SHA256, token.as_bytes())),
            }),
        }
    }
}

impl Proof<'_> {
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

    /// Sets a member of the key; `null` takes it away.
    pub(crate) fn jwk(mut self, name: &str, value: impl Into<Value>) -> Self {
        set(&mut self.header["jwk"], name, value.into());
        self
    }

    pub(crate) fn sign(&self) -> String {
        self.sign_by(&self.prover.key)
    }

    pub(crate) fn sign_by(&self, key: &Key) -> String {
        let message = format!("{}.{}", text(self.header.to_string()), text(self.claims.to_string()));
        let made = key.sign(self.prover.algorithm, message.as_bytes());
        format!("{message}.{}", text(made))
    }
}
