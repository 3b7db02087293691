//! OpenID Connect client (relying party), over the crate `openidconnect`.
//!
//! Promises: the gate and its commands share this one client: provider metadata, authorization requests, token requests,
//! ID token verification and logout requests. [`key::VerificationKey`] is the crate's key type, so that aws-lc-rs
//! verifies every signature; the crate's own cryptography is never called. Rules that the crate leaves out (`azp`,
//! `at_hash`, `nbf`, required claims, duplicate members) are checked after it. Never: the crate's `core` key types.

pub(crate) mod client;
pub(crate) mod id_token;
pub(crate) mod key;
pub(crate) mod metadata;
