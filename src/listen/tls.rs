//! TLS towards clients: certificate and key from files, TLS 1.2 at least, HTTP/2 offered.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject},
    },
};

/// A listener's certificate, key and versions of TLS.
pub type Tls = Arc<ServerConfig>;

/// Why certificate and key cannot be used.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum TlsError {
    #[error("cannot read the certificate `{path}`: {problem}", path = .0.display(), problem = .1)]
    Certificate(PathBuf, PemError),
    #[error("`{}` holds no certificate", .0.display())]
    NoCertificate(PathBuf),
    #[error("cannot read the key `{path}`: {problem}", path = .0.display(), problem = .1)]
    Key(PathBuf, PemError),
    #[error("certificate and key cannot be used together: {0}")]
    Pair(#[from] rustls::Error),
}

/// Loads a certificate chain and its key, both PEM.
///
/// # Errors
/// When either cannot be read, or they do not belong together.
pub fn server_config(certificate: &Path, key: &Path) -> Result<Tls, TlsError> {
    let unreadable = |e| TlsError::Certificate(certificate.to_owned(), e);
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate(certificate.to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| TlsError::Key(key.to_owned(), e))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
