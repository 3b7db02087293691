//! The gate's public keys as the key type of `openidconnect`.
//!
//! Promises: a signature is verified by [`Key::verify`], over aws-lc-rs, and by nothing else. Never: a shared secret.

use std::{fmt, sync::Arc};

use aws_lc_rs::digest::{self, SHA256, SHA384, SHA512};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, jwk::Jwk};
use openidconnect::{
    JsonWebKey, JsonWebKeyAlgorithm, JsonWebKeyId, JwsSigningAlgorithm, SignatureVerificationError,
    core::{CoreJsonWebKeyType, CoreJsonWebKeyUse},
};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::gate::identity::keys::Key;

/// A JWS algorithm (RFC 7518 section 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct SigningAlgorithm(pub(super) Algorithm);

impl JwsSigningAlgorithm for SigningAlgorithm {
    type KeyType = CoreJsonWebKeyType;

    fn key_type(&self) -> Option<CoreJsonWebKeyType> {
        Some(match self.0 {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => CoreJsonWebKeyType::Symmetric,
            Algorithm::ES256 | Algorithm::ES384 => CoreJsonWebKeyType::EllipticCurve,
            Algorithm::EdDSA => CoreJsonWebKeyType::OctetKeyPair,
            _ => CoreJsonWebKeyType::RSA,
        })
    }

    fn uses_shared_secret(&self) -> bool {
        self.key_type() == Some(CoreJsonWebKeyType::Symmetric)
    }

    fn rsa_sha_256() -> Self {
        Self(Algorithm::RS256)
    }
}

/// One public key of an issuer. `None` is a shared secret, which verifies nothing.
#[derive(Clone)]
pub(crate) struct VerificationKey {
    key: Option<Arc<Key>>,
    key_type: CoreJsonWebKeyType,
    key_id: Option<JsonWebKeyId>,
}

impl VerificationKey {
    /// The key that was selected for a token with this `kid`.
    pub(super) fn selected(key: Arc<Key>, kid: Option<&str>) -> Self {
        Self { key_id: kid.map(|kid| JsonWebKeyId::new(kid.to_owned())), ..Self::from(key) }
    }
}

impl From<Arc<Key>> for VerificationKey {
    fn from(key: Arc<Key>) -> Self {
        let key_type = key.algorithms().first().and_then(|first| SigningAlgorithm(*first).key_type());
        Self {
            key_type: key_type.unwrap_or(CoreJsonWebKeyType::Symmetric),
            key_id: key.kid().map(|kid| JsonWebKeyId::new(kid.to_owned())),
            key: Some(key),
        }
    }
}

impl JsonWebKey for VerificationKey {
    type KeyUse = CoreJsonWebKeyUse;
    type SigningAlgorithm = SigningAlgorithm;

    fn key_id(&self) -> Option<&JsonWebKeyId> {
        self.key_id.as_ref()
    }

    fn key_type(&self) -> &CoreJsonWebKeyType {
        &self.key_type
    }

    fn key_use(&self) -> Option<&CoreJsonWebKeyUse> {
        // `Key` exists only for signatures
        Some(&CoreJsonWebKeyUse::Signature)
    }

    fn signing_alg(&self) -> JsonWebKeyAlgorithm<&SigningAlgorithm> {
        // `Key::fits` decides, with each signature
        JsonWebKeyAlgorithm::Unspecified
    }

    fn new_symmetric(_: Vec<u8>) -> Self {
        Self { key: None, key_type: CoreJsonWebKeyType::Symmetric, key_id: None }
    }

    fn verify_signature(
        &self,
        algorithm: &SigningAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), SignatureVerificationError> {
        let fitting = self.key.as_ref().filter(|key| key.supports(algorithm.0));
        let key = fitting.ok_or_else(|| SignatureVerificationError::InvalidKey("not for this algorithm".into()))?;
        if key.verify(algorithm.0, message, &URL_SAFE_NO_PAD.encode(signature)) {
            return Ok(());
        }
        Err(SignatureVerificationError::CryptoError("wrong signature".into()))
    }

    fn hash_bytes(&self, bytes: &[u8], algorithm: &SigningAlgorithm) -> Result<Vec<u8>, String> {
        let hash = match algorithm.0 {
            Algorithm::RS256 | Algorithm::PS256 | Algorithm::ES256 => &SHA256,
            Algorithm::RS384 | Algorithm::PS384 | Algorithm::ES384 => &SHA384,
            // EdDSA on Ed25519 is SHA-512
            Algorithm::RS512 | Algorithm::PS512 | Algorithm::EdDSA => &SHA512,
            _ => return Err("a shared secret".into()),
        };
        Ok(digest::digest(hash, bytes).as_ref().to_vec())
    }
}

impl fmt::Debug for VerificationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerificationKey").field("kid", &self.key_id).finish_non_exhaustive()
    }
}

impl Serialize for VerificationKey {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        self.key.as_ref().map(|key| key.jwk()).serialize(to)
    }
}

impl<'de> Deserialize<'de> for VerificationKey {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let key = Key::new(Jwk::deserialize(from)?).ok_or_else(|| D::Error::custom("no usable signature key"))?;
        Ok(Arc::new(key).into())
    }
}
