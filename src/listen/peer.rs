//! Who is at the other end of a connection, as far as the connection itself proves it.

use std::net::SocketAddr;

/// The other end of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address. Never taken from a header.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}
