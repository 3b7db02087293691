//! The pages that ask nobody who they are: a closed set, matched on the same canonical path as everything else.

use http::{HeaderValue, Method, Response, header::CONTENT_TYPE};

use super::Gate;
use crate::{
    audit::{Decision, Record},
    http::Body,
    identity::Asking,
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
    if let (Some(url), Some(members)) = (&gate.url, document.as_object_mut()) {
        members.insert("resource".into(), url.as_str().into());
    }
    document.to_string()
}
