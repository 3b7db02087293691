//! The remote peer of a connection, as the connection itself proves it.
//!
//! Promises: all values come from the socket or the TLS handshake; none ever comes from a header.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;

/// The remote peer of one connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address. An IPv4 client of an IPv6 listener has its IPv4 address here, not `::ffff:…`: Cedar cannot parse that
    /// form, and policies do not use it.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The certificate whose key it proved to possess. `None` if it presented none.
    pub certificate: Option<Arc<Certificate>>,
    /// Why every request of this connection is refused. `listen` sets it for each request.
    pub rejection: Option<CertificateRejection>,
    /// Cancelled when the connection's certificate becomes invalid.
    pub invalidated: CancellationToken,
}

impl Peer {
    /// A client that presented no certificate.
    #[must_use]
    pub fn without_certificate(address: SocketAddr, tls: bool) -> Self {
        Self { address, tls, certificate: None, rejection: None, invalidated: CancellationToken::new() }
    }
}

/// A client's certificate. The handshake proved possession of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of its DER form: `x5t#S256` of RFC 8705 section 3.1.
    pub thumbprint: [u8; 32],
    /// Whether it chains to the listener's CA bundle and was not revoked. If not, it proves possession of its key only.
    pub trusted: bool,
    /// Its URI names, SPIFFE ids among them, exact.
    pub uris: Vec<Box<str>>,
    /// Its DNS names, exact.
    pub dns_names: Vec<Box<str>>,
    /// Whether it cannot be parsed, or a name in it holds invalid bytes. It then identifies no principal.
    pub malformed: bool,
    /// When it expires.
    pub not_after: Timestamp,
    /// The presented chain, for revalidation when CAs or CRLs change.
    pub chain: Chain,
}

impl Certificate {
    /// A certificate with these names that no client presented, for commands that evaluate policy.
    #[must_use]
    pub fn hypothetical(uris: Vec<Box<str>>, dns_names: Vec<Box<str>>) -> Self {
        let chain = Chain { certificates: Vec::new(), digest: [0; 32] };
        let not_after = Timestamp::MAX;
        Self { thumbprint: [0; 32], trusted: true, uris, dns_names, malformed: false, not_after, chain }
    }
}

/// A certificate chain as the client presented it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// DER, the leaf first.
    pub certificates: Vec<Box<[u8]>>,
    /// BLAKE3 of all of them: the key of the validation cache.
    pub digest: [u8; 32],
}

/// Why the certificate of an open connection is no longer accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateRejection {
    /// The listener requires a certificate now, and the client presented none.
    Missing,
    /// The certificate has expired.
    Expired,
    /// The certificate was revoked, its CA is no longer trusted, or its CRL is past `nextUpdate`.
    Untrusted,
    /// The certificate has names that are ambiguous.
    Malformed,
}
