//! Client certificate verifiers: by a CA bundle with CRLs, or for proof of possession alone.
//!
//! Promises: with both verifiers the client has proved possession of the certificate's key.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime, pem::PemObject},
    server::{
        WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use x509_parser::prelude::{CertificateRevocationList, FromDer};

use super::pem::{TlsError, certificates};
use crate::clock;

/// The CA bundle and CRLs that chains are verified with.
pub(super) struct Bundle<'a> {
    pub(super) ca: &'a Path,
    pub(super) crls: &'a [PathBuf],
    pub(super) required: bool,
}

impl Bundle<'_> {
    /// Builds the verifier. If there are CRLs, each certificate of a chain must be covered by one that is not past its
    /// `nextUpdate` (RFC 5280 section 6.3.3), because an old CRL lacks later revocations.
    pub(super) fn verifier(&self, provider: Arc<CryptoProvider>) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        let unusable = |why: String| TlsError::Bundle(self.ca.to_owned(), why);
        let mut roots = RootCertStore::empty();
        for certificate in certificates(self.ca).map_err(|e| unusable(e.to_string()))? {
            roots.add(certificate).map_err(|e| unusable(e.to_string()))?;
        }
        let mut crls = Vec::new();
        for path in self.crls {
            crls.extend(read_crls(path)?);
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .with_crls(crls)
            .enforce_revocation_expiration();
        if !self.required {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map_err(|e| TlsError::Verifier(e.to_string()))
    }
}

/// The CRLs in a file: several in PEM, or one in DER.
fn read_crls(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let wrong = |why: String| TlsError::Revoked(path.to_owned(), why);
    let bytes = std::fs::read(path).map_err(|e| wrong(e.to_string()))?;
    let pem: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&bytes).collect();
    let mut lists = pem.map_err(|e| wrong(e.to_string()))?;
    if lists.is_empty() {
        lists.push(CertificateRevocationListDer::from(bytes));
    }
    let now = clock::now().as_second();
    for list in &lists {
        let (_, read) =
            CertificateRevocationList::from_der(list).map_err(|_| wrong("it is not a CRL (RFC 5280)".into()))?;
        let end =
            read.next_update().ok_or_else(|| wrong("it has no `nextUpdate`, so its age cannot be checked".into()))?;
        if end.timestamp() <= now {
            tracing::warn!(file = %path.display(), "this CRL is past its nextUpdate, so the client certificates that it covers are refused: replace it with a current one");
        }
    }
    Ok(lists)
}

/// Accepts any certificate, or none. The handshake still verifies the client's signature with the certificate's key.
#[derive(Debug)]
pub(super) struct AnyKey(WebPkiSupportedAlgorithms);

impl AnyKey {
    pub(super) fn new(provider: &CryptoProvider) -> Self {
        Self(provider.signature_verification_algorithms)
    }
}

impl ClientCertVerifier for AnyKey {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    /// RFC 8705 section 2.2 and 3: the certificate stands for its key, and no chain is verified.
    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
