//! PEM certificate files, and errors of the TLS configuration.

use std::path::{Path, PathBuf};

use rustls::pki_types::{
    CertificateDer,
    pem::{Error as PemError, PemObject},
};

/// An error in the TLS configuration.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub(crate) enum TlsError {
    #[error("cannot read the certificate `{path}`: {problem}", path = .0.display(), problem = .1)]
    Certificate(PathBuf, PemError),
    #[error("`{}` holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("cannot read the key `{path}`: {problem}", path = .0.display(), problem = .1)]
    Key(PathBuf, PemError),
    #[error("certificate and key cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
    #[error("cannot use the CA certificates `{path}`: {problem}", path = .0.display(), problem = .1)]
    Bundle(PathBuf, String),
    #[error("cannot read the CRL `{path}`: {problem}", path = .0.display(), problem = .1)]
    Revoked(PathBuf, String),
    #[error("client certificates cannot be verified: {0}")]
    Verifier(String),
}

/// The certificates of a PEM file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |e| TlsError::Certificate(path.to_owned(), e);
    let all: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(unreadable)?.collect::<Result<_, _>>().map_err(unreadable)?;
    if all.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(all) }
}
