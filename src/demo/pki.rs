//! Certificate authority of the demo and the server certificates that it signs, all P-256.
//!
//! Promises: each run makes a new CA, valid for thirty days from yesterday. Must never write a key or certificate to disk.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::error::DemoError;
use crate::clock;

/// Long enough for any demo, short enough that a forgotten CA means nothing.
const VALID_DAYS: i64 = 30;

/// The certificate authority of one demo.
pub(crate) struct Pki {
    ca: CertifiedIssuer<'static, KeyPair>,
}

/// A server's certificate and its key, as PEM.
pub struct Leaf {
    /// The certificate.
    pub certificate: String,
    /// Its private key, PKCS #8.
    pub key: String,
}

impl Pki {
    /// A new CA with a new key.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub(crate) fn new() -> Result<Self, DemoError> {
        let mut params = dated(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "wicketgate demo CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self { ca: CertifiedIssuer::self_signed(params, KeyPair::generate()?)? })
    }

    /// The CA's certificate as PEM, for the trust store of clients.
    #[must_use]
    pub(crate) fn ca_pem(&self) -> String {
        self.ca.pem()
    }

    /// A certificate for `localhost`, `127.0.0.1` and `::1`.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub(crate) fn loopback(&self) -> Result<Leaf, DemoError> {
        self.leaf(&["localhost", "127.0.0.1", "::1"])
    }

    /// A certificate for these names; those that are IP addresses become IP names.
    ///
    /// # Errors
    /// When a name cannot stand in a certificate.
    pub(crate) fn leaf(&self, names: &[&str]) -> Result<Leaf, DemoError> {
        let mut params = dated(names.iter().map(|name| (*name).to_owned()).collect())?;
        params.distinguished_name.push(DnType::CommonName, "wicketgate demo");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.ca)?;
        Ok(Leaf { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

impl Leaf {
    /// The settings of a TLS server with this certificate; its ALPN offers HTTP/2 and HTTP/1.1.
    ///
    /// # Errors
    /// When the certificate and the key do not fit together.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, DemoError> {
        let certificate = CertificateDer::from_pem_slice(self.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes())?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn dated(names: Vec<String>) -> Result<CertificateParams, DemoError> {
    let mut params = CertificateParams::new(names)?;
    let today = clock::now().to_zoned(jiff::tz::TimeZone::UTC).date();
    // rcgen's own defaults reach to the year 4096, which some clients refuse
    let day = |days: i64| {
        let date = today.saturating_add(jiff::Span::new().days(days));
        date_time_ymd(i32::from(date.year()), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = day(-1);
    params.not_after = day(VALID_DAYS);
    Ok(params)
}
