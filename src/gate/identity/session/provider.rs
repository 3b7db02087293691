//! One OpenID provider that people log in at: its metadata, and requests to its token endpoint.
//!
//! Promises: the endpoints come from the provider's discovery document. It is fetched again each hour; the last one is
//! used while a fetch runs and while the provider is unreachable. Requests go to https only, or to http on this machine;
//! every response is bounded in size and time, and no redirect is followed. Never: a code, token or secret in an error.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use openidconnect::{
    AuthType, AuthorizationCode, ClientSecret, EndpointNotSet, OAuth2TokenResponse, PkceCodeChallenge,
    PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, TokenUrl, core::CoreClientAuthMethod,
};
use url::Url;

use super::single_flight::SingleFlight;
use crate::{
    client::oauth::OAuthTransport,
    clock::Timestamp,
    gate::identity::{
        Issuer,
        jwt::Rules,
        openid::{
            client::{self, AuthorizationRequest, OpenIdClient, TokenErrorResponse},
            metadata::{self, MetadataError, ProviderMetadata},
        },
    },
    refusal::Refusal,
    secret::{Secret, SecretSource},
    telemetry::chain,
};

/// How long a discovery document is current.
const CURRENT: Duration = Duration::from_secs(3600);
/// Between two attempts at a document that cannot be fetched.
const RETRY: Duration = Duration::from_secs(5);

/// One `[issuer.login]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LoginSettings {
    /// The issuer's name.
    pub issuer: String,
    /// Its title on the page of choices.
    pub title: String,
    /// The gate's client identifier at the provider.
    pub client_id: String,
    /// The gate's client secret; a public client has none.
    pub client_secret: Option<SecretSource>,
    /// The scopes of the authorization request; `openid` is one of them.
    pub scopes: Vec<String>,
    /// The end session endpoint, if not the one of the discovery document.
    pub end_session: Option<String>,
}

/// A provider that people log in at.
pub(super) struct LoginProvider {
    pub(super) settings: LoginSettings,
    pub(super) issuer: Arc<Issuer>,
    /// The rules of its ID tokens: the audience is this client (OpenID Connect Core section 3.1.3.7).
    pub(super) rules: Rules,
    /// Whether a reload has removed it.
    pub(super) retired: AtomicBool,
    /// The last metadata that was fetched.
    cached: Arc<ArcSwapOption<LoginMetadata>>,
    fetches: SingleFlight<(), Result<Arc<LoginMetadata>, ProviderError>>,
}

/// The provider metadata that a login needs, every endpoint checked.
#[derive(Debug)]
pub(super) struct LoginMetadata {
    pub(super) authorization_endpoint: Url,
    token_endpoint: Url,
    pub(super) end_session_endpoint: Option<Url>,
    pub(super) iss_parameter_supported: bool,
    auth_type: AuthType,
}

/// The token response to a code or a refresh token.
pub(super) struct ReceivedTokens {
    pub(super) id_token: Option<Secret>,
    pub(super) access_token: Secret,
    pub(super) refresh_token: Option<Secret>,
}

/// The grant of a token request.
pub(super) enum TokenGrant<'a> {
    /// A code, and the PKCE verifier of its authorization request (RFC 7636).
    AuthorizationCode {
        code: &'a str,
        verifier: &'a str,
    },
    RefreshToken(&'a str),
}

/// An error of a provider.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum ProviderError {
    /// The provider rejects the code or refresh token (`invalid_grant`).
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// The provider cannot be reached, or its response is invalid; a retry may succeed.
    #[error("the provider is unavailable: {0}")]
    Unavailable(String),
}

impl ProviderError {
    pub(super) fn unavailable(&self) -> Refusal {
        // the page names no cause; the operator, who can mend a wrong client secret, finds it in the log
        tracing::warn!(error = %self, "logins and session refreshes fail: provider unavailable");
        let text =
            "the identity provider is unavailable at the moment; try again later, and tell the operator of this gate";
        Refusal::unavailable("issuer_unavailable", text).with_detail(self)
    }
}

impl From<url::ParseError> for ProviderError {
    fn from(error: url::ParseError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

/// The parameters of an authorization request that belong to one attempt.
pub(super) struct AttemptParameters {
    pub(super) redirect_uri: String,
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) challenge: PkceCodeChallenge,
}

impl LoginProvider {
    pub(super) fn new(settings: LoginSettings, issuer: Arc<Issuer>) -> Self {
        let audiences = vec![settings.client_id.clone()];
        let rules = Rules { audiences, access_tokens_only: false, ..issuer.settings.rules.clone() };
        let retired = AtomicBool::new(false);
        Self { settings, issuer, rules, retired, cached: Arc::default(), fetches: SingleFlight::default() }
    }

    /// The provider's metadata; fetched if there is none or if it is older than an hour.
    pub(super) async fn metadata(&self, now: Timestamp) -> Result<Arc<LoginMetadata>, ProviderError> {
        let fetch = self.fetches.join((), now, || {
            let issuer = self.issuer.clone();
            let cached = self.cached.clone();
            async move {
                let result = discover(&issuer).await.map(Arc::new);
                if let Ok(metadata) = &result {
                    cached.store(Some(metadata.clone()));
                }
                let span = if result.is_ok() { CURRENT } else { RETRY };
                (result, span)
            }
        });
        let cached = self.cached.load_full();
        if let Some(cached) = cached.as_ref().filter(|_| !fetch.started && !fetch.has_landed()) {
            return Ok(cached.clone());
        }
        let result = fetch.wait().await.unwrap_or_else(|| Err(ProviderError::Unavailable("the fetch failed".into())));
        result.or_else(|error| cached.ok_or(error))
    }

    /// The metadata that was fetched last, however old.
    pub(super) fn cached_metadata(&self) -> Option<Arc<LoginMetadata>> {
        self.cached.load_full()
    }

    fn client(&self) -> Result<OpenIdClient, ProviderError> {
        Ok(client::client(&self.rules.issuer, &self.settings.client_id)?)
    }

    /// The URL of an authorization request.
    pub(super) fn authorization_url(
        &self,
        metadata: &LoginMetadata,
        attempt: AttemptParameters,
    ) -> Result<String, ProviderError> {
        let AttemptParameters { redirect_uri, state, nonce, challenge } = attempt;
        let scopes = &self.settings.scopes;
        let request = AuthorizationRequest { redirect_uri, state, nonce, challenge, scopes, target: &[] };
        Ok(request.url(self.client()?, metadata.authorization_endpoint.clone())?.into())
    }

    /// Sends a request to the token endpoint.
    pub(super) async fn request_tokens(
        &self,
        grant: TokenGrant<'_>,
        redirect_uri: String,
        now: Timestamp,
    ) -> Result<ReceivedTokens, ProviderError> {
        let metadata = self.metadata(now).await?;
        let client: OpenIdClient<EndpointNotSet, EndpointNotSet, _> =
            self.client()?.set_token_uri(TokenUrl::from_url(metadata.token_endpoint.clone()));
        let mut client =
            client.set_redirect_uri(RedirectUrl::new(redirect_uri)?).set_auth_type(metadata.auth_type.clone());
        if let Some(source) = &self.settings.client_secret {
            let secret = source.read().await.map_err(|e| ProviderError::Unavailable(chain(&e)))?;
            client = client.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
        }
        let transport = OAuthTransport(self.issuer.client());
        let response = match grant {
            TokenGrant::AuthorizationCode { code, verifier } => {
                let request = client.exchange_code(AuthorizationCode::new(code.to_owned()));
                let request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()));
                request.request_async(&transport).await
            }
            TokenGrant::RefreshToken(token) => {
                let token = RefreshToken::new(token.to_owned());
                client.exchange_refresh_token(&token).request_async(&transport).await
            }
        };
        let response = response.map_err(token_error)?;
        Ok(ReceivedTokens {
            id_token: response.extra_fields().text().cloned(),
            access_token: Secret::new(response.access_token().secret().clone()),
            refresh_token: response.refresh_token().map(|token| Secret::new(token.secret().clone())),
        })
    }
}

async fn discover(issuer: &Issuer) -> Result<LoginMetadata, ProviderError> {
    let expected = &issuer.settings.rules.issuer;
    let url = metadata::discovery_url(expected);
    let metadata = metadata::fetch(issuer.client(), &url, expected, None).await;
    let metadata = metadata.map_err(|e| ProviderError::Unavailable(chain(&e)))?;
    LoginMetadata::read(&metadata)
        .map_err(|e| ProviderError::Unavailable(format!("the discovery document at `{url}` {e}")))
}

impl LoginMetadata {
    fn read(metadata: &ProviderMetadata) -> Result<Self, MetadataError> {
        let authorization = metadata.authorization_endpoint.as_ref();
        let token = metadata.token_endpoint.as_ref();
        // RFC 8414 section 2: without the member it is `client_secret_basic`
        let methods = metadata.token_endpoint_auth_methods_supported.as_deref().unwrap_or_default();
        let basic = methods.is_empty() || methods.contains(&CoreClientAuthMethod::ClientSecretBasic);
        Ok(Self {
            authorization_endpoint: authorization.ok_or(MetadataError::Missing("authorization_endpoint"))?.url()?,
            token_endpoint: token.ok_or(MetadataError::Missing("token_endpoint"))?.url()?,
            end_session_endpoint: metadata.end_session_endpoint.as_ref().map(|end| end.url()).transpose()?,
            iss_parameter_supported: metadata.authorization_response_iss_parameter_supported,
            auth_type: if basic { AuthType::BasicAuth } else { AuthType::RequestBody },
        })
    }
}

/// RFC 6749 section 5.2: `invalid_grant` is about the code or the refresh token. Other errors are about this client or
/// the provider, and do not end a session.
fn token_error<E: std::error::Error + 'static>(error: RequestTokenError<E, TokenErrorResponse>) -> ProviderError {
    match error {
        RequestTokenError::ServerResponse(body) => {
            let code = body.error().as_ref().to_owned();
            let text = body.error_description().map_or_else(String::new, |text| format!(" ({text})"));
            match code.as_str() {
                "invalid_grant" => ProviderError::Refused(format!("{code}{text}")),
                _ => ProviderError::Unavailable(format!("its token endpoint answered `{code}`{text}")),
            }
        }
        RequestTokenError::Request(error) => ProviderError::Unavailable(chain(&error)),
        // the message may contain tokens
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            ProviderError::Unavailable("its token endpoint's response is not a token response".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{clock, gate::identity::Settings};

    fn provider(issuer: String) -> LoginProvider {
        let mut settings = Settings::test();
        settings.rules.issuer = issuer;
        let login = LoginSettings {
            issuer: settings.name.clone(),
            title: "Corp".into(),
            client_id: "gate".into(),
            client_secret: None,
            scopes: vec!["openid".into()],
            end_session: None,
        };
        LoginProvider::new(login, Arc::new(Issuer::new(settings, Arc::new(crate::client::Client::new(None).unwrap()))))
    }

    #[tokio::test]
    async fn a_provider_that_failed_is_not_asked_again_at_once() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = provider(format!("http://{}", listener.local_addr().unwrap()));
        // the requests arrived together, and the fetch of the first took its time to fail
        let arrived = clock::now() - jiff::SignedDuration::from_secs(10);
        let fails = async |now| assert!(provider.metadata(now).await.is_err());
        let breaks_off = async { drop(listener.accept().await.unwrap()) };
        tokio::join!(fails(arrived), breaks_off);
        let fetched_again = tokio::select! {
            biased;
            () = async { fails(arrived).await; fails(clock::now()).await } => false,
            _ = listener.accept() => true,
        };
        assert!(!fetched_again);
    }

    #[tokio::test]
    async fn cached_metadata_is_used_while_a_fetch_runs() {
        // a listener that never answers
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = provider(format!("http://{}", listener.local_addr().unwrap()));
        let endpoint = |path: &str| Url::parse(&format!("{}/{path}", provider.rules.issuer)).unwrap();
        let metadata = LoginMetadata {
            authorization_endpoint: endpoint("auth"),
            token_endpoint: endpoint("token"),
            end_session_endpoint: Some(endpoint("end")),
            iss_parameter_supported: true,
            auth_type: AuthType::BasicAuth,
        };
        provider.cached.store(Some(Arc::new(metadata)));
        let first = provider.metadata(clock::now());
        let second = async {
            tokio::task::yield_now().await;
            let metadata = tokio::time::timeout(RETRY, provider.metadata(clock::now())).await;
            metadata.expect("it waits for the fetch").unwrap()
        };
        let metadata = tokio::select! {
            biased;
            _ = first => panic!("the listener answered"),
            metadata = second => metadata,
        };
        assert!(Arc::ptr_eq(&metadata, &provider.cached_metadata().unwrap()));
    }
}
