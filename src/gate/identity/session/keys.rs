//! The keys that seal what a browser keeps for the gate.
//!
//! Promises: what was sealed for one purpose, under one name, opens for no other; the first key seals and every key
//! opens, so that a cookie outlives one rotation; what was changed by one bit does not open. Never: a key or a
//! plaintext in an error.

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    digest, hkdf,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

/// Fewest bytes of a key file.
pub(crate) const MIN_KEY_BYTES: usize = 32;
/// Most keys at once: the one that seals, and those that cookies of days past were sealed with.
pub(crate) const MAX_KEYS: usize = 4;

/// What a key file holds: a secret of [`MIN_KEY_BYTES`] at least.
#[derive(Clone, PartialEq, Eq)]
pub struct Key(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A key that is too short to keep a secret.
#[derive(Debug, thiserror::Error)]
#[error("holds {0} bytes; write {MIN_KEY_BYTES} random ones at least, such as by `openssl rand -base64 48`")]
pub struct TooShort(usize);

/// The operating system gives no randomness, or a key cannot be derived; nothing that a request can cause.
#[derive(Debug, thiserror::Error)]
#[error("the cryptography library fails")]
pub struct SealError;

impl Key {
    /// The secret in a file's bytes; white space around it is not part of it.
    ///
    /// # Errors
    /// When it is too short.
    pub fn new(bytes: &[u8]) -> Result<Self, TooShort> {
        let trimmed = bytes.trim_ascii();
        if trimmed.len() < MIN_KEY_BYTES {
            return Err(TooShort(trimmed.len()));
        }
        Ok(Self(Zeroizing::new(trimmed.to_vec())))
    }

    /// A key of this process alone.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn random() -> Result<Self, SealError> {
        let mut bytes = Zeroizing::new(vec![0; MIN_KEY_BYTES]);
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError)?;
        Ok(Self(bytes))
    }
}

/// The keys for one purpose, derived from the key files (RFC 5869).
pub(super) struct Ring(Vec<RandomizedNonceKey>);

struct Length;

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        AES_256_GCM_SIV.key_len()
    }
}

impl Ring {
    pub(super) fn new(keys: &[Key], purpose: &str) -> Result<Self, SealError> {
        let derive = |key: &Key| {
            let mut derived = Zeroizing::new([0; 32]);
            let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"wicketgate").extract(&key.0);
            secret.expand(&[purpose.as_bytes()], Length).and_then(|okm| okm.fill(&mut *derived))?;
            RandomizedNonceKey::new(&AES_256_GCM_SIV, &*derived)
        };
        keys.iter().map(derive).collect::<Result<_, _>>().map(Self).map_err(|_| SealError)
    }

    /// `plain` as base64url: nonce, ciphertext, tag. `name` is where it will be kept; it opens under that name alone.
    pub(super) fn seal(&self, name: &str, plain: &[u8]) -> Result<String, SealError> {
        let key = self.0.first().ok_or(SealError)?;
        let mut sealed = plain.to_vec();
        let nonce = key.seal_in_place_append_tag(Aad::from(name.as_bytes()), &mut sealed).map_err(|_| SealError)?;
        let nonce: &[u8; NONCE_LEN] = nonce.as_ref();
        Ok(URL_SAFE_NO_PAD.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// What was sealed under `name` by one of the keys; nothing where it was not, or was changed since.
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

/// A random text of 256 bits in base64url, for states and nonces.
pub(super) fn random_text() -> Result<String, SealError> {
    let mut bytes = [0; 32];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| SealError)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// SHA-256 in base64url, to compare secrets by without telling them apart byte by byte.
pub(super) fn digest(text: &str) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(keys: &[&[u8]], purpose: &str) -> Ring {
        let keys: Vec<Key> = keys.iter().map(|bytes| Key::new(bytes).unwrap()).collect();
        Ring::new(&keys, purpose).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_for_its_purpose_and_name_alone() {
        let (old, new) = ([1; 32].as_slice(), [2; 40].as_slice());
        let sealed = ring(&[old], "session").seal("a", b"plain").unwrap();
        let opens = |ring: Ring, name: &str, text: &str| ring.open(name, text).map(|plain| plain.to_vec());
        assert_eq!(opens(ring(&[old], "session"), "a", &sealed), Some(b"plain".to_vec()));
        assert_eq!(opens(ring(&[new, old], "session"), "a", &sealed), Some(b"plain".to_vec()), "one rotation");
        assert_eq!(opens(ring(&[new], "session"), "a", &sealed), None, "another key");
        assert_eq!(opens(ring(&[old], "login"), "a", &sealed), None, "another purpose");
        assert_eq!(opens(ring(&[old], "session"), "b", &sealed), None, "another name");
        assert!(Key::new(&[b'k'; 31]).is_err() && Key::new(b"                                k").is_err());
    }

    #[test]
    fn what_was_changed_by_one_bit_does_not_open() {
        let ring = ring(&[&[7; 32]], "session");
        let sealed = URL_SAFE_NO_PAD.decode(ring.seal("a", b"plain text").unwrap()).unwrap();
        for bit in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(ring.open("a", &URL_SAFE_NO_PAD.encode(changed)).is_none(), "bit {bit}");
        }
        for text in ["", "A", "====", &"A".repeat(16), &"A".repeat(40)] {
            assert!(ring.open("a", text).is_none(), "{text}");
        }
    }
}
