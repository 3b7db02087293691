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
use http::Request;
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, ExtraTokenFields, PkceCodeChallenge,
    PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, StandardRevocableToken,
    StandardTokenResponse, TokenResponse, TokenUrl,
    basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType},
};
use serde::{Deserialize, Serialize};

use super::single_flight::SingleFlight;
use crate::{
    client::oauth::Messenger,
    clock::Timestamp,
    gate::identity::{Issuer, issuer::may_be_asked, jwt::Rules},
    http::Body,
    refusal::Refusal,
    secret::{Secret, SecretSource},
    telemetry::chain,
};

/// A discovery document is a few KiB.
const MAX_DOCUMENT: usize = 256 * 1024;
const DEADLINE: Duration = Duration::from_secs(10);
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
pub(super) struct Provider {
    pub(super) settings: LoginSettings,
    pub(super) issuer: Arc<Issuer>,
    /// The rules of its ID tokens: the audience is this client (OpenID Connect Core section 3.1.3.7).
    pub(super) rules: Rules,
    /// Whether a reload has removed it.
    pub(super) retired: AtomicBool,
    /// The last metadata that was fetched.
    cached: Arc<ArcSwapOption<ProviderMetadata>>,
    fetches: SingleFlight<(), Result<Arc<ProviderMetadata>, ProviderError>>,
}

/// The members of a discovery document that a login needs (OpenID Connect Discovery section 3, RP-Initiated Logout section 2.1, RFC 9207
/// section 3).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct ProviderMetadata {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    pub(super) end_session_endpoint: Option<String>,
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
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

/// The member that OpenID Connect adds to a token response (Core section 3.1.3.3).
#[derive(Deserialize, Serialize)]
struct IdTokenMember {
    id_token: Option<String>,
}

// oauth2 asks for it, so the token has no Debug of its own
impl std::fmt::Debug for IdTokenMember {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("IdTokenMember(..)")
    }
}

impl ExtraTokenFields for IdTokenMember {}

type OAuth = oauth2::Client<
    BasicErrorResponse,
    StandardTokenResponse<IdTokenMember, BasicTokenType>,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
>;

/// The parameters of an authorization request (OpenID Connect Core section 3.1.2.1).
pub(super) struct AuthorizationRequest {
    pub(super) redirect_uri: String,
    pub(super) state: String,
    pub(super) nonce: String,
    pub(super) challenge: PkceCodeChallenge,
}

impl Provider {
    pub(super) fn new(settings: LoginSettings, issuer: Arc<Issuer>) -> Self {
        let audiences = vec![settings.client_id.clone()];
        let rules = Rules { audiences, access_tokens_only: false, ..issuer.settings.rules.clone() };
        let retired = AtomicBool::new(false);
        Self { settings, issuer, rules, retired, cached: Arc::default(), fetches: SingleFlight::default() }
    }

    /// The provider's metadata; fetched if there is none or if it is older than an hour.
    pub(super) async fn metadata(&self, now: Timestamp) -> Result<Arc<ProviderMetadata>, ProviderError> {
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
    pub(super) fn cached_metadata(&self) -> Option<Arc<ProviderMetadata>> {
        self.cached.load_full()
    }

    /// The URL of an authorization request.
    pub(super) fn authorization_url(
        &self,
        metadata: &ProviderMetadata,
        request: AuthorizationRequest,
    ) -> Result<String, ProviderError> {
        let AuthorizationRequest { redirect_uri, state, nonce, challenge } = request;
        let wrong = |e: url::ParseError| ProviderError::Unavailable(e.to_string());
        let client = OAuth::new(ClientId::new(self.settings.client_id.clone()))
            .set_auth_uri(AuthUrl::new(metadata.authorization_endpoint.clone()).map_err(wrong)?)
            .set_redirect_uri(RedirectUrl::new(redirect_uri).map_err(wrong)?);
        let mut request = client
            .authorize_url(|| CsrfToken::new(state))
            .add_scopes(self.settings.scopes.iter().cloned().map(Scope::new))
            .set_pkce_challenge(challenge)
            .add_extra_param("nonce", nonce);
        if self.settings.scopes.iter().any(|scope| scope == "offline_access") {
            // OpenID Connect Core section 11: without it the scope is ignored
            request = request.add_extra_param("prompt", "consent");
        }
        Ok(request.url().0.into())
    }

    /// Sends a request to the token endpoint.
    pub(super) async fn request_tokens(
        &self,
        grant: TokenGrant<'_>,
        redirect_uri: String,
        now: Timestamp,
    ) -> Result<ReceivedTokens, ProviderError> {
        let metadata = self.metadata(now).await?;
        let wrong = |e: url::ParseError| ProviderError::Unavailable(e.to_string());
        let mut client = OAuth::new(ClientId::new(self.settings.client_id.clone()))
            .set_token_uri(TokenUrl::new(metadata.token_endpoint.clone()).map_err(wrong)?)
            .set_redirect_uri(RedirectUrl::new(redirect_uri).map_err(wrong)?);
        if let Some(source) = &self.settings.client_secret {
            let secret = source.read().await.map_err(|e| ProviderError::Unavailable(chain(&e)))?;
            client = client.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
        }
        // RFC 8414 section 2: without the member it is `client_secret_basic`
        let methods = metadata.token_endpoint_auth_methods_supported.as_deref().unwrap_or_default();
        if !methods.is_empty() && !methods.iter().any(|method| method == "client_secret_basic") {
            client = client.set_auth_type(AuthType::RequestBody);
        }
        let messenger = Messenger(self.issuer.client());
        let answer = match grant {
            TokenGrant::AuthorizationCode { code, verifier } => {
                let request = client.exchange_code(AuthorizationCode::new(code.to_owned()));
                let request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()));
                request.request_async(&messenger).await
            }
            TokenGrant::RefreshToken(token) => {
                let token = RefreshToken::new(token.to_owned());
                client.exchange_refresh_token(&token).request_async(&messenger).await
            }
        };
        let answer = answer.map_err(token_error)?;
        Ok(ReceivedTokens {
            id_token: answer.extra_fields().id_token.clone().map(Secret::new),
            access_token: Secret::new(answer.access_token().secret().clone()),
            refresh_token: answer.refresh_token().map(|token| Secret::new(token.secret().clone())),
        })
    }
}

async fn discover(issuer: &Issuer) -> Result<ProviderMetadata, ProviderError> {
    let expected = &issuer.settings.rules.issuer;
    let url = format!("{}/.well-known/openid-configuration", expected.trim_end_matches('/'));
    let invalid = |why: String| ProviderError::Unavailable(format!("`{url}` {why}"));
    let request = Request::get(&url).header("accept", "application/json").body(Body::Empty);
    let request = request.map_err(|e| invalid(e.to_string()))?;
    let response = issuer.client().fetch(request, MAX_DOCUMENT, DEADLINE).await;
    let response = response.map_err(|e| invalid(chain(&e)))?;
    if response.status() != http::StatusCode::OK {
        return Err(invalid(format!("answered {}", response.status())));
    }
    let metadata: ProviderMetadata =
        serde_json::from_slice(response.body()).map_err(|e| invalid(format!("is invalid: {e}")))?;
    // OpenID Connect Discovery section 4.3
    if metadata.issuer != *expected {
        return Err(invalid("is of another issuer".into()));
    }
    let ends = metadata.end_session_endpoint.as_ref();
    for endpoint in [&metadata.authorization_endpoint, &metadata.token_endpoint].into_iter().chain(ends) {
        if !may_be_asked(endpoint) {
            return Err(invalid("names an endpoint that is not https".into()));
        }
    }
    Ok(metadata)
}

/// RFC 6749 section 5.2: `invalid_grant` is about the code or the refresh token. Other errors are about this client or
/// the provider, and do not end a session.
fn token_error<E: std::error::Error + 'static>(error: RequestTokenError<E, BasicErrorResponse>) -> ProviderError {
    match error {
        RequestTokenError::ServerResponse(answer) => {
            let code = answer.error().as_ref().to_owned();
            let text = answer.error_description().map_or_else(String::new, |text| format!(" ({text})"));
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
    use crate::{client::Client, clock, gate::identity::Settings};

    fn provider(issuer: String) -> Provider {
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
        Provider::new(login, Arc::new(Issuer::new(settings, Arc::new(Client::new(None).unwrap()))))
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
        let asked = tokio::select! {
            biased;
            () = async { fails(arrived).await; fails(clock::now()).await } => false,
            _ = listener.accept() => true,
        };
        assert!(!asked);
    }

    #[tokio::test]
    async fn cached_metadata_is_used_while_a_fetch_runs() {
        // a listener that never answers
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let provider = provider(format!("http://{}", listener.local_addr().unwrap()));
        let endpoint = |path: &str| format!("{}/{path}", provider.rules.issuer);
        let metadata = ProviderMetadata {
            issuer: provider.rules.issuer.clone(),
            authorization_endpoint: endpoint("auth"),
            token_endpoint: endpoint("token"),
            end_session_endpoint: Some(endpoint("end")),
            authorization_response_iss_parameter_supported: true,
            token_endpoint_auth_methods_supported: None,
        };
        provider.cached.store(Some(Arc::new(metadata)));
        let first = provider.metadata(clock::now());
        let second = async {
            tokio::task::yield_now().await;
            let metadata = tokio::time::timeout(DEADLINE / 2, provider.metadata(clock::now())).await;
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
