//! The pages that ask nobody who they are: a closed set, matched on the same canonical path as everything else.

use http::{HeaderValue, Method, Response, header::CONTENT_TYPE};

use super::{Bindings, Gate};
use crate::{
    audit::{Decision, Record},
    http::Body,
    identity::{Asking, dpop::proof::ALGORITHMS},
    refusal::Refusal,
};

/// An open page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OpenPage {
    /// RFC 9728: whose tokens this gate takes, and how.
    ResourceMetadata,
}

/// Where RFC 9728 section 3 puts it.
pub(super) const RESOURCE_METADATA: &str = "/.well-known/oauth-protected-resource";

impl OpenPage {
    pub(super) fn find(method: &Method, path: &str) -> Option<Self> {
        (*method == Method::GET && path == RESOURCE_METADATA).then_some(Self::ResourceMetadata)
    }

    pub(super) async fn answer(
        self,
        gate: &Gate,
        _asking: Asking<'_>,
        _body: Body,
        record: &mut Record,
    ) -> Result<Response<Body>, Refusal> {
        record.decision = Decision::Allow;
        record.route = Some("open");
        let text = match self {
            Self::ResourceMetadata => resource_metadata(gate),
        };
        let mut response = Response::new(Body::from(text));
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(response)
    }
}

fn resource_metadata(gate: &Gate) -> String {
    let issuers: Vec<&str> = gate.identity.issuers().iter().map(|i| i.settings.rules.issuer.as_str()).collect();
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
            members.insert("dpop_signing_alg_values_supported".into(), ALGORITHMS.map(|(name, _)| name).as_slice().into());
            // with certificates there is another way to bind a token
            members.insert("dpop_bound_access_tokens_required".into(), (required && !certificates).into());
        }
        members.insert("tls_client_certificate_bound_access_tokens".into(), certificates.into());
    }
    document.to_string()
}
