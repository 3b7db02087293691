//! OAuth metadata documents: protected resource metadata, and the gate's metadata as an issuer.

use std::time::Duration;

use http::{
    HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use super::{
    paths::{JWKS, TOKEN},
    token::TOKEN_EXCHANGE_GRANT,
};
use crate::{
    gate::{
        identity::dpop::proof::ALGORITHMS,
        proxy::{
            gate::{Gate, TokenBindings},
            token_issuer::TokenIssuer,
        },
    },
    http::Body,
};

/// A JSON response that caches may keep for `max_age`.
pub(super) fn json_document(text: String, max_age: Option<Duration>) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let cached = max_age.and_then(|age| HeaderValue::from_str(&format!("public, max-age={}", age.as_secs())).ok());
    response.headers_mut().extend(cached.map(|value| (CACHE_CONTROL, value)));
    response
}

/// RFC 9728 section 2: the token issuers that the gate trusts, and the token bindings that it verifies.
pub(super) fn resource_metadata(gate: &Gate) -> String {
    let mut issuers: Vec<&str> = gate.identity.issuers().iter().map(|i| i.settings.rules.issuer.as_str()).collect();
    issuers.extend(gate.token_issuer.as_ref().map(|issuer| issuer.url.as_str()));
    let mut document = serde_json::json!({
        "authorization_servers": issuers,
        "bearer_methods_supported": ["header"],
        "resource_name": "wicketgate",
    });
    let TokenBindings { dpop, certificates, required } = gate.bindings;
    if let Some(members) = document.as_object_mut() {
        if let Some(url) = &gate.url {
            members.insert("resource".into(), url.as_str().into());
        }
        if dpop {
            members
                .insert("dpop_signing_alg_values_supported".into(), ALGORITHMS.map(|(name, _)| name).as_slice().into());
            // if certificates are possible, a token may be bound to one instead
            members.insert("dpop_bound_access_tokens_required".into(), (required && !certificates).into());
        }
        members.insert("tls_client_certificate_bound_access_tokens".into(), certificates.into());
    }
    document.to_string()
}

/// OpenID Connect Discovery 1.0 section 3 and RFC 8414 section 2: one document for both. There is no authorization
/// endpoint; clusters and clouds that issue tokens for workloads publish documents of the same shape.
pub(super) fn issuer_metadata(issuer: &TokenIssuer) -> String {
    let url = &issuer.url;
    serde_json::json!({
        "issuer": url,
        "jwks_uri": format!("{url}{JWKS}"),
        "token_endpoint": format!("{url}{TOKEN}"),
        "token_endpoint_auth_methods_supported": ["none"],
        "grant_types_supported": [TOKEN_EXCHANGE_GRANT],
        "response_types_supported": ["id_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
        "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "client_id", "roles"],
    })
    .to_string()
}
