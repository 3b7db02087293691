//! Emulators of the gate's peers on loopback: an OIDC issuer, Google, an exporter, and a CA for them.
//!
//! Promises: each emulator speaks the real protocol and makes the checks of the real peer. It listens on loopback only,
//! records its requests and stops on `stop`. Keys, tokens and passwords are made at run time and stay in memory or in
//! the demo's own directory.
//!
//! Must never import what it imitates (identity, credentials, ingest): a mistake there would be made twice. Only `cli`
//! and the tests import it. It must never guard anything.

pub(crate) mod directory;
pub(crate) mod environment;
mod error;
pub(crate) mod exporter;
pub(crate) mod google;
pub(crate) mod history;
pub(crate) mod issuer;
pub(crate) mod pki;
mod random;
pub(crate) mod server;
#[cfg(test)]
mod tests;
