//! The HTTP proxy: one request from its head to its last byte.
//!
//! Promises: nothing is forwarded without a `Permit`; a permit exists only after authentication and authorization, and
//! the audit log has the decision before the first byte leaves; every way out closes the request's record. Read
//! `handle.rs` first: it calls every step in order.

mod answer;
mod audited_body;
mod authorize;
mod error_response;
mod forward;
mod gate;
mod grpc_status;
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

pub use self::target::Target;
pub(crate) use self::{
    audited_body::AuditedBody,
    gate::{Gate, TokenBindings},
    handle::{handle, record_parse_failure},
    metrics::Metrics,
    token_issuer::{EXCHANGE, JWKS_MAX_AGE, TokenIssuer},
};
