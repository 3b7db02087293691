//! Provider metadata (OpenID Connect Discovery 1.0 section 3, RFC 8414 section 2).
//!
//! Promises: a document is accepted only if its `issuer` is exactly the requested issuer (Discovery section 4.3, RFC
//! 8414 section 3.3); an endpoint is given out only if it is https, or http to this machine; 256 KiB and ten seconds for
//! each response; no redirect is followed. A member that the caller does not use cannot make a document invalid.

use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header::AUTHORIZATION};
use openidconnect::core::CoreClientAuthMethod;
use serde::Deserialize;
use url::Url;

use crate::{
    client::{Client, ClientError},
    http::Body,
};

/// A discovery document has a few KiB.
const MAX_DOCUMENT: usize = 256 << 10;
/// For each response.
const DEADLINE: Duration = Duration::from_secs(10);

/// Provider metadata.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ProviderMetadata {
    pub(crate) issuer: String,
    pub(crate) jwks_uri: Option<ProviderEndpoint>,
    pub(crate) authorization_endpoint: Option<ProviderEndpoint>,
    pub(crate) token_endpoint: Option<ProviderEndpoint>,
    pub(crate) device_authorization_endpoint: Option<ProviderEndpoint>,
    /// RFC 7009.
    pub(crate) revocation_endpoint: Option<ProviderEndpoint>,
    /// RFC 7662.
    pub(crate) introspection_endpoint: Option<ProviderEndpoint>,
    /// OpenID Connect RP-Initiated Logout section 2.1.
    pub(crate) end_session_endpoint: Option<ProviderEndpoint>,
    pub(crate) token_endpoint_auth_methods_supported: Option<Vec<CoreClientAuthMethod>>,
    /// RFC 9207 section 3.
    #[serde(default)]
    pub(crate) authorization_response_iss_parameter_supported: bool,
}

/// The URL of an endpoint, not checked yet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub(crate) struct ProviderEndpoint(String);

/// A document that is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MetadataError {
    #[error("cannot be read: {0}")]
    Unreadable(serde_json::Error),
    #[error("is of the issuer `{0}`")]
    OtherIssuer(String),
    #[error("names `{0}`, which is not https")]
    NotHttps(String),
    #[error("has no `{0}`")]
    Missing(&'static str),
}

/// A document that could not be fetched or is not accepted.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DiscoveryError {
    #[error("`{0}` is not a URL that can be requested")]
    Url(String),
    #[error("`{0}` cannot be reached")]
    Client(String, #[source] ClientError),
    #[error("`{0}` answered {1}")]
    Status(String, StatusCode),
    #[error("the discovery document at `{0}` {1}")]
    Document(String, MetadataError),
}

impl ProviderEndpoint {
    /// The URL.
    ///
    /// # Errors
    /// If it is neither https nor http to this machine.
    pub(crate) fn url(&self) -> Result<Url, MetadataError> {
        let url = Url::parse(&self.0).ok().filter(|_| is_https_or_loopback(&self.0));
        url.ok_or_else(|| MetadataError::NotHttps(self.0.clone()))
    }
}

impl ProviderMetadata {
    /// Reads the metadata of `issuer`.
    ///
    /// # Errors
    /// If it is not JSON, has a duplicate member that is read here, or is of another issuer.
    pub(crate) fn parse(document: &[u8], issuer: &str) -> Result<Self, MetadataError> {
        let metadata: Self = serde_json::from_slice(document).map_err(MetadataError::Unreadable)?;
        // compared byte by byte
        if metadata.issuer == issuer { Ok(metadata) } else { Err(MetadataError::OtherIssuer(metadata.issuer)) }
    }
}

/// The URL of an issuer's discovery document (Discovery section 4.1).
#[must_use]
pub(crate) fn discovery_url(issuer: &str) -> String {
    format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'))
}

/// Fetches the metadata of `issuer` from `url`.
///
/// # Errors
/// If it cannot be fetched, or is not accepted.
pub(crate) async fn fetch(
    client: &Client,
    url: &str,
    issuer: &str,
    authorization: Option<HeaderValue>,
) -> Result<ProviderMetadata, DiscoveryError> {
    let mut request = Request::get(url).header("accept", "application/json");
    if let Some(authorization) = authorization {
        request = request.header(AUTHORIZATION, authorization);
    }
    let request = request.body(Body::Empty).map_err(|_| DiscoveryError::Url(url.to_owned()))?;
    let response = client.fetch(request, MAX_DOCUMENT, DEADLINE).await;
    let response = response.map_err(|e| DiscoveryError::Client(url.to_owned(), e))?;
    if response.status() != StatusCode::OK {
        return Err(DiscoveryError::Status(url.to_owned(), response.status()));
    }
    let metadata = ProviderMetadata::parse(response.body(), issuer);
    metadata.map_err(|e| DiscoveryError::Document(url.to_owned(), e))
}

/// Whether requests may be sent to `url`: https, or http to this machine itself.
#[must_use]
pub(crate) fn is_https_or_loopback(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(url::Host::Ipv4(ip))) => ip.is_loopback(),
        ("http", Some(url::Host::Ipv6(ip))) => ip.is_loopback(),
        ("http", Some(url::Host::Domain(name))) => name == "localhost",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_of_the_issuer_that_was_asked() {
        let check = |document: &str, expected: Result<Option<&str>, &str>| {
            let read = ProviderMetadata::parse(document.as_bytes(), "https://idp.test");
            let endpoint = read.and_then(|m| m.token_endpoint.map(|endpoint| endpoint.url()).transpose());
            let found = endpoint.map(|url| url.map(String::from)).map_err(|e| e.to_string());
            match expected {
                Ok(expected) => assert_eq!(found.unwrap().as_deref(), expected, "{document}"),
                Err(expected) => assert!(found.as_ref().unwrap_err().starts_with(expected), "{document}: {found:?}"),
            }
        };
        let token = |url: &str| format!(r#"{{"issuer":"https://idp.test","token_endpoint":{url:?}}}"#);
        check(&token("https://idp.test/token"), Ok(Some("https://idp.test/token")));
        check(&token("http://127.0.0.1:1/token"), Ok(Some("http://127.0.0.1:1/token")));
        check(&token("http://idp.test/token"), Err("names `http://idp.test/token`, which is not https"));
        check(&token("token"), Err("names `token`"));
        // as Kubernetes' API server has it, and with members that are not used here
        check(r#"{"issuer":"https://idp.test","jwks_uri":"https://idp.test/jwks"}"#, Ok(None));
        check(r#"{"issuer":"https://idp.test","token_endpoint":null,"op_tos_uri":""}"#, Ok(None));
        for other in ["https://idp.test/", "https://IDP.test", "https://idp.test:443", "https://other.test"] {
            check(&format!(r#"{{"issuer":"{other}"}}"#), Err(&format!("is of the issuer `{other}`")));
        }
        check(r#"{"issuer":"https://idp.test","issuer":"https://idp.test"}"#, Err("cannot be read: duplicate"));
        check("[]", Err("cannot be read"));
        check(r#"{"jwks_uri":"https://idp.test/jwks"}"#, Err("cannot be read"));
    }

    #[test]
    fn only_https_is_https_or_loopback_or_http_to_this_machine() {
        for good in ["https://idp.example", "http://127.0.0.1:1/x", "http://[::1]/", "http://localhost:8080"] {
            assert!(is_https_or_loopback(good), "{good}");
        }
        for bad in
            ["http://idp.example", "http://10.0.0.1", "http://localhost.evil.example", "file:///etc/passwd", "idp", ""]
        {
            assert!(!is_https_or_loopback(bad), "{bad}");
        }
    }
}
