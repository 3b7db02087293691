//! Who is asking: the one name that a caller has everywhere.
//!
//! A [`Principal`] exists only after its proof was verified; `identity` makes it, everything else reads it.

use std::sync::Arc;

use crate::clock::Timestamp;

/// A verified caller.
#[derive(Debug)]
pub struct Principal {
    /// `issuer-name:subject`, the same on every cloud and in every log.
    pub name: Arc<str>,
    /// The name that configuration gives the issuer.
    pub issuer: Arc<str>,
    /// The token's `sub`, exact.
    pub subject: Box<str>,
    /// The verified claims, as the JSON object that was signed.
    pub claims: Box<str>,
    /// BLAKE3 of the token that proved this. Stands for the claims in caches; never the token itself.
    pub proof: [u8; 32],
    /// The token's `exp`.
    pub expires_at: Timestamp,
}

/// What a local service is told of whom it serves.
#[derive(Clone, Debug)]
pub struct Caller {
    /// The principal's name.
    pub principal: Arc<str>,
    /// The roles the decision was made with.
    pub roles: Arc<[Arc<str>]>,
}
