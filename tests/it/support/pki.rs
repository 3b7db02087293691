//! A certificate authority for one test, and a client that trusts only it.

use std::{path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};

/// The CA's certificate; the gate's certificate and key are in `certs/` beside it.
pub(crate) struct Pki {
    ca: Vec<u8>,
}

impl Pki {
    /// Makes a CA and a leaf for `localhost` and `127.0.0.1` and writes `ca.pem`, `certs/gate.pem` and `certs/gate.key`.
    pub(crate) fn write(directory: &Path) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "the suite's CA");
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let leaf_key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        leaf.distinguished_name.push(DnType::CommonName, "localhost");
        leaf.use_authority_key_identifier_extension = true;
        let leaf = leaf.signed_by(&leaf_key, &ca).unwrap();
        std::fs::create_dir_all(directory.join("certs")).unwrap();
        std::fs::write(directory.join("ca.pem"), ca.pem()).unwrap();
        std::fs::write(directory.join("certs/gate.pem"), leaf.pem()).unwrap();
        std::fs::write(directory.join("certs/gate.key"), leaf_key.serialize_pem()).unwrap();
        Self { ca: ca.der().to_vec() }
    }

    /// A client that trusts this CA alone and offers `alpn`.
    pub(crate) fn client(&self, alpn: &[u8]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.clone().into()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        Arc::new(config)
    }
}
