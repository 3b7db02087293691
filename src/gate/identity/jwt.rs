//! Reading and checking one signed token. Pure: no I/O, no clock.
//!
//! Promises: a [`Verified`] exists only where signature, algorithm, `typ`, `iss`, `aud`, `exp`, `nbf`, `iat`, `sub` and
//! the claims that its issuer's section requires were all checked (RFC 8725 section 3, RFC 9068 section 4); a member
//! that stands twice in the header or in the claims refuses the token, since two readers could disagree on it.
//! Never: a symmetric algorithm, `none`, a key that the token itself brings or points to (`jwk`, `jku`, `x5u`, `x5c`:
//! RFC 8725 section 3.10), a JWT within the JWT, or a header extension that is critical (RFC 7515 section 4.1.11).
//!
//! ECDSA signatures are malleable: whoever has (r, s) can make (r, n-s), and half of all honest signatures have the
//! higher s, since RFC 7518 section 3.4 asks for no other. So both are taken, as every library does, and nothing in
//! this program takes a token's bytes for its identity where that would matter: what ends a token ends its key, its
//! session or its `jti`. Encodings, though, have one form only: 64 or 96 bytes, r and s below the order, no spare
//! base64 bits.

use std::{borrow::Cow, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde::de::{IgnoredAny, MapAccess};

use super::{
    claims::{Claims, check_required_claims, check_subject},
    keys::Key,
    strict_json::{self, Object, Text, is_duplicate_member, is_too_deep},
};
use crate::{clock::Timestamp, principal::Confirmation};

/// Longest token that is looked at, in bytes. Larger ones do not fit the header limits of most servers either.
pub(crate) const MAX_TOKEN: usize = 16 * 1024;

/// What may sign a token: never a shared secret, never nothing (RFC 8725 section 3.1).
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

/// What an issuer's tokens must satisfy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The exact `iss`.
    pub issuer: String,
    /// One of these must be in `aud` (RFC 7519 section 4.1.3).
    pub audiences: Vec<String>,
    /// The algorithms that its tokens may use; asymmetric only.
    pub algorithms: Vec<Algorithm>,
    /// Clock difference allowed on `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// Whether `typ` must be `at+jwt` (RFC 9068 section 4), so that no ID token passes for an access token.
    pub access_tokens_only: bool,
    /// Claims that must be there, exactly so; any value will do where there is none here.
    pub required: Vec<(String, Option<serde_json::Value>)>,
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url parts with JSON objects in the first two.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// No JWT at all: only its issuer can tell what it is.
    #[error("the token is not a signed JWT, and no issuer here can be asked about others")]
    Opaque,
    /// Five parts: a JWE (RFC 7516 section 7.1).
    #[error("the token is encrypted; this gate reads signed ones")]
    Encrypted,
    /// More than [`MAX_TOKEN`] bytes, or fewer that are no JWT.
    #[error("the token is too long: a JWT may have 16 KiB, any other token 4 KiB")]
    TooLong,
    /// A member of its header or its claims stands twice.
    #[error("a member of the token's header or claims stands twice")]
    Duplicate,
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
    /// It names no key, and several of its issuer's would fit.
    #[error("the token names no key, and its issuer publishes several that fit")]
    AmbiguousKey,
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
    NotYetValid,
    /// `sub`, `exp` or another required claim is missing or of the wrong type.
    #[error("the token lacks a required claim, or has one of the wrong type")]
    Claims,
    /// `cnf` binds it to something that cannot be checked here.
    #[error("the token is bound (`cnf`) to nothing that this gate can check; it checks `x5t#S256` and `jkt`")]
    Binding,
    /// `sub` is one that a log or a policy could misread.
    #[error("the token's subject is too long or holds control characters")]
    Subject,
    /// A claim that the issuer's section requires is missing or different.
    #[error("the token lacks a claim that this gate requires of its issuer")]
    RequiredClaim,
    /// Its issuer was asked and does not stand by it.
    #[error("the token's issuer says that it is not active")]
    Inactive,
}

impl TokenError {
    /// The stable word for audit, metrics and programs.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed | Self::Opaque => "token_malformed",
            Self::Encrypted => "token_encrypted",
            Self::TooLong => "token_too_long",
            Self::Duplicate => "token_duplicate_member",
            Self::Algorithm => "token_algorithm",
            Self::Type => "token_type",
            Self::Critical => "token_critical",
            Self::Issuer => "token_issuer",
            Self::UnknownKey => "token_unknown_key",
            Self::AmbiguousKey => "token_ambiguous_key",
            Self::Signature => "token_signature",
            Self::Audience => "token_audience",
            Self::Expired => "token_expired",
            Self::NotYetValid => "token_not_yet_valid",
            Self::Claims => "token_claims",
            Self::Binding => "token_binding",
            Self::Subject => "token_subject",
            Self::RequiredClaim => "token_required_claim",
            Self::Inactive => "token_inactive",
        }
    }
}

/// Which JWTs a place takes; `typ` must not say that a token is of another kind (RFC 8725 section 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A bearer's: an access token (RFC 9068) or an ID token.
    Bearer,
    /// An ID token, for a login.
    Id,
    /// A logout token (OpenID Connect Back-Channel Logout section 2.4).
    Logout,
}

/// Whether an ID token was made for this client (OpenID Connect Core section 3.1.3.7, steps 4 and 5): with several
/// audiences `azp` must say so, and where it is there it must not say otherwise.
#[must_use]
pub(crate) fn is_for_client(audience: &serde_json::Value, azp: Option<&str>, client_id: &str) -> bool {
    let several = audience.as_array().is_some_and(|list| list.len() > 1);
    azp.map_or(!several, |azp| azp == client_id)
}

/// A token taken apart, nothing in it believed yet. Its fields choose issuer and key, no more.
pub struct Unverified<'a> {
    message: &'a str,
    signature: &'a str,
    payload: String,
    pub(crate) algorithm: Algorithm,
    pub(super) kid: Option<String>,
    is_access_token: bool,
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
        Self::parse_as(TokenKind::Bearer, token)
    }

    /// The same for a token that should be of this kind.
    ///
    /// # Errors
    /// As [`Unverified::parse`], and where `typ` says that it is of another kind.
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
        // RFC 8725 section 3.1: what its issuer signs with no caller can know; HMAC and `none` anybody can
        if matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            return Err(TokenError::Algorithm);
        }
        let claims = Claims::read(&payload)?;
        // RFC 8725 section 3.12: logout tokens are of the same issuer, key and audience as ID tokens, and not all are
        // typed
        if claims.is_event && kind != TokenKind::Logout {
            return Err(TokenError::Type);
        }
        let kid = header.kid.map(Cow::into_owned);
        Ok(Self { message, signature, kid, algorithm, is_access_token, claims, payload })
    }

    /// The `iss` that the token claims.
    pub(super) fn issuer(&self) -> &str {
        self.claims.iss.as_deref().unwrap_or_default()
    }

    /// The `sub` that the token claims.
    pub(super) fn subject(&self) -> Option<&str> {
        self.claims.sub.as_deref()
    }

    /// The claims, as they are in the token.
    pub(super) fn payload(&self) -> &str {
        &self.payload
    }

    /// The `iat` that the token claims.
    pub(super) fn issued_at(&self) -> Option<Timestamp> {
        self.claims.issued_at()
    }

    /// The `exp` that the token claims.
    pub(super) fn expires_at(&self) -> Option<Timestamp> {
        self.claims.exp.and_then(super::claims::numeric_date)
    }

    /// Checks what needs no key: algorithm and type, as the issuer's section has them. A token that fails here costs
    /// its issuer no fetch.
    ///
    /// # Errors
    /// When the issuer's tokens are never like this.
    pub fn check_header(&self, rules: &Rules) -> Result<(), TokenError> {
        // RFC 8725 section 3.1: the algorithms are the issuer's, not the token's
        if !rules.algorithms.contains(&self.algorithm) {
            return Err(TokenError::Algorithm);
        }
        // RFC 9068 section 4: any other `typ` is rejected where access tokens are of this profile
        if rules.access_tokens_only && !self.is_access_token {
            return Err(TokenError::Type);
        }
        Ok(())
    }

    /// Checks what neither time nor a key can change, whether or not it is genuine; gives the claims.
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
        // RFC 9068 section 4, RFC 9700 section 2.3: meant for this gate
        if !self.claims.is_for(&rules.audiences) {
            return Err(TokenError::Audience);
        }
        Ok(())
    }

    /// Checks the token against its issuer's rules and one of its keys.
    ///
    /// # Errors
    /// The first rule that the token breaks; the signature is looked at before any claim.
    pub fn verify(self, key: &Key, rules: &Rules, now: Timestamp) -> Result<Verified, TokenError> {
        let (said, verified) = self.verify_without_subject(key, rules, now)?;
        Ok(Verified { subject: check_subject(said)?, ..verified })
    }

    /// The same for a token that may be about nobody, whose `sub` is for the caller to look at: a logout token may name
    /// a session instead.
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
    // RFC 6750 section 2.1: what is no `b64token` was issued by nobody
    if token.is_empty() || !token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b)) {
        return Err(TokenError::Malformed);
    }
    let decode = |part: &str| {
        // RFC 8725 section 3.7: UTF-8 and nothing else
        let bytes = URL_SAFE_NO_PAD.decode(part).ok()?;
        String::from_utf8(bytes).ok().filter(|text| !is_too_deep(text))
    };
    let (first, rest) = token.split_once('.').ok_or(TokenError::Opaque)?;
    // `{"` in base64: what begins so means to be a JWT, and is refused as one where it fails
    let means_to_be = first.starts_with("eyJ");
    let is_object =
        |text: &String| means_to_be || text.starts_with('{') && serde_json::from_str::<IgnoredAny>(text).is_ok();
    let not_one = if means_to_be { TokenError::Malformed } else { TokenError::Opaque };
    let header = decode(first).filter(is_object).ok_or(not_one)?;
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
    /// `crit`, or `b64`, which is nothing without `crit` (RFC 7797 section 6) and the payload's other reading with it.
    critical: bool,
    /// `cty` is there: the payload is not claims but another token (RFC 7519 section 5.2).
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
    fn a_token_of_very_many_members_is_refused_before_they_are_compared() {
        check(MAX_MEMBERS, Ok(()));
        check(MAX_MEMBERS + 1, Err(TokenError::Claims));
    }
}
