//! Google access tokens by workload identity federation and impersonation.
//!
//! The gate's own OIDC token is exchanged at the security token service for a federated token (google-cloud-auth does
//! that), and with it the IAM Credentials service is asked for a token of the service account. The second step is asked
//! here, because google-cloud-auth keeps its answer's `expireTime` to itself, and a credential without a known end
//! cannot be closed in time. The library's object is made anew for each renewal: it never recovers from a permanent
//! error.

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

use super::{CredentialError, Fresh, bearer, callers::Minter};
use crate::{
    client::Client,
    clock::Timestamp,
    http::Body,
    secret::{Secret, Source},
    telemetry::chain,
};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// The longest that IAM grants without an organisation policy for more.
const LIFETIME: &str = "3600s";
const DEADLINE: Duration = Duration::from_secs(20);
/// Of what the security token service says about a refusal, this much is repeated, in characters.
const MAX_REASON: usize = 400;
/// Google bounds its tokens at 12,288 bytes; this holds one and what stands around it.
const MAX_ANSWER: usize = 64 * 1024;

/// The `[google]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The workload identity pool provider: `//iam.googleapis.com/projects/…/providers/…`.
    pub audience: String,
    /// As whom Google is asked.
    pub subject: Subject,
    /// The security token service's URL.
    pub token_url: String,
    /// The IAM Credentials service's base URL.
    pub iam_url: String,
}

/// As whom Google is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// As the gate, with the OIDC token that is here.
    Gate(Source),
    /// As each caller, with tokens that the gate signs.
    Callers,
}

/// Google, as this gate is known to it.
pub struct Google {
    settings: Settings,
    client: Arc<Client>,
}

impl PartialEq for Google {
    /// Two that ask the same services as the same caller; connections do not count.
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings
    }
}

impl Eq for Google {}

impl Google {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(settings: Settings, client: Arc<Client>) -> Self {
        Self { settings, client }
    }

    /// The `aud` of the tokens that it is shown.
    #[must_use]
    pub fn audience(&self) -> &str {
        &self.settings.audience
    }

    /// Whether it is asked as each caller.
    #[must_use]
    pub fn is_for_callers(&self) -> bool {
        self.settings.subject == Subject::Callers
    }

    /// A token of the service account, as the gate.
    pub(super) async fn access_token(&self, account: &str) -> Result<Fresh, CredentialError> {
        match &self.settings.subject {
            Subject::Gate(source) => self.exchange(source.read().await?, account).await,
            Subject::Callers => Err(CredentialError::NoKey),
        }
    }

    /// A token of the service account, as this principal.
    pub(super) async fn access_token_as(
        &self,
        minter: &Minter,
        principal: &str,
        group: &str,
        account: &str,
    ) -> Result<Fresh, CredentialError> {
        self.exchange(minter.mint(principal, &self.settings.audience, group)?, account).await
    }

    async fn exchange(&self, subject: Secret, account: &str) -> Result<Fresh, CredentialError> {
        let federated = tokio::time::timeout(DEADLINE, self.federated_token(subject))
            .await
            .map_err(|_| CredentialError::Sts(format!("no answer within {DEADLINE:?}")))??;
        self.impersonate(account, federated).await
    }

    async fn federated_token(&self, token: Secret) -> Result<HeaderValue, CredentialError> {
        let failed = |e: &dyn std::error::Error| CredentialError::Sts(without(&token, &chain(e)));
        let credentials = ProgrammaticBuilder::new(Arc::new(OwnToken(token.clone())))
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
        .ok_or_else(|| CredentialError::Sts("it gave no token".into()))
    }

    /// `projects.serviceAccounts.generateAccessToken` of the IAM Credentials API, v1.
    async fn impersonate(&self, account: &str, federated: HeaderValue) -> Result<Fresh, CredentialError> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
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
        let answer: Answer = serde_json::from_slice(answer.body())
            .map_err(|_| CredentialError::Iam("an answer without `accessToken` and `expireTime`".into()))?;
        bearer(&answer.access_token, Some(answer.expire_time))
    }
}

/// The beginning of `text`, without any part of the token: google-cloud-auth repeats the answer's body whole, and a
/// service may repeat in it what it was sent.
fn without(token: &Secret, text: &str) -> String {
    let parts = token.expose().split('.').filter(|part| !part.is_empty());
    let text = parts.fold(text.to_owned(), |text, part| text.replace(part, "…"));
    match text.char_indices().nth(MAX_REASON) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// The gate's own OIDC token, read anew for each exchange.
#[derive(Debug)]
struct OwnToken(Secret);

#[derive(Debug, thiserror::Error)]
#[error("a token that is there already cannot be missing")]
enum Never {}

impl SubjectTokenProviderError for Never {
    fn is_transient(&self) -> bool {
        false
    }
}

impl SubjectTokenProvider for OwnToken {
    type Error = Never;

    async fn subject_token(&self) -> Result<SubjectToken, Never> {
        Ok(SubjectTokenBuilder::new(self.0.expose()).build())
    }
}
