//! A PEM certificate file, read for people: names, end, issuer, key and chain.
//!
//! Promises: a chain verifies, and a key matches, if rustls says so, which is what the gate and its clients use.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use rustls::{
    RootCertStore,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    sign::CertifiedKey,
};
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer as _, X509Name},
};

use crate::clock::{self, Timestamp};

/// A certificate, and those that follow it in its file.
pub(super) struct Certificate {
    /// The file.
    pub(super) path: PathBuf,
    pub(super) subject: String,
    pub(super) issuer: String,
    /// DNS names and IP addresses.
    pub(super) names: Vec<String>,
    pub(super) not_after: Timestamp,
    pub(super) is_ca: bool,
    chain: Vec<CertificateDer<'static>>,
}

/// Reads the certificates of a file: one with its chain, or each CA of a bundle. No certificates if the file holds none.
pub(super) fn read(path: &std::path::Path) -> Result<Vec<Certificate>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("cannot read `{}`: {error}", path.display());
    let ders: Result<Vec<CertificateDer<'static>>, _> =
        CertificateDer::pem_file_iter(path).map_err(|e| wrong(&e))?.collect();
    let ders = ders.map_err(|e| wrong(&e))?;
    let mut certificates: Vec<Certificate> = Vec::new();
    for der in ders {
        let (_, parsed) = X509Certificate::from_der(&der).map_err(|e| wrong(&e))?;
        let follows = certificates.last().is_some_and(|first| !first.is_ca);
        if follows {
            certificates.last_mut().into_iter().for_each(|first| first.chain.push(der.clone()));
            continue;
        }
        let end = parsed.validity().not_after.timestamp();
        certificates.push(Certificate {
            path: path.to_owned(),
            subject: printable(parsed.subject()),
            issuer: printable(parsed.issuer()),
            names: names(&parsed),
            not_after: Timestamp::from_second(end).unwrap_or(Timestamp::MAX),
            is_ca: parsed.is_ca(),
            chain: vec![der.clone()],
        });
    }
    Ok(certificates)
}

impl Certificate {
    /// Whole days until its end; negative if it has expired.
    pub(super) fn days_left(&self) -> i64 {
        (self.not_after.as_second() - clock::now().as_second()).div_euclid(24 * 60 * 60)
    }

    pub(super) fn is_expired(&self) -> bool {
        self.not_after <= clock::now()
    }

    /// Whether this key belongs to it.
    ///
    /// # Errors
    /// The key cannot be read.
    pub(super) fn matches(&self, key: &std::path::Path) -> Result<bool, String> {
        let wrong = |error: &dyn std::fmt::Display| format!("cannot read `{}`: {error}", key.display());
        let private = PrivateKeyDer::from_pem_file(key).map_err(|e| wrong(&e))?;
        let private = provider().key_provider.load_private_key(private).map_err(|e| wrong(&e))?;
        Ok(CertifiedKey::new(self.chain.clone(), private).keys_match().is_ok())
    }

    /// Whether a client that trusts this CA accepts it: the chain leads there and nothing of it has expired.
    ///
    /// # Errors
    /// Why a client refuses it.
    pub(super) fn verify(&self, ca: &Self) -> Result<(), String> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(ca.chain.iter().take(1).cloned());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()));
        let verifier = verifier.build().map_err(|e| e.to_string())?;
        let name = self.names.first().map(|name| name.replacen("*.", "a.", 1));
        let name = name.and_then(|name| ServerName::try_from(name).ok()).ok_or("it has no DNS name or IP address")?;
        let (first, rest) = self.chain.split_first().ok_or("it is empty")?;
        let seconds = clock::now().as_second().unsigned_abs();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        verifier.verify_server_cert(first, rest, &name, &[], now).map(drop).map_err(|e| e.to_string())
    }

    /// Whether it names this CA as its issuer, or as that of the last certificate of its chain.
    pub(super) fn names_issuer(&self, ca: &Self) -> bool {
        let last = self.chain.last().and_then(|der| X509Certificate::from_der(der).ok());
        self.issuer == ca.subject || last.is_some_and(|(_, last)| printable(last.issuer()) == ca.subject)
    }
}

fn provider() -> CryptoProvider {
    aws_lc_rs::default_provider()
}

/// A distinguished name without control characters.
fn printable(name: &X509Name<'_>) -> String {
    name.to_string().escape_debug().to_string()
}

fn names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.iter().flat_map(|extension| &extension.value.general_names);
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.escape_debug().to_string()),
        GeneralName::URI(uri) => Some(uri.escape_debug().to_string()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|address| address.to_string())
        }
        _ => None,
    };
    names.filter_map(text).collect()
}
