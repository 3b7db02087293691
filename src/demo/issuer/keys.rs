//! Signing keys of the emulated issuer: generated at run time, rotated and withdrawn.
//!
//! A withdrawn key leaves the published set but can still sign, so that tests can mint tokens with a stolen old key.

use std::sync::{Arc, Mutex, PoisonError};

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey,
    jwk::{Jwk, JwkSet, PublicKeyUse},
};
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, RsaKeySize};

use crate::demo::{error::DemoError, random::random_text};

/// The keys of one issuer. Clones share them, so every clone verifies with rotated keys.
#[derive(Clone, Default)]
pub struct KeyRing(Arc<Mutex<Vec<Arc<Key>>>>);

pub(crate) struct Key {
    pub(crate) kid: String,
    pub(crate) algorithm: Algorithm,
    pub(crate) private: EncodingKey,
    public_pem: String,
    jwk: Jwk,
    withdrawn: std::sync::atomic::AtomicBool,
}

impl KeyRing {
    /// Makes a key and publishes it; from now on tokens of this algorithm are signed with it. Returns its `kid`.
    ///
    /// # Errors
    /// If the algorithm is not one of RS*, PS*, ES256, ES384 and `EdDSA`.
    pub fn add(&self, algorithm: Algorithm) -> Result<String, DemoError> {
        let key = Key::generate(algorithm)?;
        let kid = key.kid.clone();
        self.lock().push(Arc::new(key));
        Ok(kid)
    }

    /// Removes a key from the published set. Returns whether it was published.
    pub fn withdraw(&self, kid: &str) -> bool {
        let key = self.by_id(kid);
        key.is_some_and(|key| !key.withdrawn.swap(true, std::sync::atomic::Ordering::Relaxed))
    }

    /// The published keys, oldest first.
    #[must_use]
    pub fn jwks(&self) -> JwkSet {
        JwkSet { keys: self.lock().iter().filter(|key| key.published()).map(|key| key.jwk.clone()).collect() }
    }

    /// A key's public half as PEM, for the test that signs HS256 with it.
    #[must_use]
    pub fn public_pem(&self, kid: &str) -> Option<String> {
        self.by_id(kid).map(|key| key.public_pem.clone())
    }

    /// The `kid` that tokens of this algorithm are signed with now.
    #[must_use]
    pub fn current(&self, algorithm: Algorithm) -> Option<String> {
        self.newest(algorithm).map(|key| key.kid.clone())
    }

    pub(crate) fn newest(&self, algorithm: Algorithm) -> Option<Arc<Key>> {
        self.lock().iter().rev().find(|key| key.algorithm == algorithm && key.published()).cloned()
    }

    pub(crate) fn by_id(&self, kid: &str) -> Option<Arc<Key>> {
        self.lock().iter().find(|key| key.kid == kid).cloned()
    }

    /// The verification key of a published key.
    pub(crate) fn verification_key(&self, kid: &str) -> Option<(Algorithm, DecodingKey)> {
        let key = self.by_id(kid).filter(|key| key.published())?;
        Some((key.algorithm, DecodingKey::from_jwk(&key.jwk).ok()?))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Key>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    fn generate(algorithm: Algorithm) -> Result<Self, DemoError> {
        use Algorithm as A;
        let (pair, private) = match algorithm {
            A::RS256 | A::RS384 | A::RS512 | A::PS256 | A::PS384 | A::PS512 => {
                let pair = KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048)?;
                let private = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes())?;
                (pair, private)
            }
            A::ES256 | A::ES384 => {
                let curve = if algorithm == A::ES256 { &PKCS_ECDSA_P256_SHA256 } else { &PKCS_ECDSA_P384_SHA384 };
                let pair = KeyPair::generate_for(curve)?;
                let private = EncodingKey::from_ec_pem(pair.serialize_pem().as_bytes())?;
                (pair, private)
            }
            A::EdDSA => {
                let pair = KeyPair::generate_for(&PKCS_ED25519)?;
                let private = EncodingKey::from_ed_der(pair.serialized_der());
                (pair, private)
            }
            other => return Err(DemoError::Algorithm(other)),
        };
        let kid = random_text(6)?;
        let public_pem = pair.public_key_pem();
        let mut jwk = match algorithm {
            A::EdDSA => ed25519(&pair),
            _ => Jwk::from_encoding_key(&private, algorithm)?,
        };
        jwk.common.key_id = Some(kid.clone());
        jwk.common.public_key_use = Some(PublicKeyUse::Signature);
        jwk.common.key_algorithm = Some(algorithm.into());
        Ok(Self { kid, algorithm, private, public_pem, jwk, withdrawn: false.into() })
    }

    fn published(&self) -> bool {
        !self.withdrawn.load(std::sync::atomic::Ordering::Relaxed)
    }
}

/// RFC 8037 section 2: an OKP key is its raw public bytes.
fn ed25519(pair: &KeyPair) -> Jwk {
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use jsonwebtoken::jwk::{
        AlgorithmParameters, CommonParameters, EllipticCurve, OctetKeyPairParameters, OctetKeyPairType,
    };
    Jwk {
        common: CommonParameters::default(),
        algorithm: AlgorithmParameters::OctetKeyPair(OctetKeyPairParameters {
            key_type: OctetKeyPairType::OctetKeyPair,
            curve: EllipticCurve::Ed25519,
            x: URL_SAFE_NO_PAD.encode(pair.public_key_raw()),
        }),
    }
}
