//! The gate: from a connection to an authorized, audited request and its answer.
//!
//! `proxy/handle.rs` tells the story of one request; the other modules are its steps. Never: an import of the metrics
//! half; what that half serves comes in as an `http::LocalService`.

pub(crate) mod audit;
pub(crate) mod credentials;
pub(crate) mod grants;
pub(crate) mod identity;
pub(crate) mod limits;
pub(crate) mod listen;
pub(crate) mod policy;
pub(crate) mod proxy;
pub(crate) mod routes;
pub(crate) mod signing;
