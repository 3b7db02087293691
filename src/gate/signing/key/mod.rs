//! One ES256 signing key and its PEM file.
//!
//! Promises: the file is PKCS#8 in PEM, 0600, and named by time and thumbprint, so that the rotation plan needs only file
//! names. A file whose name does not match its key is refused. Never: a key in a log, an error or a `Debug`.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use aws_lc_rs::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use zeroize::Zeroizing;

use super::plan::KeyName;
use crate::clock::Timestamp;

const BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const END: &str = "-----END PRIVATE KEY-----";
/// The format of the creation time in a file's name.
const TIME: &str = "%Y%m%dT%H%M%SZ";
/// A P-256 key in PEM has 241 bytes.
const MAX_FILE: u64 = 4096;

/// The reason why a key cannot be used. Contains no part of it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum KeyError {
    #[error("cannot read or write `{path}`", path = .0.display())]
    File(PathBuf, #[source] std::io::Error),
    #[error("`{path}` is accessible to all users; make it 0600", path = .0.display())]
    WorldAccessible(PathBuf),
    #[error("`{path}` is not a P-256 key in PKCS#8 PEM", path = .0.display())]
    Malformed(PathBuf),
    #[error("the key in `{path}` does not match the file's name", path = .0.display())]
    Misnamed(PathBuf),
    #[error("the cryptography library cannot generate or use a key")]
    Library,
}

/// A key that can sign.
pub(super) struct SigningKey {
    pair: EcdsaKeyPair,
    pub(super) kid: String,
    x: String,
    y: String,
}

impl SigningKey {
    fn new(pair: EcdsaKeyPair) -> Option<Self> {
        // an uncompressed point: 4, x, y (SEC 1 section 2.3.3)
        let (x, y) = pair.public_key().as_ref().strip_prefix(&[4])?.split_at_checked(32)?;
        let [x, y] = [x, y].map(|coordinate| URL_SAFE_NO_PAD.encode(coordinate));
        // RFC 7638 section 3.2: the required members alone, in lexicographic order, without white space
        let thumbprint = digest(&SHA256, format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#).as_bytes());
        Some(Self { pair, kid: URL_SAFE_NO_PAD.encode(thumbprint), x, y })
    }

    /// Generates a key and writes its file. Two gates that do so at the same time generate two keys.
    pub(super) fn generate(directory: &Path, now: Timestamp) -> Result<KeyName, KeyError> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| KeyError::Library)?;
        let der = pair.to_pkcs8v1().map_err(|_| KeyError::Library)?;
        let body = Zeroizing::new(STANDARD.encode(der.as_ref()));
        let key = Self::new(pair).ok_or(KeyError::Library)?;
        let name = KeyName { created: Timestamp::from_second(now.as_second()).unwrap_or(now), kid: key.kid };
        let path = directory.join(file_name(&name));
        // complete under a temporary name before it gets the name that the gates read
        let temporary = directory.join(format!(".{}", file_name(&name)));
        let write = || -> std::io::Result<()> {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            let text = Zeroizing::new(format!("{BEGIN}\n{}\n{END}\n", wrapped(&body).as_str()));
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            // unlike a rename, this fails if the name exists
            std::fs::hard_link(&temporary, &path)?;
            std::fs::remove_file(&temporary)?;
            File::open(directory)?.sync_all()
        };
        write().map_err(|e| {
            let _ = std::fs::remove_file(&temporary);
            KeyError::File(path.clone(), e)
        })?;
        Ok(name)
    }

    /// Reads the key of this name.
    pub(super) fn read(directory: &Path, name: &KeyName) -> Result<Self, KeyError> {
        let path = directory.join(file_name(name));
        let failed = |e| KeyError::File(path.clone(), e);
        let file = File::open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.permissions().mode() & 0o007 != 0 {
            return Err(KeyError::WorldAccessible(path));
        }
        let mut text = Zeroizing::new(String::new());
        file.take(MAX_FILE).read_to_string(&mut text).map_err(failed)?;
        let der = unwrapped(&text).ok_or_else(|| KeyError::Malformed(path.clone()))?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der);
        let key = pair.ok().and_then(Self::new).ok_or_else(|| KeyError::Malformed(path.clone()))?;
        if key.kid == name.kid { Ok(key) } else { Err(KeyError::Misnamed(path)) }
    }

    /// The public half (RFC 7517, RFC 7518 section 6.2.1).
    pub(super) fn jwk(&self) -> serde_json::Value {
        serde_json::json!({
            "kty": "EC", "crv": "P-256", "x": self.x, "y": self.y, "kid": self.kid, "use": "sig", "alg": "ES256",
        })
    }

    /// A JWS in compact form (RFC 7515 section 7.1) of `claims`, which are JSON.
    pub(super) fn sign(&self, typ: &str, claims: &str) -> Result<String, KeyError> {
        let header = serde_json::json!({ "alg": "ES256", "typ": typ, "kid": self.kid }).to_string();
        let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        // RFC 7518 section 3.4: R and S as 32 octets each, as in the fixed encoding of ECDSA
        let signature = self.pair.sign(&SystemRandom::new(), token.as_bytes()).map_err(|_| KeyError::Library)?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

/// The names of all keys in the directory. Files with other names are ignored.
pub(super) fn names(directory: &Path) -> Result<Vec<KeyName>, KeyError> {
    let failed = |e| KeyError::File(directory.to_owned(), e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(failed)? {
        names.extend(entry.map_err(failed)?.file_name().to_str().and_then(parse_name));
    }
    Ok(names)
}

/// Removes a key's file, unless another gate removed it already.
pub(super) fn remove(directory: &Path, name: &KeyName) -> Result<(), KeyError> {
    let path = directory.join(file_name(name));
    match std::fs::remove_file(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(KeyError::File(path, e)),
        _ => Ok(()),
    }
}

fn file_name(name: &KeyName) -> String {
    format!("{}-{}.pem", name.created.strftime(TIME), name.kid)
}

fn parse_name(file: &str) -> Option<KeyName> {
    // the thumbprint may contain `-`, the time does not
    let (time, kid) = file.strip_suffix(".pem")?.split_once('-')?;
    let created = jiff::civil::DateTime::strptime(TIME, time).ok()?.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp();
    let is_thumbprint = kid.len() == 43 && kid.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    is_thumbprint.then(|| KeyName { created, kid: kid.to_owned() })
}

/// Base64 in lines of 64 characters (RFC 7468 section 2).
fn wrapped(text: &str) -> Zeroizing<String> {
    let mut lines = Zeroizing::new(String::with_capacity(text.len() + text.len() / 64 + 1));
    for (at, c) in text.chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            lines.push('\n');
        }
        lines.push(c);
    }
    lines
}

fn unwrapped(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let inside = text.trim().strip_prefix(BEGIN)?.strip_suffix(END)?;
    let joined = Zeroizing::new(inside.split_ascii_whitespace().collect::<String>());
    STANDARD.decode(joined.as_bytes()).ok().map(Zeroizing::new)
}

#[cfg(test)]
mod tests;
