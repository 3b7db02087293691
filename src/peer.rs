//! Who is at the other end of a connection, as far as the connection itself proves it.
//!
//! Promises: everything here was learned from the socket or the TLS handshake; nothing is ever taken from a header.

use std::{net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;

/// The other end of one connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address. An IPv4 client of an IPv6 listener has its IPv4 address here, not `::ffff:…`, which Cedar cannot
    /// read and which no policy means.
    pub address: SocketAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The certificate whose key it proved to hold, where it showed one.
    pub certificate: Option<Arc<Certificate>>,
    /// Why nothing is done for this connection any longer, whatever its requests bring. `listen` looks at each request.
    pub rejection: Option<CertificateRejection>,
    /// Cancelled when that is so of the connection as a whole. For those who wait.
    pub invalidated: CancellationToken,
}

impl Peer {
    /// A client that showed no certificate.
    #[must_use]
    pub fn without_certificate(address: SocketAddr, tls: bool) -> Self {
        Self { address, tls, certificate: None, rejection: None, invalidated: CancellationToken::new() }
    }
}

/// A client's certificate. That the client holds its key was proved in the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// SHA-256 of its DER form: what `x5t#S256` of RFC 8705 section 3.1 names.
    pub thumbprint: [u8; 32],
    /// Whether it chains to the listener's trust bundle and was not revoked. Without this it proves nothing but its
    /// key.
    pub trusted: bool,
    /// Its URI names, SPIFFE ids among them, exact.
    pub uris: Vec<Box<str>>,
    /// Its DNS names, exact.
    pub dns_names: Vec<Box<str>>,
    /// Whether a name in it holds bytes that no name has, or it cannot be read: then it names nobody.
    pub malformed: bool,
    /// Its end.
    pub not_after: Timestamp,
    /// What the client showed, to be verified again when what is trusted changes.
    pub chain: Chain,
}

impl Certificate {
    /// A certificate that nobody has shown, with these names, for commands that ask what policy would say.
    #[must_use]
    pub fn hypothetical(uris: Vec<Box<str>>, dns_names: Vec<Box<str>>) -> Self {
        let chain = Chain { certificates: Vec::new(), digest: [0; 32] };
        let not_after = Timestamp::MAX;
        Self { thumbprint: [0; 32], trusted: true, uris, dns_names, malformed: false, not_after, chain }
    }
}

/// A chain of certificates as it was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// DER, the client's own first.
    pub certificates: Vec<Box<[u8]>>,
    /// BLAKE3 of all of them: the same chain is judged once.
    pub digest: [u8; 32],
}

/// Why a connection that was once let in proves nothing any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateRejection {
    /// The listener requires a certificate now, and none was shown.
    Missing,
    /// The certificate has expired.
    Expired,
    /// The certificate was revoked, its CA is no longer trusted, or nobody can say since the list of revoked ones is
    /// old.
    Untrusted,
    /// The certificate has names that cannot be told from others.
    Malformed,
}
