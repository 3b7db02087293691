//! Public keys of an issuer, parsed from its JWKS (RFC 7517).

use std::sync::atomic::{AtomicBool, Ordering};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use tokio_util::sync::CancellationToken;

/// A JWKS of more bytes than this is refused.
pub(crate) const MAX_JWKS_BYTES: usize = 1024 * 1024;
/// A JWKS of more keys than this is refused.
pub const MAX_JWKS_KEYS: usize = 100;
/// RSA keys below this are refused (RFC 7518 section 3.3).
const MIN_RSA_BYTES: usize = 256;

/// One public key. It can be withdrawn while tokens verified with it are still cached.
pub struct Key {
    kid: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
    /// Its JWK. The same JWK in the next JWKS is the same key.
    jwk: Jwk,
    usable: AtomicBool,
    withdrawn: CancellationToken,
}

/// The reason why a whole JWKS is refused.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// Not a JSON object with a list `keys`.
    #[error("not a JWKS: {0}")]
    Malformed(String),
    /// More than [`MAX_JWKS_KEYS`] keys.
    #[error("a JWKS of {0} keys; at most {MAX_JWKS_KEYS} are read")]
    TooMany(usize),
    /// No usable signature key.
    #[error("a JWKS without one usable signature key (RSA of 2048 bits or more, P-256, P-384 or Ed25519)")]
    NoKey,
}

/// Parses a JWKS (RFC 7517 section 5). Keys of other types or uses are skipped, as section 5 requires.
///
/// # Errors
/// If it is not a JWKS, has too many keys, or no usable one.
pub fn parse_jwks(text: &[u8]) -> Result<Vec<Key>, JwksError> {
    #[derive(serde::Deserialize)]
    struct Jwks {
        keys: Vec<serde_json::Value>,
    }
    let jwks: Jwks = serde_json::from_slice(text).map_err(|e| JwksError::Malformed(e.to_string()))?;
    if jwks.keys.len() > MAX_JWKS_KEYS {
        return Err(JwksError::TooMany(jwks.keys.len()));
    }
    let keys: Vec<Key> = jwks.keys.into_iter().filter_map(|k| Key::new(serde_json::from_value(k).ok()?)).collect();
    if keys.is_empty() { Err(JwksError::NoKey) } else { Ok(keys) }
}

impl Key {
    /// The key of a JWK; `None` if it is not a usable signature key.
    pub(super) fn new(jwk: Jwk) -> Option<Self> {
        if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature))
            || jwk.common.key_operations.as_ref().is_some_and(|ops| !ops.contains(&KeyOperations::Verify))
        {
            return None;
        }
        let mut algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(rsa) if rsa_bytes(&rsa.n)? >= MIN_RSA_BYTES => {
                use Algorithm::{PS256, PS384, PS512, RS256, RS384, RS512};
                vec![RS256, RS384, RS512, PS256, PS384, PS512]
            }
            // RFC 7518 sections 6.2.1.2 and 6.2.1.3: a coordinate has the length of its curve, leading zeros and all.
            // That the point is on the curve (RFC 8725 section 3.4) is checked with each signature
            AlgorithmParameters::EllipticCurve(ec) => match (&ec.curve, bytes(&ec.x)?.len(), bytes(&ec.y)?.len()) {
                (EllipticCurve::P256, 32, 32) => vec![Algorithm::ES256],
                (EllipticCurve::P384, 48, 48) => vec![Algorithm::ES384],
                _ => return None,
            },
            AlgorithmParameters::OctetKeyPair(okp)
                if okp.curve == EllipticCurve::Ed25519 && bytes(&okp.x)?.len() == 32 =>
            {
                vec![Algorithm::EdDSA]
            }
            _ => return None,
        };
        if let Some(only) = jwk.common.key_algorithm {
            algorithms.retain(|a| format!("{a:?}") == only.to_string());
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        let kid = jwk.common.key_id.clone();
        (!algorithms.is_empty()).then(|| Self {
            kid,
            algorithms,
            decoding,
            jwk,
            usable: AtomicBool::new(true),
            withdrawn: CancellationToken::new(),
        })
    }

    /// Whether it may verify a token of this algorithm (RFC 8725 section 3.1: a key has its algorithms, not the token).
    #[must_use]
    pub fn supports(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether `signature` (base64url) of `message` is this key's: the one place that verifies a signature of a JWT.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message, &self.decoding, algorithm).unwrap_or(false)
    }

    /// The algorithms that it may verify.
    pub(super) fn algorithms(&self) -> &[Algorithm] {
        &self.algorithms
    }

    pub(super) fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    pub(super) fn kid(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    pub(super) fn same_as(&self, other: &Key) -> bool {
        self.jwk == other.jwk
    }

    /// Whether tokens verified with it are still accepted.
    pub fn usable(&self) -> bool {
        self.usable.load(Ordering::Relaxed)
    }

    /// Cancelled when the key is withdrawn, for tasks that wait. [`Key::usable`] is a check without a lock.
    pub(super) fn withdrawn(&self) -> &CancellationToken {
        &self.withdrawn
    }

    pub(super) fn withdraw(&self) {
        self.usable.store(false, Ordering::Relaxed);
        self.withdrawn.cancel();
    }
}

/// Length of an RSA modulus in bytes, without leading zeros.
fn rsa_bytes(n: &str) -> Option<usize> {
    let bytes = bytes(n)?;
    Some(bytes.len() - bytes.iter().take_while(|b| **b == 0).count())
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}
