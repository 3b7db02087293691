//! Reading and checking one signed token. Pure: no I/O, no clock.
//!
//! Promises: a [`Verified`] exists only where signature, algorithm, `iss`, `aud`, `exp` and `nbf` were all checked; a
//! member that stands twice in the header or in the claims refuses the token, since two readers could disagree on it.
//! Never: a symmetric algorithm, `none`, a key that the token itself brings (`jwk`, `jku`, `x5u`, `x5c`), or a header
//! extension that is critical (RFC 7515 section 4.1.11).

use std::{borrow::Cow, fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};

use super::{confirmation::Cnf, keys::Key};
use crate::{
    clock::{self, Timestamp},
    principal::Confirmation,
};

/// Longest token that is looked at, in bytes. Larger ones do not fit the header limits of most servers either.
pub const MAX_TOKEN: usize = 16 * 1024;

/// Most members of a header or a claims set. Each is compared with those before it, before any signature is looked at.
const MAX_MEMBERS: usize = 128;

/// What an issuer's tokens must satisfy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The exact `iss`.
    pub issuer: String,
    /// One of these must be in `aud` (RFC 7519 section 4.1.3).
    pub audiences: Vec<String>,
    /// The algorithms that its tokens may use; asymmetric only.
    pub algorithms: Vec<Algorithm>,
    /// Clock difference allowed on `exp` and `nbf`.
    pub leeway: Duration,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url parts with JSON objects in the first two.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// `alg` is missing, `none`, symmetric, or not in the issuer's list.
    #[error("the token's algorithm is not accepted for its issuer")]
    Algorithm,
    /// `typ` says that this is another kind of JWT (RFC 8725 section 3.11).
    #[error("the token's `typ` is not that of an access token or ID token")]
    Type,
    /// A critical header extension that nobody here understands.
    #[error("the token has a critical header extension")]
    Critical,
    /// No configured issuer has this `iss`.
    #[error("the token's issuer is not one this gate trusts")]
    Issuer,
    /// No key of the issuer has this `kid` and algorithm.
    #[error("the token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the token's signature is wrong")]
    Signature,
    /// `aud` is missing or names someone else.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` has passed.
    #[error("the token has expired")]
    Expired,
    /// `nbf` has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// `sub`, `exp` or another required claim is missing or of the wrong type.
    #[error("the token lacks a required claim, or has one of the wrong type")]
    Claims,
    /// `cnf` binds it to something that cannot be checked here.
    #[error("the token is bound (`cnf`) to something that this gate cannot check; it checks `x5t#S256` and `jkt`")]
    Binding,
}

impl TokenError {
    /// The stable word for audit, metrics and programs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::Type => "token_type",
            Self::Critical => "token_critical",
            Self::Issuer => "token_issuer",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::NotYet => "token_not_yet_valid",
            Self::Claims => "token_claims",
            Self::Binding => "token_binding",
        }
    }
}

/// A token taken apart, nothing in it believed yet. Its fields choose issuer and key, no more.
pub struct Unverified<'a> {
    message: &'a str,
    signature: &'a str,
    payload: Vec<u8>,
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    claims: Claims,
}

/// What a token says, all of it checked.
#[derive(Debug)]
pub struct Verified {
    /// `sub`.
    pub subject: String,
    /// `exp`.
    pub expires_at: Timestamp,
    /// The claims as they were signed: one JSON object.
    pub claims: Box<str>,
    /// What its sender must hold.
    pub confirmation: Option<Confirmation>,
}

impl<'a> Unverified<'a> {
    /// Takes `token` apart.
    ///
    /// # Errors
    /// When it is no JWS in compact form, or its header asks for what is never accepted.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        if token.len() > MAX_TOKEN {
            return Err(TokenError::Malformed);
        }
        let (message, signature) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (header, payload) = message.split_once('.').ok_or(TokenError::Malformed)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| TokenError::Malformed)?;
        let payload = URL_SAFE_NO_PAD.decode(payload).map_err(|_| TokenError::Malformed)?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| TokenError::Malformed)?;
        if header.critical {
            return Err(TokenError::Critical);
        }
        // RFC 8725 section 3.11; RFC 9068 section 2.1: `at+jwt` and `application/at+jwt` are the same
        let kind = header.typ.map(|t| t.to_ascii_lowercase());
        if !matches!(
            kind.as_deref().map(|t| t.strip_prefix("application/").unwrap_or(t)),
            None | Some("jwt" | "at+jwt")
        ) {
            return Err(TokenError::Type);
        }
        let algorithm = header.alg.parse().map_err(|_| TokenError::Algorithm)?;
        if matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return Err(TokenError::Algorithm);
        }
        let claims: Claims = serde_json::from_slice(&payload).map_err(|_| TokenError::Claims)?;
        Ok(Self { message, signature, kid: header.kid.map(Cow::into_owned), algorithm, claims, payload })
    }

    /// The `iss` that the token claims.
    pub(super) fn issuer(&self) -> &str {
        &self.claims.iss
    }

    /// Checks the token against its issuer's rules and one of its keys.
    ///
    /// # Errors
    /// The first rule that the token breaks; the signature is looked at before any claim.
    pub fn verify(self, key: &Key, rules: &Rules, now: Timestamp) -> Result<Verified, TokenError> {
        if !rules.algorithms.contains(&self.algorithm) || !key.fits(self.algorithm) {
            return Err(TokenError::Algorithm);
        }
        let genuine =
            jsonwebtoken::crypto::verify(self.signature, self.message.as_bytes(), key.decoding(), self.algorithm);
        if !genuine.unwrap_or(false) {
            return Err(TokenError::Signature);
        }
        let claims = self.claims;
        if claims.iss != rules.issuer {
            return Err(TokenError::Issuer);
        }
        if !claims.aud.iter().any(|aud| rules.audiences.iter().any(|ours| ours == aud)) {
            return Err(TokenError::Audience);
        }
        let expires_at = claims.exp.and_then(instant).ok_or(TokenError::Claims)?;
        if clock::after(expires_at, rules.leeway) <= now {
            return Err(TokenError::Expired);
        }
        if let Some(nbf) = claims.nbf
            && instant(nbf).ok_or(TokenError::Claims)? > clock::after(now, rules.leeway)
        {
            return Err(TokenError::NotYet);
        }
        let subject = claims.sub.filter(|s| !s.is_empty()).ok_or(TokenError::Claims)?;
        let confirmation = claims.cnf.confirmation()?;
        let claims = String::from_utf8(self.payload).map_err(|_| TokenError::Claims)?.into();
        Ok(Verified { subject, expires_at, claims, confirmation })
    }
}

/// A NumericDate (RFC 7519 section 2): seconds since 1970, perhaps with a fraction.
pub(super) fn instant(seconds: f64) -> Option<Timestamp> {
    #[allow(clippy::cast_possible_truncation, reason = "the range is checked first")]
    (seconds.is_finite() && (0.0..253_402_300_800.0).contains(&seconds))
        .then(|| Timestamp::from_second(seconds as i64).ok())
        .flatten()
}

struct Header<'a> {
    alg: Cow<'a, str>,
    kid: Option<Cow<'a, str>>,
    typ: Option<Cow<'a, str>>,
    critical: bool,
}

#[derive(Default)]
struct Claims {
    iss: String,
    sub: Option<String>,
    aud: Vec<String>,
    exp: Option<f64>,
    nbf: Option<f64>,
    cnf: Cnf,
}

/// Reads a JSON object member by member: each name at most once, and no more than anybody needs.
pub(super) fn members<'de, A: MapAccess<'de>>(
    map: &mut A,
    mut member: impl FnMut(&str, &mut A) -> Result<bool, A::Error>,
) -> Result<(), A::Error> {
    let mut seen: Vec<Text<'de>> = Vec::with_capacity(16);
    while let Some(name) = map.next_key::<Text<'de>>()? {
        if seen.len() == MAX_MEMBERS || seen.iter().any(|other| other.0 == name.0) {
            return Err(serde::de::Error::custom("a member stands twice, or there are too many"));
        }
        if !member(&name.0, map)? {
            map.next_value::<IgnoredAny>()?;
        }
        seen.push(name);
    }
    Ok(())
}

/// A string, borrowed where it has no escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Borrow)
    }
}

/// `aud`: one string or a list of strings (RFC 7519 section 4.1.3).
struct Audience(Vec<String>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Audience;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E>(self, text: &str) -> Result<Audience, E> {
                Ok(Audience(vec![text.to_owned()]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Audience, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = seq.next_element()? {
                    all.push(text);
                }
                Ok(Audience(all))
            }
        }
        from.deserialize_any(OneOrMany)
    }
}

impl<'de> Deserialize<'de> for Header<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Header<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JOSE header")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header<'de>, A::Error> {
                let (mut alg, mut kid, mut typ, mut critical) = (None, None, None, false);
                members(&mut map, |name, map| {
                    match name {
                        "alg" => alg = Some(map.next_value::<Text<'de>>()?.0),
                        "kid" => kid = Some(map.next_value::<Text<'de>>()?.0),
                        "typ" => typ = Some(map.next_value::<Text<'de>>()?.0),
                        "crit" => critical = true,
                        _ => {}
                    }
                    Ok(matches!(name, "alg" | "kid" | "typ"))
                })?;
                let alg = alg.ok_or_else(|| serde::de::Error::missing_field("alg"))?;
                Ok(Header { alg, kid, typ, critical })
            }
        }
        from.deserialize_map(Members)
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Claims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claims set")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = Claims::default();
                members(&mut map, |name, map| {
                    match name {
                        "iss" => claims.iss = map.next_value()?,
                        "sub" => claims.sub = Some(map.next_value()?),
                        "aud" => claims.aud = map.next_value::<Audience>()?.0,
                        "exp" => claims.exp = Some(map.next_value()?),
                        "nbf" => claims.nbf = Some(map.next_value()?),
                        "cnf" => claims.cnf = map.next_value()?,
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(claims)
            }
        }
        from.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(count: usize, expected: Result<(), TokenError>) {
        let members: Vec<String> = (0..count).map(|n| format!("\"{n}\":0")).collect();
        let object = URL_SAFE_NO_PAD.encode(format!("{{{}}}", members.join(",")));
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#);
        assert_eq!(Unverified::parse(&format!("{header}.{object}.")).map(drop), expected, "{count} claims");
        if expected.is_err() {
            assert_eq!(Unverified::parse(&format!("{object}.{object}.")).err(), Some(TokenError::Malformed));
        }
    }

    #[test]
    fn a_token_of_very_many_members_is_refused_before_they_are_compared() {
        check(MAX_MEMBERS, Ok(()));
        check(MAX_MEMBERS + 1, Err(TokenError::Claims));
    }
}
