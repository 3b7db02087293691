//! The gate itself: one request, told from its head to its last byte.
//!
//! Promises: nothing is forwarded without a `Permit`, and a permit exists only after principal and policy were asked
//! and the decision was written down; every way out closes the request's record. Open `handle.rs` first: the story is
//! there.

mod answer;
mod audited_body;
mod authorize;
mod error_response;
mod forward;
mod guardrails;
mod handle;
mod headers;
mod identity_headers;
mod limit;
mod local;
mod metrics;
mod open;
mod pages;
mod request_body;
mod response_usage;
mod stream_end;
mod target;
mod token_issuer;

use std::sync::Arc;

pub use self::target::Target;
pub(crate) use self::{
    audited_body::AuditedBody,
    handle::{handle, parse_failed},
    metrics::Metrics,
    token_issuer::{EXCHANGE, JWKS_MAX_AGE, TokenIssuer},
};
use crate::gate::{audit, grants::Grants, identity::Identity, limits::Limits, policy::Policy, routes::Routes};

/// Everything that a request is served from: one snapshot, built whole and never changed.
pub(crate) struct Gate {
    /// The https URL that clients know the gate by, where it is configured.
    pub url: Option<String>,
    /// How tokens can be bound to their senders.
    pub bindings: Bindings,
    /// Where requests can go.
    pub routes: Routes,
    /// Who callers are.
    pub identity: Arc<Identity>,
    /// The gate as an issuer of tokens, where it is one.
    pub token_issuer: Option<TokenIssuer>,
    /// What they may do.
    pub policy: Policy,
    /// How much of it.
    pub limits: Limits,
    /// What they are granted for a time, where grants are given.
    pub grants: Option<Arc<Grants>>,
    /// Where it is written down.
    pub audit: Arc<audit::Log>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
}

/// How tokens can be bound to their senders, as the gate tells its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bindings {
    /// Whether DPoP proofs can be checked (RFC 9449).
    pub dpop: bool,
    /// Whether some listener asks for client certificates (RFC 8705).
    pub certificates: bool,
    /// Whether routes that do not say otherwise take no other tokens.
    pub required: bool,
}
