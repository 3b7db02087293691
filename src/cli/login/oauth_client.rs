//! OAuth 2.0 public client: authorization, token and revocation requests of a login at a shell.
//!
//! Promises: a token that is not a bearer token is refused, and so is a response whose ID token is not accepted. Never: a
//! provider's response in an error, except its error code and description.

use bytes::Bytes;
use http::{
    Request,
    header::{ACCEPT, CONTENT_TYPE},
};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, DeviceAuthorizationUrl, EndpointNotSet, EndpointSet, ErrorResponse,
    ExtraTokenFields, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope, StandardRevocableToken,
    StandardTokenResponse, TokenResponse as _, TokenUrl,
    basic::{BasicErrorResponse, BasicRevocationErrorResponse, BasicTokenIntrospectionResponse, BasicTokenType},
};
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    error::LoginError,
    id_token::{Expected, verify},
    printable::printable,
    provider::Provider,
    stored::{Settings, StoredSecret, TokenSet},
};
use crate::{
    client::{ClientError, oauth::Messenger},
    clock,
    http::Body,
    secret::Secret,
};

/// Longest response to a revocation, which is not read.
const REVOCATION_LIMIT: usize = 64 << 10;
const REVOCATION_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
/// A token response, with the ID token of OpenID Connect.
pub(super) type TokenResponse = StandardTokenResponse<IdTokenMember, BasicTokenType>;

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct IdTokenMember {
    id_token: Option<StoredSecret>,
}

impl ExtraTokenFields for IdTokenMember {}

/// The client of `oauth2`, and which of its endpoints are set.
pub(super) type OAuth<Device, Token> = oauth2::Client<
    BasicErrorResponse,
    TokenResponse,
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
pub(super) struct OAuthClient<'a> {
    provider: &'a Provider,
    settings: &'a Settings,
    oauth: OAuth<EndpointNotSet, EndpointSet>,
}

impl<'a> OAuthClient<'a> {
    pub(super) fn new(provider: &'a Provider, settings: &'a Settings) -> Self {
        // RFC 6749 section 2.3.1: a client without a secret identifies itself in the body
        let oauth = oauth2::Client::new(ClientId::new(settings.client_id.clone()))
            .set_auth_type(AuthType::RequestBody)
            .set_token_uri(TokenUrl::from_url(provider.token.clone()));
        Self { provider, settings, oauth }
    }

    pub(super) fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.settings.scopes.iter().cloned().map(Scope::new)
    }

    /// The target of the token: `resource` (RFC 8707 sections 2 and 2.2), or `audience` as Auth0 and others have it.
    pub(super) fn target(&self) -> impl Iterator<Item = (&'static str, String)> {
        let Settings { resource, audience, .. } = self.settings;
        [("resource", resource), ("audience", audience)].into_iter().filter_map(|(name, v)| Some((name, v.clone()?)))
    }

    /// The URL of an authorization request (RFC 6749 section 4.1.1), and its state.
    pub(super) fn authorization_url(
        &self,
        endpoint: &Url,
        redirect: &str,
        challenge: oauth2::PkceCodeChallenge,
        nonce: &str,
    ) -> Result<(Url, Secret), LoginError> {
        let oauth = self.oauth.clone().set_auth_uri(AuthUrl::from_url(endpoint.clone()));
        let mut request = oauth
            .authorize_url(oauth2::CsrfToken::new_random)
            .set_redirect_uri(std::borrow::Cow::Owned(redirect_url(redirect)?))
            .set_pkce_challenge(challenge)
            .add_scopes(self.scopes());
        if self.has_scope("openid") {
            request = request.add_extra_param("nonce", nonce.to_owned());
        }
        // OpenID Connect Core 1.0 section 11: without it the scope is ignored
        if self.has_scope("offline_access") {
            request = request.add_extra_param("prompt", "consent");
        }
        for (name, value) in self.target() {
            request = request.add_extra_param(name, value);
        }
        let (url, state) = request.url();
        Ok((url, Secret::new(state.into_secret())))
    }

    fn has_scope(&self, scope: &str) -> bool {
        self.settings.scopes.iter().any(|requested| requested == scope)
    }

    /// Exchanges a code (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
    pub(super) async fn exchange_code(
        &self,
        code: Secret,
        redirect: &str,
        verifier: PkceCodeVerifier,
        nonce: &str,
    ) -> Result<TokenSet, LoginError> {
        let redirect = redirect_url(redirect)?;
        let mut request = self
            .oauth
            .exchange_code(AuthorizationCode::new(code.expose().to_owned()))
            .set_redirect_uri(std::borrow::Cow::Borrowed(&redirect))
            .set_pkce_verifier(verifier);
        for (name, value) in self.target() {
            request = request.add_extra_param(name, value);
        }
        let response = request.request_async(&Messenger(&self.provider.client)).await;
        let response = response.map_err(|e| self.error(e))?;
        // an ID token without the nonce could be that of another login
        let nonce = self.has_scope("openid").then_some(nonce);
        self.verify(response, Expected { nonce, subject: None }).await
    }

    /// The client with the provider's device authorization endpoint.
    pub(super) fn with_device(&self, endpoint: &Url) -> OAuth<EndpointSet, EndpointSet> {
        self.oauth.clone().set_device_authorization_url(DeviceAuthorizationUrl::from_url(endpoint.clone()))
    }

    /// Requests new tokens (RFC 6749 section 6). Nothing in the response is verified yet, but the refresh token may be
    /// used up.
    pub(super) async fn refresh(&self, old: &StoredSecret) -> Result<TokenResponse, LoginError> {
        let token = RefreshToken::new(old.0.expose().to_owned());
        let mut request = self.oauth.exchange_refresh_token(&token);
        for (name, value) in self.target() {
            request = request.add_extra_param(name, value);
        }
        request.request_async(&Messenger(&self.provider.client)).await.map_err(|e| self.error(e))
    }

    /// Revokes the refresh token, or else the access token (RFC 7009 section 2.1).
    pub(super) async fn revoke(&self, tokens: &TokenSet) -> Result<(), LoginError> {
        let Some(url) = &self.provider.revocation else {
            return Err(LoginError::Unsupported("revocation endpoint", "its own pages to end the session there"));
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
            .map_err(|_| LoginError::Address(url.to_string()))?;
        let response = self.provider.client.fetch(request, REVOCATION_LIMIT, REVOCATION_DEADLINE).await;
        let response = response.map_err(|e| LoginError::Unreachable(url.to_string(), e))?;
        // RFC 7009 section 2.2: 200 also where the token was not valid any more
        if response.status().is_success() {
            Ok(())
        } else {
            Err(LoginError::Status(url.to_string(), response.status()))
        }
    }

    /// Verifies a token response.
    pub(super) async fn verify(&self, response: TokenResponse, expected: Expected<'_>) -> Result<TokenSet, LoginError> {
        let now = clock::now();
        // RFC 6749 section 7.1: a token of a type that is not understood must not be used
        if *response.token_type() != BasicTokenType::Bearer {
            return Err(LoginError::Response("its token is not a bearer token".into()));
        }
        if !is_bearer(response.access_token().secret()) {
            return Err(LoginError::Response("its token has a byte that no header may have".into()));
        }
        let id = match &response.extra_fields().id_token {
            None => None,
            Some(token) => {
                let (issuer, client) = (&self.provider.issuer, &self.settings.client_id);
                let jwks = self.provider.jwks().await?;
                Some(verify(token, &jwks, issuer, client, expected, now).map_err(LoginError::IdToken)?)
            }
        };
        Ok(TokenSet {
            access: stored(response.access_token().secret()),
            expires_at: response.expires_in().map(|span| clock::after(now, span)),
            refresh: refresh_token(&response),
            id,
        })
    }

    /// The error, without the request and the response.
    pub(super) fn error<E: ErrorResponse>(&self, error: RequestTokenError<ClientError, E>) -> LoginError {
        match error {
            RequestTokenError::ServerResponse(body) => LoginError::Refused(printable(&body.to_string())),
            RequestTokenError::Request(error) => LoginError::Unreachable(self.provider.issuer.clone(), error),
            // the cause repeats the value, which may be a token
            RequestTokenError::Parse(at, _) => {
                LoginError::Response(format!("at `{}`", printable(&at.path().to_string())))
            }
            RequestTokenError::Other(text) => LoginError::Response(printable(&text)),
        }
    }
}

/// The refresh token of a response.
pub(super) fn refresh_token(response: &TokenResponse) -> Option<StoredSecret> {
    response.refresh_token().map(|token| stored(token.secret()))
}

fn stored(text: &str) -> StoredSecret {
    StoredSecret(Secret::new(text.to_owned()))
}

fn redirect_url(text: &str) -> Result<RedirectUrl, LoginError> {
    RedirectUrl::new(text.to_owned()).map_err(|_| LoginError::Address(text.to_owned()))
}

/// RFC 6750 section 2.1: the characters of a bearer token.
fn is_bearer(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
}
