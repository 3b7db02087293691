//! Google access tokens by workload identity federation and service account impersonation.
//!
//! google-cloud-auth exchanges a subject token at the security token service for a federated token. This module then
//! requests the service account's token from the IAM Credentials service, because google-cloud-auth does not return that
//! answer's `expireTime`, and a credential without a known expiry cannot be renewed or closed in time. Each exchange
//! makes a new library object: one that met a permanent error never recovers.

use std::{sync::Arc, time::Duration};

use google_cloud_auth::{
    credentials::{
        CacheableResource,
        external_account::ProgrammaticBuilder,
        subject_token::{Builder as SubjectTokenBuilder, SubjectToken, SubjectTokenProvider},
    },
    errors::SubjectTokenProviderError,
};
use http::{Extensions, HeaderValue, Request, header};

use super::{
    obtained::{CredentialError, NewCredential},
    subject_token::SubjectTokenSigner,
};
use crate::{
    client::Client,
    clock::Timestamp,
    http::Body,
    secret::{Secret, SecretSource},
    telemetry::chain,
};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The longest lifetime that IAM grants without an organisation policy for more.
const LIFETIME: &str = "3600s";
const DEADLINE: Duration = Duration::from_secs(20);
/// Characters of the security token service's error text that are logged.
const MAX_REASON: usize = 400;
/// Largest answer, in bytes. Google bounds its tokens at 12,288.
const MAX_ANSWER: usize = 64 * 1024;

/// The `[google]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The workload identity pool provider: `//iam.googleapis.com/projects/…/providers/…`.
    pub audience: String,
    /// The subject of the token exchange.
    pub subject: Subject,
    /// The security token service's URL.
    pub token_url: String,
    /// The IAM Credentials service's base URL.
    pub iam_url: String,
}

/// The subject of the token exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// The gate, with the OIDC token from this source.
    Gate(SecretSource),
    /// Each caller, with a subject token that the gate signs.
    Callers,
}

/// A client of Google's token services.
pub(crate) struct Google {
    settings: Settings,
    client: Arc<Client>,
}

impl PartialEq for Google {
    /// Whether both use the same services with the same subject; connections do not count.
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Google {}

impl Google {
    #[must_use]
    pub(crate) fn new(settings: Settings, client: Arc<Client>) -> Self {
        Self { settings, client }
    }

    /// The `aud` of subject tokens.
    #[must_use]
    pub(crate) fn audience(&self) -> &str {
        &self.settings.audience
    }

    /// Whether each caller has its own access token.
    #[must_use]
    pub(crate) fn is_per_caller(&self) -> bool {
        self.settings.subject == Subject::Callers
    }

    /// An access token of the service account, for the gate.
    pub(super) async fn access_token(&self, account: &str) -> Result<NewCredential, CredentialError> {
        match &self.settings.subject {
            Subject::Gate(source) => self.exchange(source.read().await?, account).await,
            Subject::Callers => Err(CredentialError::NoKey),
        }
    }

    /// An access token of the service account, for this principal.
    pub(super) async fn access_token_as(
        &self,
        signer: &SubjectTokenSigner,
        principal: &str,
        group: &str,
        account: &str,
    ) -> Result<NewCredential, CredentialError> {
        self.exchange(signer.sign(principal, &self.settings.audience, group)?, account).await
    }

    async fn exchange(&self, subject: Secret, account: &str) -> Result<NewCredential, CredentialError> {
        let federated = tokio::time::timeout(DEADLINE, self.federated_token(subject))
            .await
            .map_err(|_| CredentialError::Sts(format!("no answer within {DEADLINE:?}")))??;
        self.impersonate(account, federated).await
    }

    async fn federated_token(&self, token: Secret) -> Result<HeaderValue, CredentialError> {
        let failed = |e: &dyn std::error::Error| CredentialError::Sts(redact(&token, &chain(e)));
        let credentials = ProgrammaticBuilder::new(Arc::new(GivenToken(token.clone())))
            .with_audience(&self.settings.audience)
            .with_subject_token_type("urn:ietf:params:oauth:token-type:jwt")
            .with_token_url(&self.settings.token_url)
            .with_scopes([SCOPE])
            .build()
            .map_err(|e| failed(&e))?;
        match credentials.headers(Extensions::new()).await.map_err(|e| failed(&e))? {
            CacheableResource::New { data, .. } => data.get(header::AUTHORIZATION).cloned(),
            CacheableResource::NotModified => None,
        }
        .ok_or_else(|| CredentialError::Sts("its answer has no token".into()))
    }

    /// `projects.serviceAccounts.generateAccessToken` of the IAM Credentials API, v1.
    async fn impersonate(&self, account: &str, federated: HeaderValue) -> Result<NewCredential, CredentialError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct AccessToken {
            access_token: String,
            expire_time: Timestamp,
        }
        let failed = |e: &dyn std::error::Error| CredentialError::Iam(chain(e));
        let base = self.settings.iam_url.trim_end_matches('/');
        let body = serde_json::json!({ "scope": [SCOPE], "lifetime": LIFETIME }).to_string();
        let request = Request::post(format!("{base}/v1/projects/-/serviceAccounts/{account}:generateAccessToken"))
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, federated)
            .body(Body::from(body))
            .map_err(|e| failed(&e))?;
        let answer = self.client.fetch(request, MAX_ANSWER, DEADLINE).await.map_err(|e| failed(&e))?;
        if !answer.status().is_success() {
            return Err(CredentialError::Iam(format!("{} for `{account}`", answer.status())));
        }
        let token: AccessToken = serde_json::from_slice(answer.body())
            .map_err(|_| CredentialError::Iam("an answer without `accessToken` and `expireTime`".into()))?;
        NewCredential::bearer(&token.access_token, Some(token.expire_time))
    }
}

/// The beginning of `text` without any part of the token: google-cloud-auth's error holds the whole answer, and a service
/// may repeat the request in it.
fn redact(token: &Secret, text: &str) -> String {
    let parts = token.expose().split('.').filter(|part| !part.is_empty());
    let text = parts.fold(text.to_owned(), |text, part| text.replace(part, "…"));
    match text.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// The subject token of one exchange.
#[derive(Debug)]
struct GivenToken(Secret);

#[derive(Debug, thiserror::Error)]
#[error("a token that is there already cannot be missing")]
enum Infallible {}

impl SubjectTokenProviderError for Infallible {
    fn is_transient(&self) -> bool {
        false
    }
}

impl SubjectTokenProvider for GivenToken {
    type Error = Infallible;

    async fn subject_token(&self) -> Result<SubjectToken, Infallible> {
        Ok(SubjectTokenBuilder::new(self.0.expose()).build())
    }
}
