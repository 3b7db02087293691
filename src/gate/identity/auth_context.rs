//! Input and result of an authentication.

use std::sync::Arc;

use http::{HeaderMap, Method};

use crate::{clock::Timestamp, peer::Peer, principal::Principal};

/// The parts of a request that authentication reads.
#[derive(Clone, Copy)]
pub struct AuthContext<'a> {
    /// The other end of the connection.
    pub peer: &'a Peer,
    /// The HTTP method.
    pub method: &'a Method,
    /// The canonical path.
    pub path: &'a str,
    /// The headers, as sent.
    pub headers: &'a HeaderMap,
    /// When the request's head had arrived.
    pub now: Timestamp,
}

/// An authenticated principal, and whether its token was verified for this request.
pub struct Authenticated {
    /// The principal.
    pub principal: Arc<Principal>,
    /// Whether a signature was verified or a token validated just now, rather than found in a cache.
    pub fresh: bool,
}
