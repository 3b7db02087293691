//! Client certificates as identity: which certificate is which principal.
//!
//! Promises: only a certificate whose chain the listener verified names anybody, by a subject alternative name that a
//! `[[certificate]]` section allows, byte for byte. Never: a common name, a name of a certificate with several SPIFFE
//! ids, or a wildcard that a certificate itself brings. Pure: no I/O, no clock.

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

/// Certificates remembered at once; the least used make room.
const REMEMBERED: usize = 10_000;
/// Longest SPIFFE id (SPIFFE-ID section 2.3) that is read.
const MAX_SPIFFE_ID: usize = 2048;

/// One `[[certificate]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRule {
    /// What stands before the colon in its principals' names.
    pub name: Arc<str>,
    /// The names it takes.
    pub names: SanPattern,
}

/// Which subject alternative names are taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SanPattern {
    /// This SPIFFE id, or where `below` all that begin with it and have more segments.
    Spiffe {
        /// The id, or what stands before the `*`, its slash included.
        id: Box<str>,
        /// Whether the pattern ended in `/*`.
        below: bool,
    },
    /// This DNS name, or where `below` those with one more label.
    Dns {
        /// The name, or what stands behind the `*`, its dot included.
        name: Box<str>,
        /// Whether the pattern began with `*.`.
        below: bool,
    },
}

/// Why a pattern is none.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum PatternError {
    #[error(
        "`{0}` is no SPIFFE id such as `spiffe://example.org/ns/prod/sa/node`; `*` may stand for the end, after a slash"
    )]
    Spiffe(String),
    #[error("`{0}` is no DNS name such as `node.example.org` or `*.example.org`")]
    Dns(String),
}

impl SanPattern {
    /// `spiffe://example.org/a/b`, or `spiffe://example.org/a/*` for everything below.
    ///
    /// # Errors
    /// When it is neither.
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
    /// When it is neither.
    pub fn dns(pattern: &str) -> Result<Self, PatternError> {
        let below = pattern.strip_prefix("*.");
        if !is_dns_name(below.unwrap_or(pattern)) {
            return Err(PatternError::Dns(pattern.to_owned()));
        }
        let name = if below.is_some() { pattern.trim_start_matches('*') } else { pattern };
        Ok(Self::Dns { name: name.into(), below: below.is_some() })
    }

    /// Whether this name is taken. It is compared byte for byte.
    fn takes(&self, found: &str) -> bool {
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

    /// The subject of a certificate by these names, and the claims that roles are read from.
    fn subject<'c>(&self, certificate: &'c Certificate) -> Option<(&'c str, serde_json::Value)> {
        match self {
            Self::Spiffe { .. } => {
                // X.509-SVID section 2: exactly one URI name
                let [uri] = certificate.uris.as_slice() else { return None };
                self.takes(uri).then(|| (&**uri, serde_json::json!({ "spiffe_id": uri })))
            }
            Self::Dns { .. } => {
                let taken: Vec<&str> =
                    certificate.dns_names.iter().map(|name| &**name).filter(|name| self.takes(name)).collect();
                let first = *taken.first()?;
                Some((first, serde_json::json!({ "dns_names": taken })))
            }
        }
    }
}

/// Refuses a connection that proves nothing any longer, whatever is on the request.
///
/// # Errors
/// 401 with what to do.
pub(super) fn stands(peer: &Peer) -> Result<(), Refusal> {
    let (reason, text) = match peer.rejection {
        None => return Ok(()),
        Some(CertificateRejection::Missing) => {
            ("certificate_missing", "this needs a client certificate; connect again with one")
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
            "this client certificate's names hold bytes that no name has, or cannot be read; use another certificate",
        ),
    };
    Err(Refusal::new(StatusCode::UNAUTHORIZED, reason, text))
}

/// The principals that certificates are, by thumbprint: a certificate's names never change, so one is made for each. What
/// may change is looked at with every request: whether the listener trusts it.
pub(super) struct PrincipalCache(Cache<[u8; 32], Arc<Principal>>);

impl PrincipalCache {
    /// None yet. What is remembered holds for one list of rules.
    pub(super) fn new() -> Self {
        Self(Cache::new(REMEMBERED))
    }

    /// The principal that the connection's certificate is, by the first rule that takes one of its names.
    ///
    /// # Errors
    /// 401 where there is no certificate that could name anybody, or none that does.
    pub(super) fn principal(&self, rules: &[CertificateRule], peer: &Peer) -> Result<Arc<Principal>, Refusal> {
        let certificate = trusted(rules, peer)?;
        if let Some(known) = self.0.get(&certificate.thumbprint) {
            return Ok(known);
        }
        let principal = Arc::new(principal(rules, certificate)?);
        self.0.insert(certificate.thumbprint, principal.clone());
        Ok(principal)
    }
}

/// The certificate of this connection, where it proves who is at its other end.
fn trusted<'p>(rules: &[CertificateRule], peer: &'p Peer) -> Result<&'p Certificate, Refusal> {
    peer.certificate.as_deref().filter(|certificate| certificate.trusted).ok_or_else(|| {
        let text = if rules.is_empty() {
            "this needs a bearer token in the Authorization header"
        } else {
            "this needs a bearer token in the Authorization header, or a client certificate"
        };
        Refusal::new(StatusCode::UNAUTHORIZED, "no_token", text)
    })
}

fn principal(rules: &[CertificateRule], certificate: &Certificate) -> Result<Principal, Refusal> {
    let found = rules.iter().find_map(|rule| rule.names.subject(certificate).map(|found| (rule, found)));
    let Some((rule, (subject, mut claims))) = found else {
        let text = "your client certificate's names are nobody's here, and there is no token; bring a token, or have a \
                    `[[certificate]]` section name you";
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

    fn shown(uris: &[&str], dns_names: &[&str], trusted: bool) -> Peer {
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
        let found = holders.principal(&rules, &shown(uris, dns_names, true)).map(|p| p.name.to_string());
        assert_eq!(found.unwrap_or_else(|refusal| refusal.reason.into()), expected, "{uris:?} {dns_names:?}");
        // what is remembered of a certificate is worth nothing while it is not trusted
        let untrusted = holders.principal(&rules, &shown(uris, dns_names, false));
        assert_eq!(untrusted.map_err(|refusal| refusal.reason).err(), Some("no_token"));
    }

    #[test]
    fn a_certificate_is_the_principal_that_its_names_say_byte_for_byte() {
        check(&["spiffe://example.org/one"], &[], "one:spiffe://example.org/one");
        check(&["spiffe://example.org/ns/prod/sa/a"], &[], "prod:spiffe://example.org/ns/prod/sa/a");
        check(&[], &["node.example.org"], "node:node.example.org");
        check(&[], &["a.b", "x.exporters.example.org"], "many:x.exporters.example.org");
        // the sections' order decides, not the certificate's
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
    fn a_certificate_that_comes_again_is_the_principal_that_was_made_of_it() {
        let rules = [CertificateRule { name: "node".into(), names: SanPattern::dns("node.example.org").unwrap() }];
        let holders = PrincipalCache::new();
        let come = || holders.principal(&rules, &shown(&[], &["node.example.org"], true)).unwrap();
        assert!(Arc::ptr_eq(&come(), &come()));
        let mut other = shown(&[], &["node.example.org"], true);
        let renewed = Certificate { thumbprint: [8; 32], ..Certificate::clone(other.certificate.as_ref().unwrap()) };
        other.certificate = Some(Arc::new(renewed));
        let renewed = holders.principal(&rules, &other).unwrap();
        assert_ne!(renewed.proof, come().proof, "another certificate is another proof");
    }

    #[test]
    fn what_is_no_pattern_is_refused() {
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
