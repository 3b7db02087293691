//! The gate's configuration snapshot: everything that a request is served from.

use std::sync::Arc;

use super::{metrics::Metrics, token_issuer::TokenIssuer};
use crate::gate::{audit, grants::Grants, identity::Identity, limits::Limits, policy::Policy, routes::Routes};

/// Everything that a request is served from: one snapshot, built whole and never changed.
pub(crate) struct Gate {
    /// The gate's public https URL. `None` if none is configured.
    pub url: Option<String>,
    /// The token bindings (`cnf`) that the gate can verify.
    pub bindings: TokenBindings,
    /// The routes.
    pub routes: Routes,
    /// Authentication.
    pub identity: Arc<Identity>,
    /// The gate as a token issuer. `None` if `[token_issuer]` is not configured.
    pub token_issuer: Option<TokenIssuer>,
    /// Authorization.
    pub policy: Policy,
    /// Rate limits and quotas.
    pub limits: Limits,
    /// Temporary role grants. `None` if `[grants]` is not configured.
    pub grants: Option<Arc<Grants>>,
    /// The audit log.
    pub audit: Arc<audit::Log>,
    /// Request metrics.
    pub metrics: Arc<Metrics>,
}

/// The token bindings that the gate supports, as its metadata and its challenges list them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenBindings {
    /// Whether DPoP proofs can be verified (RFC 9449).
    pub dpop: bool,
    /// Whether a listener requests client certificates (RFC 8705).
    pub certificates: bool,
    /// Whether a bound token is required on routes that do not configure `token_binding`.
    pub required: bool,
}
