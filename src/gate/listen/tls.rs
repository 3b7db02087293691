//! TLS towards clients: certificate and key from files, TLS 1.2 at least, HTTP/2 offered; client certificates where
//! they are asked for.
//!
//! Promises: what a handshake once proved is looked at again with each request, by what is configured now: a
//! certificate that expired, was revoked or lost its CA counts no longer on connections that are open already.
//! Revocation fails closed: with lists configured, a chain that none of them covers and a list past its `nextUpdate`
//! both refuse. Where client certificates are asked for nothing is resumed, so that each handshake shows and proves its
//! certificate anew.

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

/// How long a chain that was found good counts without another look: lists of revoked certificates and intermediate
/// certificates expire by themselves.
const VALIDATION_TTL: Duration = Duration::from_secs(30);
/// Chains whose judgement is remembered; the least used make room.
const MAX_VALIDATED_CHAINS: usize = 10_000;

/// A listener's certificate, key and versions of TLS, and whose certificates it takes.
#[derive(Clone, Debug)]
pub(crate) struct Tls {
    pub(super) config: Arc<ServerConfig>,
    clients: Option<Arc<Clients>>,
}

/// Whose client certificates a listener takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClientCertificates {
    /// Those that chain to a bundle.
    Verified {
        /// The CA certificates, PEM.
        ca: PathBuf,
        /// Lists of revoked certificates, PEM or DER; none where nothing is ever revoked.
        crls: Vec<PathBuf>,
        /// Whether a client without one is turned away in the handshake.
        required: bool,
    },
    /// Any that a client has, for its key alone (RFC 8705 section 3: self-signed ones); it names nobody.
    Any,
}

/// The same, built.
struct Clients {
    /// `None` where any key will do.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    required: bool,
    validated: Cache<[u8; 32], (bool, Timestamp)>,
}

/// Loads a certificate chain and its key, both PEM, and what client certificates are verified with.
///
/// # Errors
/// When a file cannot be read, or certificate and key do not belong together.
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
        // a resumed session would bring a certificate that nobody looked at this time
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Tls { config: Arc::new(config), clients: clients.map(Arc::new) })
}

impl Tls {
    /// Whether clients are asked for certificates.
    #[must_use]
    pub(crate) fn requests_certificates(&self) -> bool {
        self.clients.is_some()
    }

    /// Whether a certificate that the handshake let in was verified there.
    #[must_use]
    pub(crate) fn verifies(&self) -> bool {
        self.clients.as_ref().is_some_and(|clients| clients.verifier.is_some())
    }

    /// Whether what the handshake proved of this peer counts no longer.
    pub(super) fn is_invalidated(&self, peer: &Peer, now: Timestamp) -> bool {
        let trusted = |peer: &Peer| peer.certificate.as_ref().is_some_and(|certificate| certificate.trusted);
        let revalidated = self.judge(peer.clone(), now);
        revalidated.rejection.is_some() || (trusted(peer) && !trusted(&revalidated))
    }

    /// What this peer proves now, by what is configured now. `self` may be newer than the handshake was.
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
        let mut shown = chain.certificates.iter().map(|der| CertificateDer::from(&**der));
        let own = shown.next();
        let good = own.is_some_and(|own| {
            let others: Vec<_> = shown.collect();
            let since = Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default());
            verifier.verify_client_cert(&own, &others, UnixTime::since_unix_epoch(since)).is_ok()
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
