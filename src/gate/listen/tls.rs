//! Server-side TLS: certificate and key files, TLS 1.2 or later, HTTP/2 by ALPN, and client certificates.
//!
//! Promises: each request revalidates the certificate of its connection by the current configuration, so that an expired
//! or revoked certificate, or one whose CA was removed, is rejected on open connections too. Revocation fails closed: if
//! CRLs are configured, a chain that no CRL covers is refused, and so is one whose CRL is past its `nextUpdate`. If client
//! certificates are requested, sessions are never resumed, so that each handshake proves its certificate.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quick_cache::sync::Cache;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, danger::ClientCertVerifier},
};

use super::{
    clients::{AnyKey, Bundle},
    pem::{TlsError, certificates},
};
use crate::{
    clock::{self, Timestamp},
    peer::{Certificate, CertificateRejection, Peer},
};

/// How long a validation result is cached. It is short because CRLs and intermediate certificates expire.
const VALIDATION_TTL: Duration = Duration::from_secs(30);
/// Chains in the validation cache; the least recently used is evicted.
const MAX_VALIDATED_CHAINS: usize = 10_000;

/// A listener's TLS configuration.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    clients: Option<Arc<Clients>>,
}

/// The client certificates that a listener accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificates {
    /// Certificates that chain to a CA bundle.
    Verified {
        /// The CA certificates, PEM.
        ca: PathBuf,
        /// CRLs, PEM or DER. If there are none, revocation is not checked.
        crls: Vec<PathBuf>,
        /// Whether the handshake refuses a client without a certificate.
        required: bool,
    },
    /// Any certificate, self-signed ones too (RFC 8705 section 3). It proves possession of a key, not an identity.
    Any,
}

/// The validator of client certificates.
struct Clients {
    /// `None` if any certificate is accepted.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    required: bool,
    validated: Cache<[u8; 32], (bool, Timestamp)>,
}

/// Loads a certificate chain and its key, both PEM, and the CA bundle and CRLs for client certificates.
///
/// # Errors
/// If a file cannot be read, or certificate and key do not match.
pub(crate) fn server_config(
    certificate: &Path,
    key: &Path,
    clients: Option<&ClientCertificates>,
) -> Result<Tls, TlsError> {
    let chain = certificates(certificate)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| TlsError::Key(key.to_owned(), e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let (builder, clients) = match clients {
        None => (builder.with_no_client_auth(), None),
        Some(ClientCertificates::Any) => {
            let verifier = Arc::new(AnyKey::new(&provider));
            (builder.with_client_cert_verifier(verifier), Some(Clients::new(None, false)))
        }
        Some(ClientCertificates::Verified { ca, crls, required }) => {
            let verifier = Bundle { ca, crls, required: *required }.verifier(provider)?;
            (builder.with_client_cert_verifier(verifier.clone()), Some(Clients::new(Some(verifier), *required)))
        }
    };
    let mut config = builder.with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    if clients.is_some() {
        // a resumed session would carry a certificate that this handshake did not verify
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Tls { config: Arc::new(config), clients: clients.map(Arc::new) })
}

impl Tls {
    /// Whether the listener requests client certificates.
    #[must_use]
    pub(crate) fn requests_certificates(&self) -> bool {
        self.clients.is_some()
    }

    /// Whether the handshake verifies client certificates.
    #[must_use]
    pub(crate) fn verifies(&self) -> bool {
        self.clients.as_ref().is_some_and(|clients| clients.verifier.is_some())
    }

    /// Whether the peer's certificate has become invalid since the handshake.
    pub(super) fn is_invalidated(&self, peer: &Peer, now: Timestamp) -> bool {
        let trusted = |peer: &Peer| peer.certificate.as_ref().is_some_and(|certificate| certificate.trusted);
        let revalidated = self.judge(peer.clone(), now);
        revalidated.rejection.is_some() || (trusted(peer) && !trusted(&revalidated))
    }

    /// Revalidates the peer's certificate by this configuration, which may be newer than the handshake.
    #[must_use]
    pub(crate) fn judge(&self, peer: Peer, now: Timestamp) -> Peer {
        let Some(clients) = &self.clients else {
            return Peer { certificate: None, rejection: None, ..peer };
        };
        let Some(certificate) = &peer.certificate else {
            let rejection = clients.required.then_some(CertificateRejection::Missing);
            return Peer { rejection, ..peer };
        };
        let Some(verifier) = &clients.verifier else {
            return with_trust(peer, false);
        };
        let rejection = if certificate.malformed {
            Some(CertificateRejection::Malformed)
        } else if certificate.not_after <= now {
            Some(CertificateRejection::Expired)
        } else if !clients.is_chain_valid(&**verifier, certificate, now) {
            Some(CertificateRejection::Untrusted)
        } else {
            None
        };
        Peer { rejection, ..with_trust(peer, rejection.is_none()) }
    }
}

impl Clients {
    fn new(verifier: Option<Arc<dyn ClientCertVerifier>>, required: bool) -> Self {
        Self { verifier, required, validated: Cache::new(MAX_VALIDATED_CHAINS) }
    }

    fn is_chain_valid(&self, verifier: &dyn ClientCertVerifier, certificate: &Certificate, now: Timestamp) -> bool {
        let chain = &certificate.chain;
        if let Some((good, at)) = self.validated.get(&chain.digest)
            && at <= now
            && now < clock::after(at, VALIDATION_TTL)
        {
            return good;
        }
        let mut certificates = chain.certificates.iter().map(|der| CertificateDer::from(&**der));
        let leaf = certificates.next();
        let good = leaf.is_some_and(|leaf| {
            let others: Vec<_> = certificates.collect();
            let since = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
            verifier.verify_client_cert(&leaf, &others, UnixTime::since_unix_epoch(since)).is_ok()
        });
        self.validated.insert(chain.digest, (good, now));
        good
    }
}

fn with_trust(peer: Peer, trusted: bool) -> Peer {
    match peer.certificate {
        Some(certificate) if certificate.trusted != trusted => {
            let certificate = Certificate { trusted, ..Certificate::clone(&certificate) };
            Peer { certificate: Some(Arc::new(certificate)), rejection: None, ..peer }
        }
        certificate => Peer { certificate, rejection: None, ..peer },
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clients").field("required", &self.required).finish_non_exhaustive()
    }
}
