//! The pages that ask nobody who they are: a closed set, matched on the same canonical path as everything else.

use std::time::Duration;

use http::{
    HeaderValue, Method, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use super::{
    Bindings, Gate,
    exchange::exchange,
    issue::{self, Issue, JWKS_MAX_AGE},
};
use crate::{
    audit::{Decision, Record},
    http::Body,
    identity::{Asking, dpop::proof::ALGORITHMS},
    refusal::Refusal,
};

/// An open page.
#[derive(Clone, Copy)]
pub(super) enum OpenPage<'g> {
    /// RFC 9728: whose tokens this gate takes, and how.
    ResourceMetadata,
    /// OpenID Connect Discovery and RFC 8414: the gate as an issuer.
    IssuerMetadata(&'g Issue),
    /// RFC 7517: its keys.
    Jwks(&'g Issue),
    /// RFC 8693: a token of another issuer for one of the gate's.
    TokenExchange(&'g Issue),
}

/// Where RFC 9728 section 3 puts it.
pub(super) const RESOURCE_METADATA: &str = "/.well-known/oauth-protected-resource";

impl<'g> OpenPage<'g> {
    pub(super) fn find(gate: &'g Gate, method: &Method, path: &str) -> Option<Self> {
        match (method, path, &gate.issue) {
            (&Method::GET, RESOURCE_METADATA, _) => Some(Self::ResourceMetadata),
            (&Method::GET, issue::OPENID | issue::OAUTH, Some(issue)) => Some(Self::IssuerMetadata(issue)),
            (&Method::GET, issue::JWKS, Some(issue)) => Some(Self::Jwks(issue)),
            (&Method::POST, issue::TOKEN, Some(issue)) => Some(Self::TokenExchange(issue)),
            _ => None,
        }
    }

    pub(super) async fn answer(
        self,
        gate: &Gate,
        asking: Asking<'_>,
        body: Body,
        record: &mut Record,
    ) -> Result<Response<Body>, Refusal> {
        // the exchange alone has something to decide
        let decides = matches!(self, Self::TokenExchange(_));
        record.route = Some(if decides { "exchange" } else { "open" });
        record.decision = if decides { Decision::Deny } else { Decision::Allow };
        Ok(match self {
            Self::ResourceMetadata => document(resource_metadata(gate), None),
            Self::IssuerMetadata(issue) => document(issue.metadata(), Some(JWKS_MAX_AGE)),
            Self::Jwks(issue) => document(issue.signing.jwks(), Some(JWKS_MAX_AGE)),
            Self::TokenExchange(issue) => exchange(gate, issue, asking, body, record).await,
        })
    }
}

fn document(text: String, max_age: Option<Duration>) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let cached = max_age.and_then(|age| HeaderValue::from_str(&format!("public, max-age={}", age.as_secs())).ok());
    response.headers_mut().extend(cached.map(|value| (CACHE_CONTROL, value)));
    response
}

fn resource_metadata(gate: &Gate) -> String {
    let mut issuers: Vec<&str> = gate.identity.issuers().iter().map(|i| i.settings.rules.issuer.as_str()).collect();
    issuers.extend(gate.issue.as_ref().map(|issue| issue.url.as_str()));
    let mut document = serde_json::json!({
        "authorization_servers": issuers,
        "bearer_methods_supported": ["header"],
        "resource_name": "wicketgate",
    });
    let Bindings { dpop, certificates, required } = gate.bindings;
    if let Some(members) = document.as_object_mut() {
        if let Some(url) = &gate.url {
            members.insert("resource".into(), url.as_str().into());
        }
        // RFC 9728 section 2
        if dpop {
            members
                .insert("dpop_signing_alg_values_supported".into(), ALGORITHMS.map(|(name, _)| name).as_slice().into());
            // with certificates there is another way to bind a token
            members.insert("dpop_bound_access_tokens_required".into(), (required && !certificates).into());
        }
        members.insert("tls_client_certificate_bound_access_tokens".into(), certificates.into());
    }
    document.to_string()
}
