//! Client certificate authentication: from the subject alternative names of a certificate to a principal.
//!
//! Promises: a certificate has a principal only if the listener verified its chain, and a subject alternative name matches
//! a `[[certificate]]` section byte for byte. Never: a common name, a name of a certificate with several SPIFFE ids, or a
//! wildcard in the certificate itself. Pure: no I/O, no clock.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use quick_cache::sync::Cache;
use tokio_util::sync::CancellationToken;

use crate::{
    peer::{Certificate, CertificateRejection, Peer},
    principal::{Confirmation, Principal},
    refusal::Refusal,
};

/// Cached principals; the least recently used are evicted.
const MAX_CACHED: usize = 10_000;
/// Longest accepted SPIFFE id (SPIFFE-ID section 2.3).
const MAX_SPIFFE_ID: usize = 2048;

/// One `[[certificate]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRule {
    /// The prefix before the colon in its principals' names.
    pub name: Arc<str>,
    /// The accepted names.
    pub names: SanPattern,
}

/// A pattern of subject alternative names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SanPattern {
    /// This SPIFFE id, or if `below` all that begin with it and have more segments.
    Spiffe {
        /// The id, or the part before the `*`, including its slash.
        id: Box<str>,
        /// Whether the pattern ended in `/*`.
        below: bool,
    },
    /// This DNS name, or if `below` those with one more label.
    Dns {
        /// The name, or the part after the `*`, including its dot.
        name: Box<str>,
        /// Whether the pattern began with `*.`.
        below: bool,
    },
}

/// The reason why a pattern is invalid.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum PatternError {
    #[error(
        "`{0}` is not a SPIFFE id such as `spiffe://example.org/ns/prod/sa/node`; `*` is allowed at the end, after a slash"
    )]
    Spiffe(String),
    #[error("`{0}` is not a DNS name such as `node.example.org` or `*.example.org`")]
    Dns(String),
}

impl SanPattern {
    /// `spiffe://example.org/a/b`, or `spiffe://example.org/a/*` for everything below.
    ///
    /// # Errors
    /// If it is neither.
    pub fn spiffe(pattern: &str) -> Result<Self, PatternError> {
        let wrong = || PatternError::Spiffe(pattern.to_owned());
        let below = pattern.strip_suffix('*').filter(|id| id.ends_with('/'));
        let whole = below.map_or_else(|| pattern.to_owned(), |id| format!("{id}x"));
        if !is_spiffe_id(&whole) {
            return Err(wrong());
        }
        Ok(Self::Spiffe { id: below.unwrap_or(pattern).into(), below: below.is_some() })
    }

    /// `node.example.org`, or `*.example.org` for one label before it.
    ///
    /// # Errors
    /// If it is neither.
    pub fn dns(pattern: &str) -> Result<Self, PatternError> {
        let below = pattern.strip_prefix("*.");
        if !is_dns_name(below.unwrap_or(pattern)) {
            return Err(PatternError::Dns(pattern.to_owned()));
        }
        let name = if below.is_some() { pattern.trim_start_matches('*') } else { pattern };
        Ok(Self::Dns { name: name.into(), below: below.is_some() })
    }

    /// Whether a name matches, byte for byte.
    fn matches(&self, found: &str) -> bool {
        match self {
            Self::Spiffe { id, below: true } => {
                is_spiffe_id(found) && found.strip_prefix(&**id).is_some_and(|rest| !rest.is_empty())
            }
            Self::Spiffe { id, below: false } => **id == *found,
            Self::Dns { name, below: true } => {
                is_dns_name(found)
                    && found.strip_suffix(&**name).is_some_and(|label| !label.is_empty() && !label.contains('.'))
            }
            Self::Dns { name, below: false } => **name == *found,
        }
    }

    /// The subject of a certificate with a matching name, and the claims for role rules.
    fn subject<'c>(&self, certificate: &'c Certificate) -> Option<(&'c str, serde_json::Value)> {
        match self {
            Self::Spiffe { .. } => {
                // X.509-SVID section 2: exactly one URI name
                let [uri] = certificate.uris.as_slice() else { return None };
                self.matches(uri).then(|| (&**uri, serde_json::json!({ "spiffe_id": uri })))
            }
            Self::Dns { .. } => {
                let matching: Vec<&str> =
                    certificate.dns_names.iter().map(|name| &**name).filter(|name| self.matches(name)).collect();
                let first = *matching.first()?;
                Some((first, serde_json::json!({ "dns_names": matching })))
            }
        }
    }
}

/// Refuses every request on a connection whose client certificate is missing, expired, distrusted or malformed.
///
/// # Errors
/// 401 with the remedy.
pub(super) fn check_connection(peer: &Peer) -> Result<(), Refusal> {
    let (reason, text) = match peer.rejection {
        None => return Ok(()),
        Some(CertificateRejection::Missing) => {
            ("certificate_missing", "a client certificate is required; connect again with one")
        }
        Some(CertificateRejection::Expired) => {
            ("certificate_expired", "this connection's client certificate has expired; connect again with a new one")
        }
        Some(CertificateRejection::Untrusted) => (
            "certificate_distrusted",
            "this connection's client certificate is no longer trusted; connect again with a new one",
        ),
        Some(CertificateRejection::Malformed) => (
            "certificate_odd",
            "the names in this client certificate contain invalid bytes or cannot be parsed; use another certificate",
        ),
    };
    Err(Refusal::new(StatusCode::UNAUTHORIZED, reason, text))
}

/// Principals of certificates, by thumbprint. The names of a certificate never change. Whether the listener trusts it may
/// change, and is checked on each request.
pub(super) struct PrincipalCache(Cache<[u8; 32], Arc<Principal>>);

impl PrincipalCache {
    /// An empty cache. It is valid for one list of rules.
    pub(super) fn new() -> Self {
        Self(Cache::new(MAX_CACHED))
    }

    /// The principal of the connection's certificate, by the first rule that matches one of its names.
    ///
    /// # Errors
    /// 401 without a trusted certificate, or if no rule matches it.
    pub(super) fn principal(&self, rules: &[CertificateRule], peer: &Peer) -> Result<Arc<Principal>, Refusal> {
        let certificate = trusted_certificate(rules, peer)?;
        if let Some(known) = self.0.get(&certificate.thumbprint) {
            return Ok(known);
        }
        let principal = Arc::new(principal(rules, certificate)?);
        self.0.insert(certificate.thumbprint, principal.clone());
        Ok(principal)
    }
}

/// The trusted client certificate of this connection.
fn trusted_certificate<'p>(rules: &[CertificateRule], peer: &'p Peer) -> Result<&'p Certificate, Refusal> {
    peer.certificate.as_deref().filter(|certificate| certificate.trusted).ok_or_else(|| {
        let text = if rules.is_empty() {
            "a bearer token in the Authorization header is required"
        } else {
            "a bearer token in the Authorization header or a client certificate is required"
        };
        Refusal::new(StatusCode::UNAUTHORIZED, "no_token", text)
    })
}

fn principal(rules: &[CertificateRule], certificate: &Certificate) -> Result<Principal, Refusal> {
    let found = rules.iter().find_map(|rule| rule.names.subject(certificate).map(|found| (rule, found)));
    let Some((rule, (subject, mut claims))) = found else {
        let text = "no `[[certificate]]` section matches the names in this client certificate, and there is no token; send a \
                    token, or have a section added";
        let names = [certificate.uris.as_slice(), certificate.dns_names.as_slice()].concat().join(" ");
        return Err(Refusal::new(StatusCode::UNAUTHORIZED, "certificate_unknown", text).with_detail(names));
    };
    if let Some(claims) = claims.as_object_mut() {
        claims.insert("x5t#S256".into(), URL_SAFE_NO_PAD.encode(certificate.thumbprint).into());
    }
    let mut proof = blake3::Hasher::new_derive_key("wicketgate 2026 client certificate as principal");
    proof.update(&certificate.thumbprint).update(rule.name.as_bytes()).update(b":").update(subject.as_bytes());
    Ok(Principal {
        name: format!("{}:{subject}", rule.name).into(),
        issuer: rule.name.clone(),
        subject: subject.into(),
        claims: claims.to_string().into(),
        proof: *proof.finalize().as_bytes(),
        expires_at: certificate.not_after,
        until: certificate.not_after,
        ended: CancellationToken::new(),
        roles: None,
        confirmation: Some(Confirmation { certificate: Some(certificate.thumbprint), key: None }),
    })
}

/// SPIFFE-ID section 2: `spiffe://`, a trust domain in lower case, and a path of plain segments.
fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/')) else {
        return false;
    };
    let segment = |s: &str| {
        !s.is_empty() && s != "." && s != ".." && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    text.len() <= MAX_SPIFFE_ID
        && (1..=255).contains(&domain.len())
        && domain.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b))
        && path.split('/').all(segment)
}

/// Labels of letters, digits, `-` and `_`, with dots between them (RFC 1035 section 2.3.1, and `_` as it is used).
fn is_dns_name(text: &str) -> bool {
    let label =
        |s: &str| (1..=63).contains(&s.len()) && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    text.len() <= 253 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock::Timestamp, peer::Chain};

    fn peer(uris: &[&str], dns_names: &[&str], trusted: bool) -> Peer {
        let boxed = |names: &[&str]| names.iter().map(|name| Box::from(*name)).collect();
        let certificate = Certificate {
            thumbprint: [7; 32],
            trusted,
            uris: boxed(uris),
            dns_names: boxed(dns_names),
            malformed: false,
            not_after: Timestamp::MAX,
            chain: Chain { certificates: Vec::new(), digest: [0; 32] },
        };
        Peer { certificate: Some(Arc::new(certificate)), ..Peer::without_certificate(([127, 0, 0, 1], 1).into(), true) }
    }

    fn check(uris: &[&str], dns_names: &[&str], expected: &str) {
        let rule = |name: &str, names: Result<SanPattern, PatternError>| CertificateRule {
            name: name.into(),
            names: names.unwrap(),
        };
        let rules = [
            rule("one", SanPattern::spiffe("spiffe://example.org/one")),
            rule("prod", SanPattern::spiffe("spiffe://example.org/ns/prod/*")),
            rule("node", SanPattern::dns("node.example.org")),
            rule("many", SanPattern::dns("*.exporters.example.org")),
        ];
        let holders = PrincipalCache::new();
        let found = holders.principal(&rules, &peer(uris, dns_names, true)).map(|p| p.name.to_string());
        assert_eq!(found.unwrap_or_else(|refusal| refusal.reason.into()), expected, "{uris:?} {dns_names:?}");
        // a cached principal is not used while the certificate is not trusted
        let untrusted = holders.principal(&rules, &peer(uris, dns_names, false));
        assert_eq!(untrusted.map_err(|refusal| refusal.reason).err(), Some("no_token"));
    }

    #[test]
    fn a_certificate_name_matches_byte_for_byte() {
        check(&["spiffe://example.org/one"], &[], "one:spiffe://example.org/one");
        check(&["spiffe://example.org/ns/prod/sa/a"], &[], "prod:spiffe://example.org/ns/prod/sa/a");
        check(&[], &["node.example.org"], "node:node.example.org");
        check(&[], &["a.b", "x.exporters.example.org"], "many:x.exporters.example.org");
        // the order of the sections decides, not that in the certificate
        check(&["spiffe://example.org/one"], &["node.example.org"], "one:spiffe://example.org/one");
        for uri in [
            "spiffe://example.org/ones",
            "spiffe://example.org/one/",
            "spiffe://example.org/One",
            "spiffe://EXAMPLE.org/one",
            "spiffe://example.org.evil/one",
            "spiffe://example.org/ns/prod",
            "spiffe://example.org/ns/prod/",
            "spiffe://example.org/ns/prod//a",
            "spiffe://example.org/ns/prod/../dev",
            "spiffe://example.org/ns/prod/a%2fb",
            "spiffe://example.org/ns/prod/a?b",
            "spiffe://example.org/ns/prod/*",
            "spiffe://example.org/ns/production/a",
            "https://example.org/one",
        ] {
            check(&[uri], &[], "certificate_unknown");
        }
        // an X.509-SVID has one URI name
        check(&["spiffe://example.org/one", "spiffe://example.org/two"], &[], "certificate_unknown");
        for name in [
            "Node.example.org",
            "node.example.org.",
            "xnode.example.org",
            "exporters.example.org",
            ".exporters.example.org",
            "a.b.exporters.example.org",
            "*.exporters.example.org",
            "a.exporters.example.org.evil",
        ] {
            check(&[], &[name], "certificate_unknown");
        }
    }

    #[test]
    fn the_principal_of_a_certificate_is_cached() {
        let rules = [CertificateRule { name: "node".into(), names: SanPattern::dns("node.example.org").unwrap() }];
        let holders = PrincipalCache::new();
        let principal = || holders.principal(&rules, &peer(&[], &["node.example.org"], true)).unwrap();
        assert!(Arc::ptr_eq(&principal(), &principal()));
        let mut other = peer(&[], &["node.example.org"], true);
        let renewed = Certificate { thumbprint: [8; 32], ..Certificate::clone(other.certificate.as_ref().unwrap()) };
        other.certificate = Some(Arc::new(renewed));
        let renewed = holders.principal(&rules, &other).unwrap();
        assert_ne!(renewed.proof, principal().proof, "another certificate is another proof");
    }

    #[test]
    fn an_invalid_pattern_is_refused() {
        for pattern in [
            "spiffe://example.org",
            "spiffe://example.org/",
            "spiffe://*/a",
            "spiffe://example.org/a*",
            "spiffe://example.org/*/a",
            "spiffe:///a",
            "https://example.org/a",
            "*",
        ] {
            assert!(SanPattern::spiffe(pattern).is_err(), "{pattern}");
        }
        for pattern in ["", "*", "*.", "a.*", "*.*.org", "a..b", "a b.org"] {
            assert!(SanPattern::dns(pattern).is_err(), "{pattern}");
        }
        assert!(SanPattern::spiffe("spiffe://example.org/*").is_ok());
    }
}
