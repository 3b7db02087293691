//! Protected resource metadata of a gate (RFC 9728 section 2).
//!
//! Promises: the metadata is accepted only if it names the requested gate; every issuer in it is https, or http to
//! loopback.

use std::path::Path;

use serde::Deserialize;

use super::{
    error::LoginError,
    printable::printable,
    provider::{get, well_known},
};
use crate::{client::Client, gate::identity::issuer::is_https_or_loopback};

/// The metadata of a protected resource.
#[derive(Debug, Deserialize)]
pub(super) struct ResourceMetadata {
    /// The `resource` of a token for it.
    pub resource: Option<String>,
    /// The issuers whose tokens it accepts.
    #[serde(default)]
    pub authorization_servers: Vec<String>,
}

impl ResourceMetadata {
    /// Fetches the metadata of the gate at this URL.
    ///
    /// # Errors
    /// If it cannot be fetched, or is of another resource.
    pub(super) async fn fetch(gate: &str, ca: Option<&Path>) -> Result<Self, LoginError> {
        if !is_https_or_loopback(gate) {
            return Err(LoginError::Address(gate.to_owned()));
        }
        let url = well_known(gate, "oauth-protected-resource")?;
        let metadata: Self = get(&Client::new(ca)?, &url).await?;
        // RFC 9728 section 3.3: it must be identical, or one gate could obtain a token for another
        if let Some(resource) = &metadata.resource
            && resource.trim_end_matches('/') != gate.trim_end_matches('/')
        {
            let resource = printable(resource);
            return Err(LoginError::Document(
                url,
                format!("is of `{resource}`; write `--gate` as the gate's `url` is"),
            ));
        }
        if let Some(clear) = metadata.authorization_servers.iter().find(|issuer| !is_https_or_loopback(issuer)) {
            return Err(LoginError::Document(
                url,
                format!("names the issuer `{}`, which is not https", printable(clear)),
            ));
        }
        Ok(metadata)
    }
}
