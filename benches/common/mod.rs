//! A gate's configuration on disk, with an issuer whose key is made here.

use std::{fs, path::PathBuf, process};

use aws_lc_rs::{
    rand::SystemRandom,
    rsa::KeySize,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};

/// A folder of its own, removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wicketgate-bench-{name}-{}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// An issuer: its JWKS, and tokens.
pub(crate) struct Issuer {
    key: Key,
}

enum Key {
    Ec(EcdsaKeyPair),
    Rsa(Box<RsaKeyPair>),
}

impl Issuer {
    /// One that signs with ES256.
    pub(crate) fn new() -> Self {
        Self { key: Key::Ec(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()) }
    }

    /// One that signs with RS256 and 2048 bits.
    pub(crate) fn rs256() -> Self {
        Self { key: Key::Rsa(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())) }
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match &self.key {
            Key::Ec(_) => "ES256",
            Key::Rsa(_) => "RS256",
        }
    }

    pub(crate) fn jwks(&self) -> String {
        let material = match &self.key {
            Key::Ec(key) => {
                // an uncompressed point: 04, x, y
                let point = key.public_key().as_ref();
                let x = B64.encode(&point[1..33]);
                let y = B64.encode(&point[33..65]);
                format!(r#""kty":"EC","crv":"P-256","x":"{x}","y":"{y}""#)
            }
            Key::Rsa(key) => {
                let n = B64.encode(key.public_key().modulus().big_endian_without_leading_zero());
                let e = B64.encode(key.public_key().exponent().big_endian_without_leading_zero());
                format!(r#""kty":"RSA","n":"{n}","e":"{e}""#)
            }
        };
        format!(r#"{{"keys":[{{{material},"use":"sig","alg":"{}","kid":"k"}}]}}"#, self.algorithm())
    }

    /// About what a real identity provider puts in an access token.
    pub(crate) fn token(&self, subject: &str, role: &str) -> String {
        let now = wicketgate::internals::clock::now().as_second();
        let header = B64.encode(format!(r#"{{"alg":"{}","typ":"at+jwt","kid":"k"}}"#, self.algorithm()));
        let claims = format!(
            r#"{{"iss":"https://idp.test","aud":"bench","sub":"{subject}","iat":{now},"nbf":{now},"exp":{},"jti":"6f1c9a52-7e0b-4d0e-9f7d-0c3b1d6f2a11","azp":"grafana","scope":"openid profile email","preferred_username":"user","email":"user@example.test","name":"User","roles":["{role}","offline_access"]}}"#,
            now + 3600
        );
        let message = format!("{header}.{}", B64.encode(claims));
        let signature = self.sign(message.as_bytes());
        format!("{message}.{}", B64.encode(signature))
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.key {
            Key::Ec(key) => key.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Key::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
        }
    }
}

/// Writes a configuration with one exporter; returns its file.
pub(crate) fn configure(folder: &Folder, issuer: &Issuer, upstream: &str) -> PathBuf {
    let at = |name: &str| folder.0.join(name);
    fs::write(at("jwks.json"), issuer.jwks()).unwrap();
    fs::create_dir_all(at("policies")).unwrap();
    for (name, text) in [
        ("roles.toml", include_str!("../../policies/roles.toml")),
        ("wicketgate.cedar", include_str!("../../policies/wicketgate.cedar")),
        ("wicketgate.cedarschema", include_str!("../../policies/wicketgate.cedarschema")),
    ] {
        fs::write(at("policies").join(name), text).unwrap();
    }
    let config = format!(
        "[gate]\nworkers = 1\n[[listen]]\naddress = \"127.0.0.1:0\"\ntls = false\n[admin]\naddress = \"127.0.0.1:0\"\n\
         [audit]\nfile = \"audit.jsonl\"\n[[issuer]]\nname = \"bench\"\nissuer = \"https://idp.test\"\naudiences = [\"bench\"]\n\
         jwks_file = \"jwks.json\"\n[[exporter]]\nname = \"bench\"\nurl = \"http://{upstream}\"\n"
    );
    fs::write(at("wicketgate.toml"), config).unwrap();
    at("wicketgate.toml")
}
