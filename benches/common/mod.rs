//! A gate's configuration on disk, with an issuer whose key is made here.

use std::{fs, path::PathBuf, process};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
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
    key: EcdsaKeyPair,
}

impl Issuer {
    pub(crate) fn new() -> Self {
        Self { key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap() }
    }

    pub(crate) fn jwks(&self) -> String {
        // an uncompressed point: 04, x, y
        let point = self.key.public_key().as_ref();
        let (x, y) = (B64.encode(&point[1..33]), B64.encode(&point[33..65]));
        format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","use":"sig","alg":"ES256","kid":"k","x":"{x}","y":"{y}"}}]}}"#)
    }

    /// About what a real identity provider puts in an access token.
    pub(crate) fn token(&self, subject: &str, role: &str) -> String {
        let now = wicketgate::clock::now().as_second();
        let header = B64.encode(r#"{"alg":"ES256","typ":"at+jwt","kid":"k"}"#);
        let claims = format!(
            r#"{{"iss":"https://idp.test","aud":"bench","sub":"{subject}","iat":{now},"nbf":{now},"exp":{},"jti":"6f1c9a52-7e0b-4d0e-9f7d-0c3b1d6f2a11","azp":"grafana","scope":"openid profile email","preferred_username":"user","email":"user@example.test","name":"User","roles":["{role}","offline_access"]}}"#,
            now + 3600
        );
        let message = format!("{header}.{}", B64.encode(claims));
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", B64.encode(signature.as_ref()))
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
