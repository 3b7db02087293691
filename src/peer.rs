//! Who is at the other end of a connection, as far as the connection itself proves it.
//!
//! Promises: everything here was learned from the socket or the TLS handshake; nothing is ever taken from a header.

use std::{net::SocketAddr, sync::Arc};

use crate::clock::Timestamp;

/// The other end of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address. An IPv4 client of an IPv6 listener has its IPv4 address here, not `::ffff:…`, which Cedar cannot read
    /// and which no policy means.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The certificate whose key it proved to hold, where it showed one.
    pub certificate: Option<Arc<Certificate>>,
}

/// A client's certificate. That the client holds its key was proved in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of its DER form: what `x5t#S256` of RFC 8705 section 3.1 names.
    pub thumbprint: [u8; 32],
    /// Whether it chains to the listener's trust bundle and was not revoked. Without this it proves nothing but its key.
    pub trusted: bool,
    /// Its URI names, SPIFFE ids among them, exact.
    pub uris: Vec<Box<str>>,
    /// Its DNS names, exact.
    pub dns_names: Vec<Box<str>>,
    /// Its end.
    pub not_after: Timestamp,
}
