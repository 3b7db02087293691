//! The gate as a token issuer: audiences, signing, and the cache of signed assertions.
//!
//! Promises: each token names this gate as `iss`, one principal as `sub`, one audience, and an `exp` at most an hour
//! away. Each kind of token has its own `typ` and audience, so that none is accepted as another (RFC 8725 sections 3.11
//! and 3.12).

use std::{sync::Arc, time::Duration};

use http::HeaderValue;
use quick_cache::sync::Cache;
use serde::Serialize;

use crate::{
    clock::Timestamp,
    gate::{policy::Resource, signing::Signing},
    refusal::Refusal,
    telemetry::chain,
};

/// How long verifiers may cache the key set. A key is published for longer than this before it signs.
pub(crate) const JWKS_MAX_AGE: Duration = Duration::from_secs(600);
/// The Cedar action of a token exchange.
pub(crate) const EXCHANGE: &str = "Token.Exchange";

/// Assertions in the cache; the least recently used is evicted.
const MAX_ASSERTIONS: usize = 10_000;

/// The gate as a token issuer.
pub(crate) struct TokenIssuer {
    /// `iss` of every token: `[gate] url` without a trailing slash.
    pub url: String,
    /// Longest lifetime of a token.
    pub lifetime: Duration,
    /// The signing keys.
    pub signing: Arc<Signing>,
    /// Permitted audiences; the gate's own is the first.
    audiences: Vec<Resource>,
    pub(super) action: Arc<str>,
    /// Signed assertions, by [`AssertionKey`].
    pub(super) assertions: Cache<AssertionKey, Arc<CachedAssertion>>,
}

/// The proof's digest and the exporter's name; `None` is Vertex.
pub(super) type AssertionKey = ([u8; 32], Option<Arc<str>>);

/// A signed assertion.
pub(super) struct CachedAssertion {
    pub(super) value: HeaderValue,
    /// From then on a new one is signed.
    pub(super) until: Timestamp,
}

impl TokenIssuer {
    /// Issues tokens for these audiences. The first is the gate's own: the gate accepts tokens for it.
    #[must_use]
    pub(crate) fn new(url: &str, audiences: &[String], lifetime: Duration, signing: Arc<Signing>) -> Self {
        Self {
            url: url.to_owned(),
            lifetime,
            signing,
            audiences: audiences.iter().map(|name| Resource::Service(name.as_str().into())).collect(),
            action: EXCHANGE.into(),
            assertions: Cache::new(MAX_ASSERTIONS),
        }
    }

    /// The audience with this exact name, as a Cedar resource.
    pub(super) fn audience(&self, name: &str) -> Option<&Resource> {
        self.audiences.iter().find(|audience| **audience.id() == *name)
    }

    /// A signed JWT of this type.
    pub(super) fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String, Refusal> {
        let unavailable = || Refusal::unavailable("no_signing_key", "the gate has no signing key; try again later");
        let claims = serde_json::to_string(claims).map_err(|e| unavailable().with_detail(e))?;
        let signed = self.signing.sign(typ, &claims).map_err(|e| unavailable().with_detail(chain(&e)))?;
        signed.ok_or_else(unavailable)
    }
}
