//! Parsing and verification of one JWT. Pure: no I/O, no clock.
//!
//! Promises: a [`Verified`] exists only if signature, algorithm, `typ`, `iss`, `aud`, `exp`, `nbf`, `iat`, `sub` and the
//! claims that its issuer's section requires were all checked (RFC 8725 section 3, RFC 9068 section 4). A duplicate
//! member in the header or in the claims refuses the token, because two parsers could disagree on it.
//! Never: a symmetric algorithm, `none`, a key that the token itself contains or refers to (`jwk`, `jku`, `x5u`, `x5c`:
//! RFC 8725 section 3.10), a JWT within the JWT, or a header extension that is critical (RFC 7515 section 4.1.11).
//!
//! ECDSA signatures are malleable: (r, s) can be turned into (r, n-s), and half of all honest signatures have the higher
//! s, because RFC 7518 section 3.4 does not exclude it. Both are accepted, as by every library. Therefore revocation
//! never identifies a token by its bytes: it revokes a key, a session or a `jti`. Each value has one encoding only: 64 or
//! 96 bytes, r and s below the order, no spare base64 bits.

use std::borrow::Cow;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::de::{IgnoredAny, MapAccess};

pub(crate) use super::rules::TokenKind;
pub use super::rules::{Rules, TokenError};
use super::{
    claims::{Claims, check_required_claims, check_subject},
    keys::Key,
    strict_json::{self, Object, Text, is_duplicate_member, is_too_deep},
};
use crate::{clock::Timestamp, principal::Confirmation};

/// Longest JWT in bytes. Most servers' header limits exclude larger ones anyway.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;

/// The accepted signature algorithms: never a symmetric one, never `none` (RFC 8725 section 3.1).
pub(crate) const ASYMMETRIC: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// Whether an ID token is for this client (OpenID Connect Core section 3.1.3.7, steps 4 and 5): with several audiences
/// `azp` must be present, and if present it must be this client.
#[must_use]
pub(crate) fn is_for_client(audience: &serde_json::Value, azp: Option<&str>, client_id: &str) -> bool {
    let several = audience.as_array().is_some_and(|list| list.len() > 1);
    azp.map_or(!several, |azp| azp == client_id)
}

/// A parsed, unverified token. Its fields may only select issuer and key.
pub struct Unverified<'a> {
    message: &'a str,
    signature: &'a str,
    payload: String,
    pub(crate) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    is_access_token: bool,
    claims: Claims,
}

/// The claims of a verified token.
#[derive(Debug)]
pub struct Verified {
    /// `sub`.
    pub subject: String,
    /// `exp`.
    pub expires_at: Timestamp,
    /// The claims as they were signed: one JSON object.
    pub claims: Box<str>,
    /// The certificate or key that the token is bound to (`cnf`).
    pub confirmation: Option<Confirmation>,
}

impl<'a> Unverified<'a> {
    /// Parses a bearer token.
    ///
    /// # Errors
    /// If it is not a JWS in compact form, or its header has a feature that is never accepted.
    pub fn parse(token: &'a str) -> Result<Self, TokenError> {
        Self::parse_as(TokenKind::Bearer, token)
    }

    /// Parses a token of this kind.
    ///
    /// # Errors
    /// As [`Unverified::parse`], and if `typ` is that of another kind.
    pub fn parse_as(kind: TokenKind, token: &'a str) -> Result<Self, TokenError> {
        let (message, signature, header, payload) = parts(token)?;
        let header: Header<'_> = strict_json::read(&header)
            .map_err(|e| if is_duplicate_member(&e) { TokenError::Duplicate } else { TokenError::Malformed })?;
        let alg = header.alg.ok_or(TokenError::Malformed)?;
        if header.critical {
            return Err(TokenError::Critical);
        }
        // RFC 8725 section 3.11; RFC 9068 section 2.1: `at+jwt` and `application/at+jwt` are the same
        let typ = header.typ.map(|t| t.to_ascii_lowercase());
        let typ = typ.as_deref().map(|t| t.strip_prefix("application/").unwrap_or(t));
        let is_of_kind = match typ {
            None | Some("jwt") => true,
            Some("at+jwt") => kind == TokenKind::Bearer,
            Some("logout+jwt") => kind == TokenKind::Logout,
            Some(_) => false,
        };
        if !is_of_kind || header.nested {
            return Err(TokenError::Type);
        }
        let is_access_token = typ == Some("at+jwt");
        let algorithm = alg.parse().map_err(|_| TokenError::Algorithm)?;
        // RFC 8725 section 3.1: HMAC needs a shared secret, and `none` needs nothing
        if matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return Err(TokenError::Algorithm);
        }
        let claims = Claims::read(&payload)?;
        // RFC 8725 section 3.12: logout tokens have the same issuer, key and audience as ID tokens, and not all have a
        // `typ`
        if claims.is_event && kind != TokenKind::Logout {
            return Err(TokenError::Type);
        }
        let kid = header.kid.map(Cow::into_owned);
        Ok(Self { message, signature, kid, algorithm, is_access_token, claims, payload })
    }

    /// The unverified `iss`.
    pub(super) fn issuer(&self) -> &str {
        self.claims.iss.as_deref().unwrap_or_default()
    }

    /// The unverified `sub`.
    pub(super) fn subject(&self) -> Option<&str> {
        self.claims.sub.as_deref()
    }

    /// The unverified claims, as in the token.
    pub(super) fn payload(&self) -> &str {
        &self.payload
    }

    /// The unverified `iat`.
    pub(super) fn issued_at(&self) -> Option<Timestamp> {
        self.claims.issued_at()
    }

    /// The unverified `exp`.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        self.claims.exp.and_then(super::claims::numeric_date)
    }

    /// Checks algorithm and type against the issuer's rules. A token that fails causes no fetch of keys.
    ///
    /// # Errors
    /// If the issuer's rules exclude its algorithm or type.
    pub fn check_header(&self, rules: &Rules) -> Result<(), TokenError> {
        // RFC 8725 section 3.1: the algorithms are the issuer's, not the token's
        if !rules.algorithms.contains(&self.algorithm) {
            return Err(TokenError::Algorithm);
        }
        // RFC 9068 section 4: any other `typ` is rejected if access tokens have this profile
        if rules.access_tokens_only && !self.is_access_token {
            return Err(TokenError::Type);
        }
        Ok(())
    }

    /// Checks the rules that depend neither on the time nor on a key, without the signature. Returns the claims.
    pub(super) fn check_offline(&self, rules: &Rules) -> Result<&str, TokenError> {
        self.check_header(rules)?;
        self.check_issuer_and_audience(rules)?;
        check_required_claims(&self.payload, rules)?;
        Ok(&self.payload)
    }

    fn check_issuer_and_audience(&self, rules: &Rules) -> Result<(), TokenError> {
        // RFC 8725 section 3.8: the key is the issuer's, so the token must be too
        if self.issuer() != rules.issuer {
            return Err(TokenError::Issuer);
        }
        // RFC 9068 section 4, RFC 9700 section 2.3: the audience is this gate
        if !self.claims.is_for(&rules.audiences) {
            return Err(TokenError::Audience);
        }
        Ok(())
    }

    /// Verifies the token with its issuer's rules and one of its keys.
    ///
    /// # Errors
    /// The first rule that the token violates; the signature is verified before any claim.
    pub fn verify(self, key: &Key, rules: &Rules, now: Timestamp) -> Result<Verified, TokenError> {
        let (subject, verified) = self.verify_without_subject(key, rules, now)?;
        Ok(Verified { subject: check_subject(subject)?, ..verified })
    }

    /// Verifies a token whose `sub` is optional, and returns the `sub`: a logout token may contain `sid` instead.
    pub(super) fn verify_without_subject(
        self,
        key: &Key,
        rules: &Rules,
        now: Timestamp,
    ) -> Result<(Option<String>, Verified), TokenError> {
        self.check_header(rules)?;
        if !key.supports(self.algorithm) {
            return Err(TokenError::Algorithm);
        }
        if !key.verify(self.algorithm, self.message.as_bytes(), self.signature) {
            return Err(TokenError::Signature);
        }
        self.check_issuer_and_audience(rules)?;
        let expires_at = self.claims.check_times(rules.leeway, now)?.ok_or(TokenError::Claims)?;
        check_required_claims(&self.payload, rules)?;
        let confirmation = self.claims.cnf.confirmation()?;
        let verified = Verified { subject: String::new(), expires_at, claims: self.payload.into(), confirmation };
        Ok((self.claims.sub, verified))
    }
}

/// Message, signature, header and payload of a JWS in compact form (RFC 7515 section 7.1), the last two decoded.
fn parts(token: &str) -> Result<(&str, &str, String, String), TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::TooLong);
    }
    // RFC 6750 section 2.1: a token is a `b64token`
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b)) {
        return Err(TokenError::Malformed);
    }
    let decode = |part: &str| {
        // RFC 8725 section 3.7: UTF-8 only
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        String::from_utf8(bytes).ok().filter(|text| !is_too_deep(text))
    };
    let (first, rest) = token.split_once('.').ok_or(TokenError::Opaque)?;
    // `{"` in base64: a token that begins so is refused as a malformed JWT, not taken as opaque
    let looks_like_jwt = first.starts_with("eyJ");
    let is_object =
        |text: &String| looks_like_jwt || text.starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok();
    let error = if looks_like_jwt { TokenError::Malformed } else { TokenError::Opaque };
    let header = decode(first).filter(is_object).ok_or(error)?;
    let dots = rest.bytes().filter(|b| *b == b'.').count();
    let (message, signature) = match (dots, token.rsplit_once('.')) {
        (1, Some(parts)) => parts,
        // RFC 7516 section 7.1
        (3, _) => return Err(TokenError::Encrypted),
        _ => return Err(TokenError::Malformed),
    };
    let payload = rest.split('.').next().and_then(|part| URL_SAFE_NO_PAD.decode(part).ok());
    let payload = String::from_utf8(payload.ok_or(TokenError::Malformed)?).map_err(|_| TokenError::Claims)?;
    Ok((message, signature, header, payload))
}

#[derive(Default)]
struct Header<'a> {
    alg: Option<Cow<'a, str>>,
    kid: Option<Cow<'a, str>>,
    typ: Option<Cow<'a, str>>,
    /// `crit` is present, or `b64`, which requires `crit` (RFC 7797 section 6) and changes the encoding of the payload.
    critical: bool,
    /// `cty` is present: the payload is another token (RFC 7519 section 5.2).
    nested: bool,
}

impl<'de> Object<'de> for Header<'de> {
    const NAME: &'static str = "a JOSE header";

    fn member<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "alg" => self.alg = Some(map.next_value::<Text<'de>>()?.0),
            "kid" => self.kid = Some(map.next_value::<Text<'de>>()?.0),
            "typ" => self.typ = Some(map.next_value::<Text<'de>>()?.0),
            "crit" | "b64" => self.critical = true,
            "cty" => self.nested = true,
            _ => {}
        }
        Ok(matches!(name, "alg" | "kid" | "typ"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::identity::strict_json::MAX_MEMBERS;

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
    fn a_token_with_too_many_members_is_refused_before_they_are_compared() {
        check(MAX_MEMBERS, Ok(()));
        check(MAX_MEMBERS + 1, Err(TokenError::Claims));
    }
}
