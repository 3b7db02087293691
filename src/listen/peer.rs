//! Who is at the other end of a connection, as far as the connection itself proves it.

use std::net::SocketAddr;

/// The other end of one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its address. Never taken from a header. An IPv4 client of an IPv6 listener has its IPv4 address here, not
    /// `::ffff:…`, which Cedar cannot read and which no policy means.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
}
