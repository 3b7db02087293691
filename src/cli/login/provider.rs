//! Provider metadata of a login at a shell (OpenID Connect Discovery 1.0, RFC 8414).
//!
//! Promises: a document is accepted only if it names the requested issuer; every URL in it is https, or http to
//! loopback.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use serde::de::DeserializeOwned;
use url::Url;

use super::{error::LoginError, printable::printable};
use crate::{
    client::Client,
    gate::identity::{
        issuer::is_https_or_loopback,
        keys::MAX_JWKS_BYTES,
        openid::metadata::{self, DiscoveryError, MetadataError, ProviderEndpoint, ProviderMetadata},
    },
    http::Body,
};

/// A metadata document has a few KiB.
const LIMIT: usize = 256 << 10;
const DEADLINE: Duration = Duration::from_secs(10);

/// A provider and its endpoints.
#[derive(Debug)]
pub(super) struct Provider {
    /// Its `issuer`.
    pub issuer: String,
    pub(super) client: Client,
    pub(super) authorization: Option<Url>,
    pub(super) device: Option<Url>,
    pub(super) token: Url,
    pub(super) revocation: Option<Url>,
    pub(super) jwks: Option<Url>,
    /// Whether its authorization responses have `iss` (RFC 9207).
    pub(super) iss_parameter_supported: bool,
}

impl Provider {
    /// Fetches the metadata of `issuer`; `ca` is a file of trusted roots, `None` for the system's.
    ///
    /// # Errors
    /// If it cannot be fetched, is of another issuer, or names an address that is not https.
    pub(super) async fn discover(issuer: &str, ca: Option<&Path>) -> Result<Self, LoginError> {
        if !is_https_or_loopback(issuer) {
            return Err(LoginError::Address(issuer.to_owned()));
        }
        let client = Client::new(ca)?;
        let url = metadata::discovery_url(issuer);
        let (url, metadata) = match metadata::fetch(&client, &url, issuer, None).await {
            // RFC 8414 section 3.1: the well-known part stands before the path
            Err(DiscoveryError::Status(_, StatusCode::NOT_FOUND)) => {
                let other = well_known(issuer, "oauth-authorization-server")?;
                match metadata::fetch(&client, &other, issuer, None).await {
                    Err(DiscoveryError::Status(_, StatusCode::NOT_FOUND)) => {
                        return Err(LoginError::Document(url, format!("is not there, and neither is `{other}`")));
                    }
                    metadata => (other, metadata?),
                }
            }
            metadata => (url, metadata?),
        };
        Self::read(client, metadata).map_err(|error| DiscoveryError::Document(url, error).into())
    }

    fn read(client: Client, metadata: ProviderMetadata) -> Result<Self, MetadataError> {
        let url = |endpoint: &Option<ProviderEndpoint>| endpoint.as_ref().map(ProviderEndpoint::url).transpose();
        Ok(Self {
            authorization: url(&metadata.authorization_endpoint)?,
            device: url(&metadata.device_authorization_endpoint)?,
            token: url(&metadata.token_endpoint)?.ok_or(MetadataError::Missing("token_endpoint"))?,
            revocation: url(&metadata.revocation_endpoint)?,
            jwks: url(&metadata.jwks_uri)?,
            iss_parameter_supported: metadata.authorization_response_iss_parameter_supported,
            issuer: metadata.issuer,
            client,
        })
    }

    /// Whether a login by device authorization is possible.
    #[must_use]
    pub(super) fn has_device_login(&self) -> bool {
        self.device.is_some()
    }

    /// Whether a login in a browser is possible.
    #[must_use]
    pub(super) fn has_browser_login(&self) -> bool {
        self.authorization.is_some()
    }

    /// The provider's JWKS.
    pub(super) async fn jwks(&self) -> Result<Bytes, LoginError> {
        let Some(url) = &self.jwks else {
            return Err(LoginError::Unsupported("keys to verify an ID token with", "`--scope`"));
        };
        fetch(&self.client, url.as_str(), MAX_JWKS_BYTES).await
    }
}

impl From<DiscoveryError> for LoginError {
    fn from(error: DiscoveryError) -> Self {
        match error {
            DiscoveryError::Url(url) => Self::Address(url),
            DiscoveryError::Client(url, error) => Self::Unreachable(url, error),
            DiscoveryError::Status(url, status) => Self::Status(url, status),
            DiscoveryError::Document(url, error) => {
                let remedy = match &error {
                    MetadataError::OtherIssuer(_) => "; if it is the same, write that",
                    _ => "",
                };
                Self::Document(url, format!("{}{remedy}", printable(&error.to_string())))
            }
        }
    }
}

/// `https://host/.well-known/NAME/path`.
pub(super) fn well_known(of: &str, name: &str) -> Result<String, LoginError> {
    let mut url = Url::parse(of).map_err(|_| LoginError::Address(of.to_owned()))?;
    let path = format!("/.well-known/{name}{}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url.into())
}

pub(super) async fn get<T: DeserializeOwned>(client: &Client, url: &str) -> Result<T, LoginError> {
    let text = fetch(client, url, LIMIT).await?;
    serde_json::from_slice(&text)
        .map_err(|e| LoginError::Document(url.to_owned(), format!("cannot be read: {}", printable(&e.to_string()))))
}

async fn fetch(client: &Client, url: &str, limit: usize) -> Result<Bytes, LoginError> {
    let request = Request::get(url).header("accept", "application/json").body(Body::Empty);
    let request = request.map_err(|_| LoginError::Address(url.to_owned()))?;
    let response = client.fetch(request, limit, DEADLINE).await;
    let response = response.map_err(|e| LoginError::Unreachable(url.to_owned(), e))?;
    match response.status() {
        StatusCode::OK => Ok(response.into_body()),
        status => Err(LoginError::Status(url.to_owned(), status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(of: &str, expected: &str) {
        assert_eq!(well_known(of, "oauth-protected-resource").unwrap(), expected, "{of}");
    }

    #[test]
    fn the_well_known_part_stands_before_the_path() {
        check("https://gate.example", "https://gate.example/.well-known/oauth-protected-resource");
        check("https://gate.example/", "https://gate.example/.well-known/oauth-protected-resource");
        check("https://gate.example:8443/a/b", "https://gate.example:8443/.well-known/oauth-protected-resource/a/b");
    }
}
