//! A provider's endpoints, from its discovery document; and a gate's providers, from its resource metadata.
//!
//! Promises: a document counts only where it names whoever was asked; every address in it is https, or http to
//! loopback.

use std::{path::Path, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use serde::{Deserialize, de::DeserializeOwned};
use url::Url;

use super::{Problem, printable};
use crate::{client::Client, gate::identity::issuer::may_be_asked, http::Body};

/// A discovery document has a few KiB.
const LIMIT: usize = 256 << 10;
const DEADLINE: Duration = Duration::from_secs(10);

/// A provider, as its discovery document describes it.
#[derive(Debug)]
pub(crate) struct Provider {
    /// Its `issuer`.
    pub issuer: String,
    pub(super) client: Client,
    pub(super) authorization: Option<Url>,
    pub(super) device: Option<Url>,
    pub(super) token: Url,
    pub(super) revocation: Option<Url>,
    pub(super) jwks: Option<Url>,
    /// Whether its authorization answers say who they are from (RFC 9207).
    pub(super) names_itself: bool,
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
    pub(crate) async fn discover(issuer: &str, ca: Option<&Path>) -> Result<Self, Problem> {
        if !may_be_asked(issuer) {
            return Err(Problem::Address(issuer.to_owned()));
        }
        let client = Client::new(ca)?;
        // OpenID Connect Discovery 1.0 section 4.1
        let url = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
        let document = match get::<Document>(&client, &url).await {
            // RFC 8414 section 3.1: the well-known part stands before the path
            Err(Problem::Status(url, StatusCode::NOT_FOUND)) => {
                let other = well_known(issuer, "oauth-authorization-server")?;
                match get(&client, &other).await {
                    Err(Problem::Status(_, StatusCode::NOT_FOUND)) => {
                        return Err(Problem::Document(url, format!("is not there, and neither is `{other}`")));
                    }
                    document => document?,
                }
            }
            document => document?,
        };
        // RFC 8414 section 3.3
        if document.issuer != issuer {
            let named = printable(&document.issuer);
            return Err(Problem::Document(url, format!("is of the issuer `{named}`; if it is the same, write that")));
        }
        let optional = |address: Option<String>| address.map(|address| endpoint(&url, &address)).transpose();
        Ok(Self {
            authorization: optional(document.authorization_endpoint)?,
            device: optional(document.device_authorization_endpoint)?,
            token: endpoint(&url, &document.token_endpoint)?,
            revocation: optional(document.revocation_endpoint)?,
            jwks: optional(document.jwks_uri)?,
            names_itself: document.authorization_response_iss_parameter_supported,
            issuer: document.issuer,
            client,
        })
    }

    /// Whether a login by device authorization is possible.
    #[must_use]
    pub(crate) fn has_device_login(&self) -> bool {
        self.device.is_some()
    }

    /// Whether a login in a browser is possible.
    #[must_use]
    pub(crate) fn has_browser_login(&self) -> bool {
        self.authorization.is_some()
    }

    /// The provider's keys, as they are now.
    pub(super) async fn jwks(&self) -> Result<Bytes, Problem> {
        let Some(url) = &self.jwks else { return Err(Problem::Lacks("keys to verify an ID token with", "`--scope`")) };
        fetch(&self.client, url.as_str(), crate::gate::identity::keys::MAX_JWKS_BYTES).await
    }
}

/// What a gate says of itself (RFC 9728 section 2).
#[derive(Debug, Deserialize)]
pub(crate) struct GateMetadata {
    /// What a token for it is to be asked for as.
    pub resource: Option<String>,
    /// The issuers whose tokens it takes.
    #[serde(default)]
    pub authorization_servers: Vec<String>,
}

impl GateMetadata {
    /// Asks the gate at this URL.
    ///
    /// # Errors
    /// When it cannot be asked, or speaks of another resource.
    pub(crate) async fn of(gate: &str, ca: Option<&Path>) -> Result<Self, Problem> {
        if !may_be_asked(gate) {
            return Err(Problem::Address(gate.to_owned()));
        }
        let url = well_known(gate, "oauth-protected-resource")?;
        let metadata: Self = get(&Client::new(ca)?, &url).await?;
        // RFC 9728 section 3.3: it must be identical, or a token for one gate would be asked for by another
        if let Some(resource) = &metadata.resource
            && resource.trim_end_matches('/') != gate.trim_end_matches('/')
        {
            let resource = printable(resource);
            return Err(Problem::Document(url, format!("is of `{resource}`; write `--gate` as the gate's `url` is")));
        }
        if let Some(clear) = metadata.authorization_servers.iter().find(|issuer| !may_be_asked(issuer)) {
            return Err(Problem::Document(url, format!("names the issuer `{}`, which is not https", printable(clear))));
        }
        Ok(metadata)
    }
}

/// `https://host/.well-known/NAME/path`.
fn well_known(of: &str, name: &str) -> Result<String, Problem> {
    let mut url = Url::parse(of).map_err(|_| Problem::Address(of.to_owned()))?;
    let path = format!("/.well-known/{name}{}", url.path().trim_end_matches('/'));
    url.set_path(&path);
    Ok(url.into())
}

fn endpoint(document: &str, address: &str) -> Result<Url, Problem> {
    let wrong =
        || Problem::Document(document.to_owned(), format!("names `{}`, which is not https", printable(address)));
    if !may_be_asked(address) {
        return Err(wrong());
    }
    Url::parse(address).map_err(|_| wrong())
}

async fn get<T: DeserializeOwned>(client: &Client, url: &str) -> Result<T, Problem> {
    let text = fetch(client, url, LIMIT).await?;
    serde_json::from_slice(&text)
        .map_err(|e| Problem::Document(url.to_owned(), format!("cannot be read: {}", printable(&e.to_string()))))
}

async fn fetch(client: &Client, url: &str, limit: usize) -> Result<Bytes, Problem> {
    let request = Request::get(url).header("accept", "application/json").body(Body::Empty);
    let request = request.map_err(|_| Problem::Address(url.to_owned()))?;
    let answer = client.fetch(request, limit, DEADLINE).await;
    let answer = answer.map_err(|e| Problem::Unreachable(url.to_owned(), e))?;
    match answer.status() {
        StatusCode::OK => Ok(answer.into_body()),
        status => Err(Problem::Status(url.to_owned(), status)),
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
