//! Validation rules of an issuer's tokens, and the reasons to refuse a token.

use std::time::Duration;

use jsonwebtoken::Algorithm;

/// The validation rules of one issuer's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The exact `iss`.
    pub issuer: String,
    /// `aud` must contain one of these (RFC 7519 section 4.1.3).
    pub audiences: Vec<String>,
    /// The accepted signature algorithms; asymmetric only.
    pub algorithms: Vec<Algorithm>,
    /// Clock difference allowed on `exp`, `nbf` and `iat`.
    pub leeway: Duration,
    /// Whether `typ` must be `at+jwt` (RFC 9068 section 4), so that an ID token is not accepted as an access token.
    pub access_tokens_only: bool,
    /// Required claims. `None` accepts any value.
    pub required: Vec<(String, Option<serde_json::Value>)>,
}

/// The reason why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not three base64url parts with JSON objects in the first two.
    #[error("the token is not a signed JWT")]
    Malformed,
    /// Not a JWT: only introspection at its issuer can validate it.
    #[error("the token is not a signed JWT, and no issuer is configured for introspection of opaque tokens")]
    Opaque,
    /// Five parts: a JWE (RFC 7516 section 7.1).
    #[error("the token is encrypted (JWE); this gate accepts signed tokens only")]
    Encrypted,
    /// A JWT of more than 16 KiB, or an opaque token of more than 4 KiB.
    #[error("the token is too long: the limit is 16 KiB for a JWT, 4 KiB for an opaque token")]
    TooLong,
    /// Duplicate member in the header or in the claims.
    #[error("the token's header or claims contain a duplicate member")]
    Duplicate,
    /// `alg` is missing, `none`, symmetric, or not in the issuer's list.
    #[error("the token's algorithm is not accepted for its issuer")]
    Algorithm,
    /// `typ` is that of another kind of JWT (RFC 8725 section 3.11).
    #[error("the token's `typ` is not that of an access token or ID token")]
    Type,
    /// A critical header extension; this gate supports none.
    #[error("the token has a critical header extension")]
    Critical,
    /// No configured issuer has this `iss`.
    #[error("the token's issuer is not one this gate trusts")]
    Issuer,
    /// The issuer publishes no key with this `kid` and algorithm.
    #[error("the token is signed with a key that its issuer does not publish")]
    UnknownKey,
    /// The token has no `kid`, and several keys of its issuer fit.
    #[error("the token has no `kid`, and its issuer publishes several keys that fit")]
    AmbiguousKey,
    /// The signature does not verify.
    #[error("the token's signature is invalid")]
    Signature,
    /// `aud` is missing or does not name this gate.
    #[error("the token is for another audience")]
    Audience,
    /// `exp` is in the past.
    #[error("the token has expired")]
    Expired,
    /// `nbf` or `iat` is in the future.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// `sub`, `exp` or another required claim is missing or of the wrong type.
    #[error("the token lacks a required claim, or has one of the wrong type")]
    Claims,
    /// `cnf` has a confirmation method that this gate does not support.
    #[error("the token's confirmation method (`cnf`) is not supported; this gate supports `x5t#S256` and `jkt`")]
    Binding,
    /// `sub` is too long, or could be misread in a log or a policy.
    #[error("the token's subject is too long or contains control characters")]
    Subject,
    /// A claim that the issuer's configuration requires is missing or has another value.
    #[error("the token lacks a claim that this gate requires of its issuer")]
    RequiredClaim,
    /// Introspection or TokenReview reports the token as not active.
    #[error("the token's issuer reports that it is not active")]
    Inactive,
}

impl TokenError {
    /// The stable reason code for audit, metrics and programs.
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

/// The expected kind of JWT; `typ` must not name another one (RFC 8725 section 3.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A bearer token: an access token (RFC 9068) or an ID token.
    Bearer,
    /// An ID token of a login.
    Id,
    /// A logout token (OpenID Connect Back-Channel Logout section 2.4).
    Logout,
}
