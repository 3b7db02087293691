//! The messages between a public client and its provider's token endpoint, and what is believed of the answers.
//!
//! Promises: a token that is not a bearer token is refused, and so is an answer whose ID token is not accepted. A
//! provider's answer is never repeated in an error, except its error code and description.

use bytes::Bytes;
use http::{
    Request,
    header::{ACCEPT, CONTENT_TYPE},
};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, DeviceAuthorizationUrl, EndpointNotSet, EndpointSet, ErrorResponse,
    ExtraTokenFields, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, StandardRevocableToken,
    StandardTokenResponse, TokenResponse, TokenUrl,
    basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType},
};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    Problem,
    id_token::{Expected, verify},
    login::{Kept, Settings, Tokens},
    printable,
    provider::Provider,
};
use crate::{
    client::{ClientError, oauth::Messenger},
    clock,
    http::Body,
    secret::Secret,
};

/// A provider's answer to a revocation, which nobody reads.
const REVOCATION_LIMIT: usize = 64 << 10;
const REVOCATION_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
/// A token endpoint's answer, with the ID token that OpenID Connect adds.
pub(super) type Answer = StandardTokenResponse<WithIdToken, BasicTokenType>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct WithIdToken {
    id_token: Option<Kept>,
}

impl ExtraTokenFields for WithIdToken {}

/// The crate's client, and which of its endpoints are known.
pub(super) type OAuth<Device, Token> = oauth2::Client<
    BasicErrorResponse,
    Answer,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointNotSet,
    Device,
    EndpointNotSet,
    EndpointNotSet,
    Token,
>;

/// A public client of one provider.
pub(super) struct Client<'a> {
    provider: &'a Provider,
    settings: &'a Settings,
    oauth: OAuth<EndpointNotSet, EndpointSet>,
}

impl<'a> Client<'a> {
    pub(super) fn new(provider: &'a Provider, settings: &'a Settings) -> Self {
        // RFC 6749 section 2.3.1: a client without a secret says who it is in the body
        let oauth = oauth2::Client::new(ClientId::new(settings.client_id.clone()))
            .set_auth_type(AuthType::RequestBody)
            .set_token_uri(TokenUrl::from_url(provider.token.clone()));
        Self { provider, settings, oauth }
    }

    pub(super) fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.settings.scopes.iter().cloned().map(Scope::new)
    }

    /// What the token is for: RFC 8707 section 2 and 2.2, and `audience` as Auth0 and others have it.
    pub(super) fn target(&self) -> impl Iterator<Item = (&'static str, String)> {
        let Settings { resource, audience, .. } = self.settings;
        [("resource", resource), ("audience", audience)].into_iter().filter_map(|(name, v)| Some((name, v.clone()?)))
    }

    /// The URL that asks for a code (RFC 6749 section 4.1.1), and the state in it.
    pub(super) fn authorization(
        &self,
        endpoint: &Url,
        redirect: &str,
        challenge: oauth2::PkceCodeChallenge,
        nonce: &str,
    ) -> Result<(Url, Secret), Problem> {
        let oauth = self.oauth.clone().set_auth_uri(AuthUrl::from_url(endpoint.clone()));
        let mut request = oauth
            .authorize_url(oauth2::CsrfToken::new_random)
            .set_redirect_uri(std::borrow::Cow::Owned(redirect_url(redirect)?))
            .set_pkce_challenge(challenge)
            .add_scopes(self.scopes());
        if self.asks_for("openid") {
            request = request.add_extra_param("nonce", nonce.to_owned());
        }
        // OpenID Connect Core 1.0 section 11: without it the scope is ignored
        if self.asks_for("offline_access") {
            request = request.add_extra_param("prompt", "consent");
        }
        for (name, value) in self.target() {
            request = request.add_extra_param(name, value);
        }
        let (url, state) = request.url();
        Ok((url, Secret::new(state.into_secret())))
    }

    fn asks_for(&self, scope: &str) -> bool {
        self.settings.scopes.iter().any(|asked| asked == scope)
    }

    /// Exchanges a code (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
    pub(super) async fn code(
        &self,
        code: Secret,
        redirect: &str,
        verifier: PkceCodeVerifier,
        nonce: &str,
    ) -> Result<Tokens, Problem> {
        let redirect = redirect_url(redirect)?;
        let mut request = self
            .oauth
            .exchange_code(AuthorizationCode::new(code.expose().to_owned()))
            .set_redirect_uri(std::borrow::Cow::Borrowed(&redirect))
            .set_pkce_verifier(verifier);
        for (name, value) in self.target() {
            request = request.add_extra_param(name, value);
        }
        let answer = request.request_async(&Messenger(&self.provider.client)).await;
        let answer = answer.map_err(|e| self.problem(e))?;
        // an ID token without the nonce could be another login's
        let nonce = self.asks_for("openid").then_some(nonce);
        self.believe(answer, Expected { nonce, subject: None }).await
    }

    /// The client with the provider's device authorization endpoint.
    pub(super) fn with_device(&self, endpoint: &Url) -> OAuth<EndpointSet, EndpointSet> {
        self.oauth.clone().set_device_authorization_url(DeviceAuthorizationUrl::from_url(endpoint.clone()))
    }

    /// Asks for new tokens (RFC 6749 section 6). Nothing in the answer is checked yet, but the refresh token that was
    /// sent may be used up.
    pub(super) async fn renew(&self, old: &Kept) -> Result<Answer, Problem> {
        let token = RefreshToken::new(old.0.expose().to_owned());
        let mut request = self.oauth.exchange_refresh_token(&token);
        for (name, value) in self.target() {
            request = request.add_extra_param(name, value);
        }
        request.request_async(&Messenger(&self.provider.client)).await.map_err(|e| self.problem(e))
    }

    /// Has the provider forget the grant (RFC 7009 section 2.1): the refresh token, else the access token.
    pub(super) async fn revoke(&self, tokens: &Tokens) -> Result<(), Problem> {
        let Some(url) = &self.provider.revocation else {
            return Err(Problem::Lacks("revocation endpoint", "its own pages to end the session there"));
        };
        let (token, hint) = match &tokens.refresh {
            Some(refresh) => (refresh, "refresh_token"),
            None => (&tokens.access, "access_token"),
        };
        let form = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token.0.expose())
            .append_pair("token_type_hint", hint)
            .append_pair("client_id", &self.settings.client_id)
            .finish();
        let request = Request::post(url.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .body(Body::Full(Bytes::from(form)))
            .map_err(|_| Problem::Address(url.to_string()))?;
        let answer = self.provider.client.fetch(request, REVOCATION_LIMIT, REVOCATION_DEADLINE).await;
        let answer = answer.map_err(|e| Problem::Unreachable(url.to_string(), e))?;
        // RFC 7009 section 2.2: 200 also where the token was not valid any more
        if answer.status().is_success() { Ok(()) } else { Err(Problem::Status(url.to_string(), answer.status())) }
    }

    /// Takes what the token endpoint said, once it is checked.
    pub(super) async fn believe(&self, answer: Answer, expected: Expected<'_>) -> Result<Tokens, Problem> {
        let now = clock::now();
        // RFC 6749 section 7.1: a token of a type that is not understood must not be used
        if *answer.token_type() != BasicTokenType::Bearer {
            return Err(Problem::Answer("its token is not a bearer token".into()));
        }
        if !is_bearer(answer.access_token().secret()) {
            return Err(Problem::Answer("its token holds what no header may hold".into()));
        }
        let id = match &answer.extra_fields().id_token {
            None => None,
            Some(token) => {
                let (issuer, client) = (&self.provider.issuer, &self.settings.client_id);
                let jwks = self.provider.jwks().await?;
                Some(verify(token, &jwks, issuer, client, expected, now).map_err(Problem::IdToken)?)
            }
        };
        Ok(Tokens {
            access: kept(answer.access_token().secret()),
            expires_at: answer.expires_in().map(|span| clock::after(now, span)),
            refresh: refresh_token(&answer),
            id,
        })
    }

    /// What went wrong, without what was sent or received.
    pub(super) fn problem<E: ErrorResponse>(&self, error: RequestTokenError<ClientError, E>) -> Problem {
        match error {
            RequestTokenError::ServerResponse(said) => Problem::Refused(printable(&said.to_string())),
            RequestTokenError::Request(error) => Problem::Unreachable(self.provider.issuer.clone(), error),
            // the cause repeats what it found, which may be a token
            RequestTokenError::Parse(at, _) => Problem::Answer(format!("at `{}`", printable(&at.path().to_string()))),
            RequestTokenError::Other(text) => Problem::Answer(printable(&text)),
        }
    }
}

/// The refresh token of an answer.
pub(super) fn refresh_token(answer: &Answer) -> Option<Kept> {
    answer.refresh_token().map(|token| kept(token.secret()))
}

fn kept(text: &str) -> Kept {
    Kept(Secret::new(text.to_owned()))
}

fn redirect_url(text: &str) -> Result<RedirectUrl, Problem> {
    RedirectUrl::new(text.to_owned()).map_err(|_| Problem::Address(text.to_owned()))
}

/// RFC 6750 section 2.1: the characters of a bearer token.
fn is_bearer(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
}
