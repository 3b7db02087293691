//! Verification of one DPoP proof (RFC 9449 section 4.3). Pure: no I/O, no clock, no state.
//!
//! Promises: a [`Proof`] exists only if type, algorithm, key, signature, method, URL, time and token were all checked. The
//! key is in the proof, and the token is bound to it. A private or symmetric key, a reference to a key, or a duplicate
//! member refuses the proof. Replays are detected by `replay`.

use std::{borrow::Cow, time::Duration};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::de::{Deserialize, Deserializer, MapAccess};

use crate::{
    clock::{self, Timestamp},
    gate::identity::{
        claims::numeric_date,
        strict_json::{self, Object, Text, object},
    },
};

/// Longest proof in bytes: twice an RSA key of 4096 bits with its signature.
const MAX_PROOF: usize = 4096;
/// Longest `jti`, in bytes.
const MAX_ID: usize = 256;
/// How far a client's clock may be ahead.
pub(super) const MAX_CLOCK_AHEAD: Duration = Duration::from_secs(10);
/// RSA keys below this are refused (RFC 7518 section 3.3); larger ones are too expensive to verify.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=512;

/// The algorithms of proofs, by name; asymmetric ones only (RFC 9449 section 11.6).
pub(crate) const ALGORITHMS: [(&str, Algorithm); 5] = [
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
    ("PS256", Algorithm::PS256),
    ("RS256", Algorithm::RS256),
];

/// The values that a proof must match.
#[derive(Clone, Copy, Debug)]
pub struct ExpectedProof<'a> {
    /// The request's method.
    pub method: &'a str,
    /// The request's URL, normalized by [`normalize_url`].
    pub url: &'a str,
    /// The access token of `ath`. `None` for the proof of a token request (RFC 9449 section 5), which has no `ath`.
    pub token: Option<&'a str>,
    /// The token's `cnf.jkt`.
    pub key: [u8; 32],
    /// The maximum age of the proof.
    pub max_age: Duration,
    /// When the request arrived.
    pub now: Timestamp,
}

/// A verified proof; replay and nonce are not checked yet.
#[derive(Debug)]
pub struct Proof {
    /// BLAKE3 of `jti` and key, truncated; equal for a replay.
    pub id: u128,
    /// The nonce in it, unchecked.
    pub nonce: Option<String>,
}

/// The reason why a proof is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not a signed JWT, or a duplicate member.
    #[error("the DPoP proof is not a signed JWT")]
    Malformed,
    /// `typ` is not `dpop+jwt`.
    #[error("the DPoP proof's `typ` is not `dpop+jwt`")]
    Type,
    /// `alg` is not in the list.
    #[error("the DPoP proof's algorithm is not accepted; write ES256, ES384, EdDSA, PS256 or RS256")]
    Algorithm,
    /// The header has a critical extension.
    #[error("the DPoP proof has a critical header extension")]
    Critical,
    /// The key is missing, private, only a reference, or does not fit the algorithm.
    #[error("the DPoP proof must contain one public key as `jwk` that fits its algorithm, without private members")]
    Key,
    /// The signature does not verify.
    #[error("the DPoP proof's signature is invalid")]
    Signature,
    /// The token is bound to another key.
    #[error("the DPoP proof is signed with another key than the token is bound to")]
    OtherKey,
    /// A claim is missing or of the wrong type.
    #[error("the DPoP proof lacks `jti`, `htm`, `htu`, `iat` or `ath`, or has one of the wrong type")]
    Claims,
    /// For another method.
    #[error("the DPoP proof's `htm` is not this request's method")]
    Method,
    /// For another URL.
    #[error("the DPoP proof's `htu` is not this request's URL: the gate's external URL with the request's path")]
    Url,
    /// Too old, or ahead of the clock.
    #[error("the DPoP proof is too old or from the future; make one for each request, and set the clock")]
    Time,
    /// For another token.
    #[error("the DPoP proof's `ath` is not this token's hash")]
    Token,
}

impl ProofError {
    /// The stable reason code for audit, metrics and programs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "dpop_malformed",
            Self::Type => "dpop_type",
            Self::Algorithm => "dpop_algorithm",
            Self::Critical => "dpop_critical",
            Self::Key => "dpop_key",
            Self::Signature => "dpop_signature",
            Self::OtherKey => "dpop_other_key",
            Self::Claims => "dpop_claims",
            Self::Method => "dpop_method",
            Self::Url => "dpop_url",
            Self::Time => "dpop_time",
            Self::Token => "dpop_token",
        }
    }
}

/// Verifies `proof` in the order of RFC 9449 section 4.3.
///
/// # Errors
/// The first rule that it violates; the signature is verified before any claim.
pub fn verify(proof: &str, expected: &ExpectedProof<'_>) -> Result<Proof, ProofError> {
    if proof.len() > MAX_PROOF {
        return Err(ProofError::Malformed);
    }
    let (message, signature) = proof.rsplit_once('.').ok_or(ProofError::Malformed)?;
    let (header, claims) = message.split_once('.').ok_or(ProofError::Malformed)?;
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| ProofError::Malformed)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| ProofError::Malformed)?;
    let header: Header = strict_json::read(&header).map_err(|_| ProofError::Malformed)?;
    // RFC 7515 section 4.1.9: a media type, whose case does not matter
    let typ = header.typ.as_deref().unwrap_or_default();
    if !typ.eq_ignore_ascii_case("dpop+jwt") {
        return Err(ProofError::Type);
    }
    if header.critical {
        return Err(ProofError::Critical);
    }
    let algorithm = ALGORITHMS.iter().find(|(name, _)| Some(*name) == header.alg.as_deref());
    let algorithm = algorithm.ok_or(ProofError::Algorithm)?.1;
    let (thumbprint, key) =
        header.jwk.filter(|_| !header.fetched).and_then(|jwk| jwk.key(algorithm)).ok_or(ProofError::Key)?;
    if !jsonwebtoken::crypto::verify(signature, message.as_bytes(), &key, algorithm).unwrap_or(false) {
        return Err(ProofError::Signature);
    }
    if thumbprint != expected.key {
        return Err(ProofError::OtherKey);
    }

    let claims: Claims = strict_json::read(&claims).map_err(|_| ProofError::Claims)?;
    let id = claims.jti.filter(|jti| (1..=MAX_ID).contains(&jti.len())).ok_or(ProofError::Claims)?;
    let (method, url) = claims.htm.zip(claims.htu).ok_or(ProofError::Claims)?;
    let made = claims.iat.and_then(numeric_date).ok_or(ProofError::Claims)?;
    if expected.token.is_some() && claims.ath.is_none() {
        return Err(ProofError::Claims);
    }
    if method != expected.method {
        return Err(ProofError::Method);
    }
    if normalize_url(&url).as_deref() != Some(expected.url) {
        return Err(ProofError::Url);
    }
    if clock::after(made, expected.max_age) <= expected.now || made > clock::after(expected.now, MAX_CLOCK_AHEAD) {
        return Err(ProofError::Time);
    }
    if let Some((token, hash)) = expected.token.zip(claims.ath)
        && URL_SAFE_NO_PAD.decode(hash).ok().as_deref() != Some(digest(&SHA256, token.as_bytes()).as_ref())
    {
        return Err(ProofError::Token);
    }
    let mut hasher = blake3::Hasher::new();
    let mut seen = [0; 16];
    hasher.update(&thumbprint).update(id.as_bytes()).finalize_xof().fill(&mut seen);
    Ok(Proof { id: u128::from_be_bytes(seen), nonce: claims.nonce })
}

/// Normalizes an https URL without query and fragment (RFC 3986 sections 6.2.2 and 6.2.3), as RFC 9449 section 4.3
/// requires, to `https://HOST:PORT/PATH`. `None` if it is not such a URL, or is ambiguous.
#[must_use]
pub fn normalize_url(url: &str) -> Option<String> {
    let known = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b);
    if !url.bytes().all(known) || !url.get(..8)?.eq_ignore_ascii_case("https://") {
        return None;
    }
    let url = url.split(['?', '#']).next()?;
    let authority = url.get(8..)?.split('/').next()?;
    if authority.is_empty() || authority.contains('@') {
        return None;
    }
    let parsed = url::Url::parse(url).ok()?;
    let mut text = format!("https://{}:{}", parsed.host_str()?, parsed.port_or_known_default()?);
    let mut rest = parsed.path();
    while let Some((plain, escaped)) = rest.split_once('%') {
        let byte = u8::from_str_radix(escaped.get(..2).filter(|hex| !hex.starts_with('+'))?, 16).ok()?;
        text.push_str(plain);
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("%{byte:02X}"));
        }
        rest = escaped.get(2..)?;
    }
    text.push_str(rest);
    Some(text)
}

#[derive(Default)]
struct Header<'a> {
    typ: Option<Cow<'a, str>>,
    alg: Option<Cow<'a, str>>,
    jwk: Option<Jwk<'a>>,
    critical: bool,
    /// Whether it refers to a key elsewhere, which is never fetched.
    fetched: bool,
}

/// The public key in a proof (RFC 7517), with undecoded values.
#[derive(Default)]
struct Jwk<'a> {
    kty: Option<Cow<'a, str>>,
    crv: Option<Cow<'a, str>>,
    x: Option<Cow<'a, str>>,
    y: Option<Cow<'a, str>>,
    n: Option<Cow<'a, str>>,
    e: Option<Cow<'a, str>>,
    private: bool,
}

impl Jwk<'_> {
    /// Its RFC 7638 thumbprint and the key, if it is a public key that fits the algorithm.
    fn key(&self, algorithm: Algorithm) -> Option<([u8; 32], DecodingKey)> {
        if self.private {
            return None;
        }
        let kty = self.kty.as_deref()?;
        let crv = self.crv.as_deref();
        let coordinate = match (kty, crv, algorithm) {
            ("EC", Some("P-256"), Algorithm::ES256) | ("OKP", Some("Ed25519"), Algorithm::EdDSA) => 32,
            ("EC", Some("P-384"), Algorithm::ES384) => 48,
            ("RSA", None, Algorithm::RS256 | Algorithm::PS256) => return self.rsa(),
            _ => return None,
        };
        // RFC 7518 section 6.2.1.2: always the full length, so that a key has one encoding and one thumbprint
        let full = |text: &str| URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == coordinate);
        let crv = crv?;
        let x = self.x.as_deref().filter(|x| full(x))?;
        if kty == "OKP" {
            let text = format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#);
            return Some((sha256(&text), DecodingKey::from_ed_components(x).ok()?));
        }
        let y = self.y.as_deref().filter(|y| full(y))?;
        let text = format!(r#"{{"crv":"{crv}","kty":"EC","x":"{x}","y":"{y}"}}"#);
        Some((sha256(&text), DecodingKey::from_ec_components(x, y).ok()?))
    }

    fn rsa(&self) -> Option<([u8; 32], DecodingKey)> {
        let (n, e) = self.n.as_deref().zip(self.e.as_deref())?;
        // RFC 7518 section 6.3.1: no leading zeros
        let number =
            |text: &str| URL_SAFE_NO_PAD.decode(text).ok().filter(|bytes| bytes.first().is_some_and(|b| *b != 0));
        if !RSA_BYTES.contains(&number(n)?.len()) || number(e)?.len() > 4 {
            return None;
        }
        let text = format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#);
        Some((sha256(&text), DecodingKey::from_rsa_components(n, e).ok()?))
    }
}

fn sha256(text: &str) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
    hash
}

#[derive(Default)]
struct Claims {
    jti: Option<String>,
    htm: Option<String>,
    htu: Option<String>,
    iat: Option<f64>,
    ath: Option<String>,
    nonce: Option<String>,
}

impl<'de> Object<'de> for Header<'de> {
    const NAME: &'static str = "a JOSE header";

    fn member<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "typ" => self.typ = Some(map.next_value::<Text<'de>>()?.0),
            "alg" => self.alg = Some(map.next_value::<Text<'de>>()?.0),
            "jwk" => self.jwk = Some(map.next_value()?),
            "crit" => self.critical = true,
            "jku" | "x5u" | "x5c" => self.fetched = true,
            _ => {}
        }
        Ok(matches!(name, "typ" | "alg" | "jwk"))
    }
}

impl<'de> Deserialize<'de> for Jwk<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        object(from)
    }
}

impl<'de> Object<'de> for Jwk<'de> {
    const NAME: &'static str = "a JSON Web Key";

    fn member<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        let member = match name {
            "kty" => &mut self.kty,
            "crv" => &mut self.crv,
            "x" => &mut self.x,
            "y" => &mut self.y,
            "n" => &mut self.n,
            "e" => &mut self.e,
            // RFC 7518 sections 6.2.2, 6.3.2 and 6.4.1: private members
            "d" | "p" | "q" | "dp" | "dq" | "qi" | "oth" | "k" => {
                self.private = true;
                return Ok(false);
            }
            _ => return Ok(false),
        };
        *member = Some(map.next_value::<Text<'de>>()?.0);
        Ok(true)
    }
}

impl<'de> Object<'de> for Claims {
    const NAME: &'static str = "a claims set";

    fn member<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "jti" => self.jti = Some(map.next_value()?),
            "htm" => self.htm = Some(map.next_value()?),
            "htu" => self.htu = Some(map.next_value()?),
            "iat" => self.iat = Some(map.next_value()?),
            "ath" => self.ath = Some(map.next_value()?),
            "nonce" => self.nonce = Some(map.next_value()?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
