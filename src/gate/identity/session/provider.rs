//! One provider that people log in at: where it is, and what it is asked.
//!
//! Promises: its endpoints come from its own discovery document, which is read again each hour and serves on while the
//! provider is away and while it is asked; only https is asked, or http on this machine; every answer is bounded in size and time, and no
//! redirect is followed. Never: a code, token or secret in an error.

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

use crate::{
    client::oauth::Messenger,
    clock::{self, Timestamp},
    gate::identity::{Issuer, issuer::may_be_asked, jwt::Rules},
    http::Body,
    refusal::Refusal,
    secret::{Secret, Source},
    telemetry::chain,
};

/// A discovery document is a few KiB.
const MAX_DOCUMENT: usize = 256 * 1024;
const DEADLINE: Duration = Duration::from_secs(10);
/// How long a discovery document is taken for current.
const FRESH: Duration = Duration::from_secs(3600);
/// Between two attempts at a document that cannot be had.
const RETRY: Duration = Duration::from_secs(5);

/// One `[issuer.login]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginSettings {
    /// The issuer's name.
    pub issuer: String,
    /// How the chooser calls it.
    pub title: String,
    /// The gate's name at the provider.
    pub client_id: String,
    /// The gate's secret at the provider; a public client has none.
    pub client_secret: Option<Source>,
    /// What is asked for; `openid` among it.
    pub scopes: Vec<String>,
    /// Where its own session is ended, if not where discovery says.
    pub end_session: Option<String>,
}

/// A provider that people log in at.
pub(super) struct Provider {
    pub(super) settings: LoginSettings,
    pub(super) issuer: Arc<Issuer>,
    /// What its ID tokens must satisfy: the audience is this client (OpenID Connect Core section 3.1.3.7).
    pub(super) rules: Rules,
    /// Whether it is served no longer.
    pub(super) retired: AtomicBool,
    known: ArcSwapOption<Known>,
    asking: tokio::sync::Mutex<Option<Timestamp>>,
}

struct Known {
    document: Document,
    at: Timestamp,
}

/// What is read of a discovery document (OpenID Connect Discovery section 3, RP-Initiated Logout section 2.1, RFC 9207
/// section 3).
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Document {
    issuer: String,
    authorization_endpoint: String,
    token_endpoint: String,
    pub(super) end_session_endpoint: Option<String>,
    #[serde(default)]
    pub(super) authorization_response_iss_parameter_supported: bool,
    token_endpoint_auth_methods_supported: Option<Vec<String>>,
}

/// What the provider gave for a code or a refresh token.
pub(super) struct Tokens {
    pub(super) id_token: Option<Secret>,
    pub(super) access_token: Secret,
    pub(super) refresh_token: Option<Secret>,
}

/// What the provider is shown for tokens.
pub(super) enum Grant<'a> {
    /// A code, and the verifier that proves who asked for it (RFC 7636).
    Code(&'a str, &'a str),
    /// A refresh token.
    Refresh(&'a str),
}

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    /// The provider says that the code or refresh token is not good, or no longer.
    #[error("the provider refuses: {0}")]
    Refused(String),
    /// The provider cannot be asked, or answers what cannot be read; it may be otherwise next time.
    #[error("the provider cannot be asked: {0}")]
    Unavailable(String),
}

impl AskError {
    pub(super) fn unavailable(&self) -> Refusal {
        // whoever waits sees a page; whoever can mend it, a wrong client secret say, reads the log
        tracing::warn!(error = %self, "people cannot log in or stay logged in");
        let text =
            "the identity provider cannot be asked at the moment; try again later, and tell whoever runs this gate";
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

/// What an authorization request is made of (OpenID Connect Core section 3.1.2.1).
pub(super) struct Attempt<'a> {
    pub(super) redirect_uri: String,
    pub(super) state: String,
    pub(super) nonce: &'a str,
    pub(super) challenge: PkceCodeChallenge,
}

impl Provider {
    pub(super) fn new(settings: LoginSettings, issuer: Arc<Issuer>) -> Self {
        let audiences = vec![settings.client_id.clone()];
        let rules = Rules { audiences, access_tokens_only: false, ..issuer.settings.rules.clone() };
        let (known, asking) = (ArcSwapOption::empty(), tokio::sync::Mutex::default());
        Self { settings, issuer, rules, retired: AtomicBool::new(false), known, asking }
    }

    /// Its discovery document, asked for where none is known or the one that is has grown old.
    pub(super) async fn document(&self, now: Timestamp) -> Result<Document, AskError> {
        let fresh = |known: &Arc<Known>| now < clock::after(known.at, FRESH);
        if let Some(known) = self.known.load_full().filter(fresh) {
            return Ok(known.document.clone());
        }
        // single flight: whoever waited finds what the first one found; nobody waits who has an old one
        let mut failed_at = match (self.last_document(), self.asking.try_lock()) {
            (_, Ok(failed_at)) => failed_at,
            (Some(document), Err(_)) => return Ok(document),
            (None, Err(_)) => self.asking.lock().await,
        };
        let known = self.known.load_full();
        if let Some(known) = known.as_ref().filter(|known| fresh(known)) {
            return Ok(known.document.clone());
        }
        let error = if failed_at.is_some_and(|at| now < clock::after(at, RETRY)) {
            AskError::Unavailable("its discovery document could not be read a moment ago".into())
        } else {
            match self.discover().await {
                Ok(document) => {
                    *failed_at = None;
                    self.known.store(Some(Arc::new(Known { document: document.clone(), at: now })));
                    return Ok(document);
                }
                Err(error) => {
                    // what failed took its time, and everybody who waited meanwhile need not fail anew
                    *failed_at = Some(clock::now().max(now));
                    error
                }
            }
        };
        known.map(|known| known.document.clone()).ok_or(error)
    }

    /// The discovery document as it was read last, however old; nobody is asked.
    pub(super) fn last_document(&self) -> Option<Document> {
        self.known.load().as_ref().map(|known| known.document.clone())
    }

    async fn discover(&self) -> Result<Document, AskError> {
        let url = format!("{}/.well-known/openid-configuration", self.rules.issuer.trim_end_matches('/'));
        let wrong = |why: String| AskError::Unavailable(format!("`{url}` {why}"));
        let request = Request::get(&url).header("accept", "application/json").body(Body::Empty);
        let request = request.map_err(|e| wrong(e.to_string()))?;
        let answer = self.issuer.client().fetch(request, MAX_DOCUMENT, DEADLINE).await;
        let answer = answer.map_err(|e| wrong(chain(&e)))?;
        if answer.status() != http::StatusCode::OK {
            return Err(wrong(format!("answers {}", answer.status())));
        }
        let document: Document = serde_json::from_slice(answer.body()).map_err(|e| wrong(format!("holds {e}")))?;
        // OpenID Connect Discovery section 4.3
        if document.issuer != self.rules.issuer {
            return Err(wrong("is of another issuer".into()));
        }
        let ends = document.end_session_endpoint.as_ref();
        for endpoint in [&document.authorization_endpoint, &document.token_endpoint].into_iter().chain(ends) {
            if !may_be_asked(endpoint) {
                return Err(wrong("names an endpoint that is not https".into()));
            }
        }
        Ok(document)
    }

    /// Where a browser goes to log in.
    pub(super) fn authorization(&self, document: &Document, attempt: Attempt<'_>) -> Result<String, AskError> {
        let Attempt { redirect_uri, state, nonce, challenge } = attempt;
        let wrong = |e: url::ParseError| AskError::Unavailable(e.to_string());
        let client = OAuth::new(ClientId::new(self.settings.client_id.clone()))
            .set_auth_uri(AuthUrl::new(document.authorization_endpoint.clone()).map_err(wrong)?)
            .set_redirect_uri(RedirectUrl::new(redirect_uri).map_err(wrong)?);
        let mut request = client
            .authorize_url(|| CsrfToken::new(state))
            .add_scopes(self.settings.scopes.iter().cloned().map(Scope::new))
            .set_pkce_challenge(challenge)
            .add_extra_param("nonce", nonce.to_owned());
        if self.settings.scopes.iter().any(|scope| scope == "offline_access") {
            // OpenID Connect Core section 11: without it the scope is ignored
            request = request.add_extra_param("prompt", "consent");
        }
        Ok(request.url().0.into())
    }

    /// Asks the token endpoint.
    pub(super) async fn ask(&self, grant: Grant<'_>, redirect_uri: String, now: Timestamp) -> Result<Tokens, AskError> {
        let document = self.document(now).await?;
        let wrong = |e: url::ParseError| AskError::Unavailable(e.to_string());
        let mut client = OAuth::new(ClientId::new(self.settings.client_id.clone()))
            .set_token_uri(TokenUrl::new(document.token_endpoint).map_err(wrong)?)
            .set_redirect_uri(RedirectUrl::new(redirect_uri).map_err(wrong)?);
        if let Some(source) = &self.settings.client_secret {
            let secret = source.read().await.map_err(|e| AskError::Unavailable(chain(&e)))?;
            client = client.set_client_secret(ClientSecret::new(secret.expose().to_owned()));
        }
        // RFC 8414 section 2: without the member it is `client_secret_basic`
        let methods = document.token_endpoint_auth_methods_supported.unwrap_or_default();
        if !methods.is_empty() && !methods.iter().any(|method| method == "client_secret_basic") {
            client = client.set_auth_type(AuthType::RequestBody);
        }
        let messenger = Messenger(self.issuer.client());
        let answer = match grant {
            Grant::Code(code, verifier) => {
                let request = client.exchange_code(AuthorizationCode::new(code.to_owned()));
                let request = request.set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()));
                request.request_async(&messenger).await
            }
            Grant::Refresh(token) => {
                let token = RefreshToken::new(token.to_owned());
                client.exchange_refresh_token(&token).request_async(&messenger).await
            }
        };
        let answer = answer.map_err(said)?;
        Ok(Tokens {
            id_token: answer.extra_fields().id_token.clone().map(Secret::new),
            access_token: Secret::new(answer.access_token().secret().clone()),
            refresh_token: answer.refresh_token().map(|token| Secret::new(token.secret().clone())),
        })
    }
}

/// RFC 6749 section 5.2: `invalid_grant` is about the code or the refresh token; anything else is about this client or
/// the provider, and is no reason to end a session.
fn said<E: std::error::Error + 'static>(error: RequestTokenError<E, BasicErrorResponse>) -> AskError {
    match error {
        RequestTokenError::ServerResponse(answer) => {
            let code = answer.error().as_ref().to_owned();
            let text = answer.error_description().map_or_else(String::new, |text| format!(" ({text})"));
            match code.as_str() {
                "invalid_grant" => AskError::Refused(format!("{code}{text}")),
                _ => AskError::Unavailable(format!("it answers `{code}`{text}")),
            }
        }
        RequestTokenError::Request(error) => AskError::Unavailable(chain(&error)),
        // their bytes may hold tokens
        RequestTokenError::Parse(..) | RequestTokenError::Other(_) => {
            AskError::Unavailable("its token endpoint answers what is no token response".into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{client::Client, gate::identity::Settings};

    /// A provider that nobody answers for.
    fn absent() -> Provider {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut settings = Settings::test();
        settings.rules.issuer = format!("http://127.0.0.1:{port}");
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
    async fn who_waited_while_a_provider_failed_does_not_ask_it_again() {
        let provider = absent();
        // they came together, and the first one's question took its time to fail
        let came = clock::now() - jiff::SignedDuration::from_secs(10);
        let said = async |now| provider.document(now).await.unwrap_err().to_string();
        assert!(!said(came).await.contains("a moment ago"));
        assert!(said(came).await.contains("a moment ago"));
        assert!(said(clock::now()).await.contains("a moment ago"));
    }

    #[tokio::test]
    async fn an_old_document_serves_while_somebody_asks_for_a_new_one() {
        let provider = absent();
        let endpoint = |path: &str| format!("{}/{path}", provider.rules.issuer);
        let document = Document {
            issuer: provider.rules.issuer.clone(),
            authorization_endpoint: endpoint("auth"),
            token_endpoint: endpoint("token"),
            end_session_endpoint: Some(endpoint("end")),
            authorization_response_iss_parameter_supported: true,
            token_endpoint_auth_methods_supported: None,
        };
        provider.known.store(Some(Arc::new(Known { document, at: Timestamp::UNIX_EPOCH })));
        let _somebody = provider.asking.lock().await;
        let document = tokio::time::timeout(DEADLINE, provider.document(clock::now())).await;
        let document = document.expect("it waits").unwrap();
        assert_eq!(document.end_session_endpoint, provider.last_document().unwrap().end_session_endpoint);
    }
}
