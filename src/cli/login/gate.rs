//! Client of a gate's API, for commands.
//!
//! Promises: the token is sent only to the gate that was named, by https (http to loopback only); a response is bounded;
//! the gate's text is made safe to print.

use std::{path::Path, time::Duration};

use http::{Method, Request, StatusCode, header::AUTHORIZATION};
use serde_json::Value;

use super::{error::LoginError, printable::printable};
use crate::{
    client::Client,
    gate::identity::issuer::is_https_or_loopback,
    http::Body,
    secret::{Secret, authorization},
};

/// Longest response, in bytes: a list of grants.
const LIMIT: usize = 4 << 20;
const DEADLINE: Duration = Duration::from_secs(30);

/// A gate, and the token for it.
#[derive(Debug)]
pub(in crate::cli) struct GateClient {
    client: Client,
    url: String,
    token: Secret,
}

impl GateClient {
    /// The gate at this URL; `ca` is a file of trusted roots, `None` for the system's.
    ///
    /// # Errors
    /// If the URL is not https (or http to loopback), or the file cannot be used.
    pub(in crate::cli) fn new(url: &str, ca: Option<&Path>, token: Secret) -> Result<Self, LoginError> {
        if !is_https_or_loopback(url) {
            return Err(LoginError::Address(url.to_owned()));
        }
        Ok(Self { client: Client::new(ca)?, url: url.trim_end_matches('/').to_owned(), token })
    }

    /// Sends a request, and reads the JSON response.
    ///
    /// # Errors
    /// If the gate cannot be reached, or refuses: then with its own text.
    pub(in crate::cli) async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, LoginError> {
        let url = format!("{}{path}", self.url);
        let unsendable = || {
            LoginError::Document(url.clone(), "cannot be sent this token: it has a byte that no header may have".into())
        };
        let token = authorization(&format!("Bearer {}", self.token.expose())).map_err(|_| unsendable())?;
        let request = Request::builder().method(method).uri(&url).header(AUTHORIZATION, token);
        let request = request.header("accept", "application/json").header("content-type", "application/json");
        let body = body.map_or(Body::Empty, |body| Body::from(body.to_string()));
        let request = request.body(body).map_err(|_| LoginError::Address(url.clone()))?;
        let response = self.client.fetch(request, LIMIT, DEADLINE).await;
        let response = response.map_err(|e| LoginError::Unreachable(url.clone(), e))?;
        let body: Option<Value> = serde_json::from_slice(response.body()).ok();
        match (response.status(), body) {
            (status, Some(body)) if status.is_success() => Ok(body),
            (status, body) => Err(refused(url, status, body.as_ref())),
        }
    }
}

/// The `detail` of a problem document (RFC 9457).
fn refused(url: String, status: StatusCode, body: Option<&Value>) -> LoginError {
    match body.and_then(|body| body["detail"].as_str()) {
        Some(detail) => LoginError::Gate(status, printable(detail)),
        None => LoginError::Status(url, status),
    }
}
