//! Authenticated encryption of cookies (AES-256-GCM-SIV), with key rotation.
//!
//! Promises: a text that was sealed for one purpose under one name opens for no other; the first key seals and every
//! key opens, so that a cookie outlives one rotation; a text that was changed by one bit does not open. Never: a key or
//! a plaintext in an error.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest, hkdf,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// Fewest bytes of a key file.
pub(crate) const MIN_KEY_BYTES: usize = 32;
/// Most keys at once: the one that seals, and those of earlier cookies.
pub(crate) const MAX_KEYS: usize = 4;

/// The secret in a key file: at least [`MIN_KEY_BYTES`].
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SealingKey(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey(..)")
    }
}

/// A key that is too short to keep a secret.
#[derive(Debug, thiserror::Error)]
#[error("holds {0} bytes; write {MIN_KEY_BYTES} random ones at least, such as by `openssl rand -base64 48`")]
pub(crate) struct KeyTooShort(usize);

/// The operating system gives no randomness, or a key cannot be derived. No request can cause this.
#[derive(Debug, thiserror::Error)]
#[error("the cryptography library fails")]
pub(crate) struct SealError;

impl SealingKey {
    /// The secret in a file's bytes, without white space around it.
    ///
    /// # Errors
    /// If it is too short.
    pub(crate) fn new(bytes: &[u8]) -> Result<Self, KeyTooShort> {
        let trimmed = bytes.trim_ascii();
        if trimmed.len() < MIN_KEY_BYTES {
            return Err(KeyTooShort(trimmed.len()));
        }
        Ok(Self(Zeroizing::new(trimmed.to_vec())))
    }

    /// A random key, for this process alone.
    ///
    /// # Errors
    /// If the operating system gives no randomness.
    pub(crate) fn random() -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new(vec![0; MIN_KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError)?;
        Ok(Self(bytes))
    }
}

/// The keys for one purpose, derived from the key files (RFC 5869).
pub(super) struct Sealer(Vec<RandomizedNonceKey>);

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        AES_256_GCM_SIV.key_len()
    }
}

impl Sealer {
    pub(super) fn new(keys: &[SealingKey], purpose: &str) -> Result<Self, SealError> {
        let derive = |key: &SealingKey| {
            let mut derived = Zeroizing::new([0; 32]);
            let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"wicketgate").extract(&key.0);
            secret.expand(&[purpose.as_bytes()], Length).and_then(|okm| okm.fill(&mut *derived))?;
            RandomizedNonceKey::new(&AES_256_GCM_SIV, &*derived)
        };
        keys.iter().map(derive).collect::<Result<_, _>>().map(Self).map_err(|_| SealError)
    }

    /// Encrypts `plain`: nonce, ciphertext and tag in base64url. It opens under the cookie `name` alone.
    pub(super) fn seal(&self, name: &str, plain: &[u8]) -> Result<String, SealError> {
        let key = self.0.first().ok_or(SealError)?;
        let mut sealed = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut sealed).map_err(|_| SealError)?;
        let nonce: &[u8; NONCE_LEN] = nonce.as_ref();
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// Decrypts a text that was sealed under `name` by one of the keys; `None` if it was not, or was changed since.
    pub(super) fn open(&self, name: &str, text: &str) -> Option<Zeroizing<Vec<u8>>> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
        self.0.iter().find_map(|key| {
            let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
            // a failed attempt may leave anything in the buffer
            let mut buffer = Zeroizing::new(sealed.to_vec());
            let length = key.open_in_place(nonce, Aad::from(name.as_bytes()), &mut buffer).ok()?.len();
            buffer.truncate(length);
            Some(buffer)
        })
    }
}

/// 256 random bits in base64url, for states and nonces.
pub(super) fn random_text() -> Result<String, SealError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// SHA-256. Comparing digests instead of secrets leaks no timing.
pub(super) fn digest(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealer(keys: &[&[u8]], purpose: &str) -> Sealer {
        let keys: Vec<SealingKey> = keys.iter().map(|bytes| SealingKey::new(bytes).unwrap()).collect();
        Sealer::new(&keys, purpose).unwrap()
    }

    #[test]
    fn a_sealed_text_opens_for_its_purpose_and_name_alone() {
        let old = [1; 32].as_slice();
        let new = [2; 40].as_slice();
        let sealed = sealer(&[old], "session").seal("a", b"plain").unwrap();
        let opens = |sealer: Sealer, name: &str, text: &str| sealer.open(name, text).map(|plain| plain.to_vec());
        assert_eq!(opens(sealer(&[old], "session"), "a", &sealed), Some(b"plain".to_vec()));
        assert_eq!(opens(sealer(&[new, old], "session"), "a", &sealed), Some(b"plain".to_vec()), "one rotation");
        assert_eq!(opens(sealer(&[new], "session"), "a", &sealed), None, "another key");
        assert_eq!(opens(sealer(&[old], "login"), "a", &sealed), None, "another purpose");
        assert_eq!(opens(sealer(&[old], "session"), "b", &sealed), None, "another name");
        assert!(
            SealingKey::new(&[b'k'; 31]).is_err() && SealingKey::new(b"                                k").is_err()
        );
    }

    #[test]
    fn a_sealed_text_with_one_changed_bit_does_not_open() {
        let sealer = sealer(&[&[7; 32]], "session");
        let sealed = URL_SAFE_NO_PAD.decode(sealer.seal("a", b"plain text").unwrap()).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(sealer.open("a", &URL_SAFE_NO_PAD.encode(changed)).is_none(), "bit {bit}");
        }
        for text in ["", "A", "====", &"A".repeat(16), &"A".repeat(40)] {
            assert!(sealer.open("a", text).is_none(), "{text}");
        }
    }
}
