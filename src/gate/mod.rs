//! The gate: from a connection to an authorized, audited request and its answer.
//!
//! `proxy/handle.rs` tells the story of one request; the other modules are its steps. Never: an import of the metrics
//! half; what that half serves comes in as an `http::LocalService`.

pub mod audit;
pub mod credentials;
pub mod grants;
pub mod identity;
pub mod limits;
pub mod listen;
pub mod policy;
pub mod proxy;
pub mod routes;
pub mod signing;
