//! HTTP client of a token validation endpoint (introspection or TokenReview), and the results of a validation.
//!
//! Promises: each request has a deadline of 5 s, each response a limit of 64 KiB. The gate's own secret is cached for
//! 60 s and read again after the endpoint refused it. Never: a token or a secret anywhere but in the request.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, StatusCode};

use crate::{
    client::Client,
    clock::{self, Instant, Timestamp},
    gate::identity::rules::TokenError,
    http::Body,
    principal::Confirmation,
    secret::{Secret, SecretSource, SourceError},
    telemetry::chain,
};

/// The deadline of one request to the endpoint.
const ENDPOINT_DEADLINE: Duration = Duration::from_secs(5);
/// Larger responses are refused.
const MAX_RESPONSE: usize = 64 * 1024;
/// How long the secret is cached. After the endpoint refuses it, it is read again at once.
const SECRET_TTL: Duration = Duration::from_secs(60);

/// The result of a validation.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Validation {
    Active(ActiveToken),
    Refused(TokenError),
}

/// The claims of an active token.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ActiveToken {
    pub(super) subject: String,
    /// One JSON object.
    pub(super) claims: String,
    /// `None` if the token has no known expiry.
    pub(super) expires_at: Option<Timestamp>,
    /// The certificate or key that the token is bound to.
    pub(super) confirmation: Option<Confirmation>,
}

/// The reason why a token could not be validated.
#[derive(Debug, thiserror::Error)]
pub(super) enum ValidationError {
    #[error("no introspection endpoint: the discovery document has not been fetched yet, or does not list one")]
    NoEndpoint,
    #[error("the gate's own secret for the endpoint")]
    Secret(#[from] SourceError),
    #[error("the gate's own secret for the endpoint contains bytes that are not allowed in a header")]
    SecretBytes(#[from] http::header::InvalidHeaderValue),
    #[error("`{0}`: {1}")]
    Client(String, String),
    #[error("`{0}` refuses the gate's own credential ({1})")]
    Credential(String, StatusCode),
    #[error("`{0}` responded with {1}")]
    Status(String, StatusCode),
    #[error("invalid response from `{0}`: {1}")]
    Malformed(String, &'static str),
}

/// The HTTP client of one issuer's validation endpoint, with the gate's cached secret.
pub(super) struct Endpoint {
    client: Arc<Client>,
    secret: tokio::sync::Mutex<Option<(Instant, Secret)>>,
}

impl Endpoint {
    pub(super) fn new(client: Arc<Client>) -> Self {
        Self { client, secret: tokio::sync::Mutex::default() }
    }

    /// The gate's own secret for the endpoint.
    pub(super) async fn secret(&self, source: &SecretSource) -> Result<Secret, SourceError> {
        let mut cached = self.secret.lock().await;
        let now = clock::monotonic();
        if let Some((read_at, secret)) = &*cached
            && now.duration_since(*read_at) < SECRET_TTL
        {
            return Ok(secret.clone());
        }
        let secret = source.read().await?;
        *cached = Some((now, secret.clone()));
        Ok(secret)
    }

    /// Sends one request and reads the whole response.
    pub(super) async fn post(
        &self,
        url: &str,
        authorization: HeaderValue,
        content_type: &'static str,
        body: String,
    ) -> Result<bytes::Bytes, ValidationError> {
        let failed = |why: String| ValidationError::Client(url.to_owned(), why);
        let request = Request::post(url)
            .header(http::header::AUTHORIZATION, authorization)
            .header(http::header::CONTENT_TYPE, content_type)
            .header(http::header::ACCEPT, "application/json")
            .body(Body::from(body))
            .map_err(|e| failed(e.to_string()))?;
        let response = self.client.fetch(request, MAX_RESPONSE, ENDPOINT_DEADLINE).await;
        let response = response.map_err(|e| failed(chain(&e)))?;
        match response.status() {
            StatusCode::OK | StatusCode::CREATED => Ok(response.into_body()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                *self.secret.lock().await = None;
                Err(ValidationError::Credential(url.to_owned(), status))
            }
            status => Err(ValidationError::Status(url.to_owned(), status)),
        }
    }
}
