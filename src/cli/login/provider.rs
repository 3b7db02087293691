//! Provider metadata of a login at a shell (OpenID Connect Discovery 1.0, RFC 8414).
//!
//! Promises: a document is accepted only if it names the issuer that was asked; every URL in it is https, or http to
//! loopback.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::{error::LoginError, printable::printable};
use crate::{client::Client, gate::identity::issuer::may_be_asked, http::Body};

/// A discovery document has a few KiB.
const LIMIT: usize = 256 << 10;
const DEADLINE: Duration = Duration::from_secs(10);

/// A provider, as its discovery document describes it.
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

#[derive(Deserialize)]
struct Document {
    issuer: String,
    authorization_endpoint: Option<String>,
    device_authorization_endpoint: Option<String>,
    token_endpoint: String,
    revocation_endpoint: Option<String>,
    jwks_uri: Option<String>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

impl Provider {
    /// Asks `issuer` for its endpoints; `ca` is the file of roots to trust, the system's where there is none.
    ///
    /// # Errors
    /// When it cannot be asked, or its document is another's or names addresses in clear.
    pub(super) async fn discover(issuer: &str, ca: Option<&Path>) -> Result<Self, LoginError> {
        if !may_be_asked(issuer) {
            return Err(LoginError::Address(issuer.to_owned()));
        }
        let client = Client::new(ca)?;
        // OpenID Connect Discovery 1.0 section 4.1
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = match get::<Document>(&client, &url).await {
            // RFC 8414 section 3.1: the well-known part stands before the path
            Err(LoginError::Status(url, StatusCode::NOT_FOUND)) => {
                let other = well_known(issuer, "oauth-authorization-server")?;
                match get(&client, &other).await {
                    Err(LoginError::Status(_, StatusCode::NOT_FOUND)) => {
                        return Err(LoginError::Document(url, format!("is not there, and neither is `{other}`")));
                    }
                    document => document?,
                }
            }
            document => document?,
        };
        // RFC 8414 section 3.3
        if document.issuer != issuer {
            let named = printable(&document.issuer);
            return Err(LoginError::Document(
                url,
                format!("is of the issuer `{named}`; if it is the same, write that"),
            ));
        }
        let optional = |address: Option<String>| address.map(|address| endpoint(&url, &address)).transpose();
        Ok(Self {
            authorization: optional(document.authorization_endpoint)?,
            device: optional(document.device_authorization_endpoint)?,
            token: endpoint(&url, &document.token_endpoint)?,
            revocation: optional(document.revocation_endpoint)?,
            jwks: optional(document.jwks_uri)?,
            iss_parameter_supported: document.authorization_response_iss_parameter_supported,
            issuer: document.issuer,
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

    /// The provider's keys, as they are now.
    pub(super) async fn jwks(&self) -> Result<Bytes, LoginError> {
        let Some(url) = &self.jwks else {
            return Err(LoginError::Unsupported("keys to verify an ID token with", "`--scope`"));
        };
        fetch(&self.client, url.as_str(), crate::gate::identity::keys::MAX_JWKS_BYTES).await
    }
}

/// `https://host/.well-known/NAME/path`.
pub(super) fn well_known(of: &str, name: &str) -> Result<String, LoginError> {
    let mut url = Url::parse(of).map_err(|_| LoginError::Address(of.to_owned()))?;
    let path = format!("/.well-known/{name}{}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url.into())
}

fn endpoint(document: &str, address: &str) -> Result<Url, LoginError> {
    let wrong =
        || LoginError::Document(document.to_owned(), format!("names `{}`, which is not https", printable(address)));
    if !may_be_asked(address) {
        return Err(wrong());
    }
    Url::parse(address).map_err(|_| wrong())
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
