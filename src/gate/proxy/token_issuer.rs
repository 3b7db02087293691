//! The gate as an issuer: what it says of itself, and how it signs what it says of others.
//!
//! Promises: whatever it signs names this gate as `iss`, one principal as `sub`, one audience, and an end that is at
//! most an hour away. Each kind of token has a `typ` and an audience of its own, so that none can be taken for another
//! (RFC 8725 sections 3.11 and 3.12).

use std::{sync::Arc, time::Duration};

use serde::Serialize;

use crate::{
    gate::{policy::Resource, signing::Signing},
    refusal::Refusal,
    telemetry::chain,
};

/// How long verifiers may keep the key set. Keys are published for longer than this before they sign.
pub(crate) const JWKS_MAX_AGE: Duration = Duration::from_secs(600);
/// The Cedar action that asking for a token is.
pub(crate) const EXCHANGE: &str = "Token.Exchange";

/// The gate as an issuer.
pub(crate) struct TokenIssuer {
    /// `iss` of everything that it signs: `[gate] url` without a slash at its end.
    pub url: String,
    /// How long its tokens live at most.
    pub lifetime: Duration,
    /// The keys.
    pub signing: Arc<Signing>,
    /// Whom tokens may be asked for; the gate itself is the first.
    audiences: Vec<Resource>,
    pub(super) action: Arc<str>,
    pub(super) assertions: super::identity_headers::Assertions,
}

impl TokenIssuer {
    /// Issues tokens for these audiences. The first is the gate's own: tokens for it are accepted here.
    #[must_use]
    pub(crate) fn new(url: &str, audiences: &[String], lifetime: Duration, signing: Arc<Signing>) -> Self {
        Self {
            url: url.to_owned(),
            lifetime,
            signing,
            audiences: audiences.iter().map(|name| Resource::Service(name.as_str().into())).collect(),
            action: EXCHANGE.into(),
            assertions: super::identity_headers::Assertions::default(),
        }
    }

    /// The audience of this exact name, as policy knows it.
    pub(super) fn audience(&self, name: &str) -> Option<&Resource> {
        self.audiences.iter().find(|audience| **audience.id() == *name)
    }

    /// A signed JWT of this type.
    pub(super) fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, Refusal> {
        let unavailable =
            || Refusal::unavailable("no_signing_key", "the gate has no key to sign with; try again later");
        let claims = serde_json::to_string(claims).map_err(|e| unavailable().with_detail(e))?;
        let signed = self.signing.sign(typ, &claims).map_err(|e| unavailable().with_detail(chain(&e)))?;
        signed.ok_or_else(unavailable)
    }

    /// OpenID Connect Discovery 1.0 section 3 and RFC 8414 section 2: one document for both. Nobody logs in here, so
    /// there is no authorization endpoint; clusters and clouds that issue tokens for workloads publish theirs in the
    /// same shape.
    pub(super) fn metadata(&self) -> String {
        let url = &self.url;
        serde_json::json!({
            "issuer": url,
            "jwks_uri": format!("{url}{JWKS}"),
            "token_endpoint": format!("{url}{TOKEN}"),
            "token_endpoint_auth_methods_supported": ["none"],
            "grant_types_supported": [super::open::token::GRANT],
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "client_id", "roles"],
        })
        .to_string()
    }
}

/// OpenID Connect Discovery 1.0 section 4.
pub(super) const OPENID: &str = "/.well-known/openid-configuration";
/// RFC 8414 section 3.
pub(super) const OAUTH: &str = "/.well-known/oauth-authorization-server";
/// Where the key set is.
pub(super) const JWKS: &str = "/.well-known/jwks.json";
/// Where tokens are exchanged.
pub(super) const TOKEN: &str = "/oauth2/token";
