//! Client certificate parsing: from the chain of a handshake to a [`Certificate`].
//!
//! Promises: names are the exact bytes of the subject alternative names. A certificate with a name that holds control
//! bytes, spaces or anything beyond ASCII identifies no principal (Envoy CVE-2025-66220: a name cut at its NUL). The
//! subject's common name is never read (RFC 9525 section 2).

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    extensions::GeneralName,
    prelude::{FromDer, ParsedExtension},
};

use crate::{
    clock::Timestamp,
    peer::{Certificate, Chain},
};

/// Parses the chain. `None` if it is empty. The caller states whether the chain is trusted.
pub(super) fn read(chain: &[CertificateDer<'_>], trusted: bool) -> Option<Arc<Certificate>> {
    let leaf = chain.first()?;
    let mut thumbprint = [0; 32];
    thumbprint.copy_from_slice(digest(&SHA256, leaf).as_ref());
    let mut hasher = blake3::Hasher::new();
    for certificate in chain {
        // the length too, so that two chains never hash the same bytes
        hasher.update(&(certificate.len() as u64).to_be_bytes()).update(certificate);
    }
    let chain = Chain {
        certificates: chain.iter().map(|certificate| Box::from(certificate.as_ref())).collect(),
        digest: *hasher.finalize().as_bytes(),
    };
    let contents = contents(leaf);
    let malformed = contents.is_none();
    let Contents { uris, dns_names, not_after } = contents.unwrap_or_default();
    Some(Arc::new(Certificate { thumbprint, trusted, uris, dns_names, malformed, not_after, chain }))
}

/// Names and expiry of a certificate. The default has no names and has expired.
#[derive(Default)]
struct Contents {
    uris: Vec<Box<str>>,
    dns_names: Vec<Box<str>>,
    not_after: Timestamp,
}

/// The names and expiry of a certificate. `None` if two parsers could disagree on them.
fn contents(der: &[u8]) -> Option<Contents> {
    let (rest, certificate) = X509Certificate::from_der(der).ok()?;
    if !rest.is_empty() {
        return None;
    }
    let not_after = Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()?;
    let mut contents = Contents { not_after, ..Contents::default() };
    // a repeated extension is an error here (RFC 5280 section 4.2)
    let names = certificate.subject_alternative_name().ok()?;
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::URI(uri) => contents.uris.push(plain(uri)?),
            GeneralName::DNSName(name) => contents.dns_names.push(plain(name)?),
            GeneralName::Invalid(..) => return None,
            _ => {}
        }
    }
    let unread = |extension: &ParsedExtension<'_>| matches!(extension, ParsedExtension::ParseError { .. });
    if certificate.extensions().iter().any(|extension| unread(extension.parsed_extension())) {
        return None;
    }
    Some(contents)
}

/// The name. `None` if it is empty or has a byte that is not a visible ASCII character.
fn plain(name: &str) -> Option<Box<str>> {
    (!name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic())).then(|| name.into())
}
