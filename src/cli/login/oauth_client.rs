//! OAuth 2.0 public client: authorization, token and revocation requests of a login at a shell.
//!
//! Promises: a token that is not a bearer token is refused, and so is a response whose ID token is not accepted. Never: a
//! provider's response in an error, except its error code and description.

use std::time::Duration;

use bytes::Bytes;
use http::{
    Request,
    header::{ACCEPT, CONTENT_TYPE},
};
use openidconnect::{
    AuthType, AuthorizationCode, DeviceAuthorizationUrl, EndpointNotSet, EndpointSet, ErrorResponse,
    OAuth2TokenResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RefreshToken, RequestTokenError, Scope,
    TokenUrl, core::CoreTokenType,
};
use url::Url;

use super::{
    error::LoginError,
    id_token::verify,
    printable::printable,
    provider::Provider,
    stored::{Settings, StoredSecret, TokenSet},
};
use crate::{
    client::{ClientError, oauth::OAuthTransport},
    clock,
    gate::identity::openid::{
        client::{self, AuthorizationRequest, OpenIdClient, TokenResponse},
        id_token::{ExpectedIdToken, ExpectedNonce},
    },
    http::Body,
    secret::Secret,
};

/// Longest response to a revocation, which is not read.
const REVOCATION_LIMIT: usize = 64 << 10;
const REVOCATION_DEADLINE: Duration = Duration::from_secs(10);

/// A public client of one provider.
pub(super) struct OAuthClient<'a> {
    provider: &'a Provider,
    settings: &'a Settings,
    client: OpenIdClient<EndpointNotSet, EndpointNotSet, EndpointSet>,
}

impl<'a> OAuthClient<'a> {
    pub(super) fn new(provider: &'a Provider, settings: &'a Settings) -> Result<Self, LoginError> {
        let client = client::client(&provider.issuer, &settings.client_id);
        let client = client
            .map_err(|_| LoginError::Address(provider.issuer.clone()))?
            // RFC 6749 section 2.3.1: a client without a secret identifies itself in the body
            .set_auth_type(AuthType::RequestBody)
            .set_token_uri(TokenUrl::from_url(provider.token.clone()));
        Ok(Self { provider, settings, client })
    }

    pub(super) fn scopes(&self) -> impl Iterator<Item = Scope> {
        self.settings.scopes.iter().cloned().map(Scope::new)
    }

    /// The target of the token: `resource` (RFC 8707 sections 2 and 2.2), or `audience` as Auth0 and others have it.
    pub(super) fn target(&self) -> Vec<(&'static str, String)> {
        let Settings { resource, audience, .. } = self.settings;
        let target = [("resource", resource), ("audience", audience)];
        target.into_iter().filter_map(|(name, value)| Some((name, value.clone()?))).collect()
    }

    pub(super) fn transport(&self) -> OAuthTransport<'_> {
        OAuthTransport(&self.provider.client)
    }

    /// The URL of an authorization request (RFC 6749 section 4.1.1).
    pub(super) fn authorization_url(
        &self,
        endpoint: &Url,
        redirect_uri: &str,
        challenge: PkceCodeChallenge,
        state: &Secret,
        nonce: &Secret,
    ) -> Result<Url, LoginError> {
        let request = AuthorizationRequest {
            redirect_uri: redirect_uri.to_owned(),
            state: state.expose().to_owned(),
            nonce: nonce.expose().to_owned(),
            challenge,
            scopes: &self.settings.scopes,
            target: &self.target(),
        };
        let client = client::client(&self.provider.issuer, &self.settings.client_id);
        let url = client.and_then(|client| request.url(client, endpoint.clone()));
        url.map_err(|_| LoginError::Address(redirect_uri.to_owned()))
    }

    /// Exchanges a code (RFC 6749 section 4.1.3, RFC 7636 section 4.5).
    pub(super) async fn exchange_code(
        &self,
        code: Secret,
        redirect_uri: &str,
        verifier: PkceCodeVerifier,
        nonce: &str,
    ) -> Result<TokenSet, LoginError> {
        let redirect_url = RedirectUrl::new(redirect_uri.to_owned());
        let redirect_url = redirect_url.map_err(|_| LoginError::Address(redirect_uri.to_owned()))?;
        let mut request = self
            .client
            .exchange_code(AuthorizationCode::new(code.expose().to_owned()))
            .set_redirect_uri(std::borrow::Cow::Borrowed(&redirect_url))
            .set_pkce_verifier(verifier);
        for (name, value) in self.target() {
            request = request.add_extra_param(name, value);
        }
        let response = request.request_async(&self.transport()).await;
        let response = response.map_err(|e| self.error(e))?;
        // an ID token without the nonce could be that of another login
        let is_openid = self.settings.scopes.iter().any(|scope| scope == "openid");
        let nonce = if is_openid { ExpectedNonce::Sent(nonce) } else { ExpectedNonce::SameOrAbsent(nonce) };
        self.verify(response, nonce, None).await
    }

    /// The client with the provider's device authorization endpoint.
    pub(super) fn with_device(&self, endpoint: &Url) -> OpenIdClient<EndpointNotSet, EndpointSet, EndpointSet> {
        self.client.clone().set_device_authorization_url(DeviceAuthorizationUrl::from_url(endpoint.clone()))
    }

    /// Requests new tokens (RFC 6749 section 6). Nothing in the response is verified yet, but the refresh token may be
    /// used up.
    pub(super) async fn refresh(&self, old: &StoredSecret) -> Result<TokenResponse, LoginError> {
        let token = RefreshToken::new(old.0.expose().to_owned());
        let mut request = self.client.exchange_refresh_token(&token);
        for (name, value) in self.target() {
            request = request.add_extra_param(name, value);
        }
        request.request_async(&self.transport()).await.map_err(|e| self.error(e))
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
        // not by the crate: it accepts https only, and a provider on this machine may have http
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
        // RFC 7009 section 2.2: 200 also if the token was not valid any more
        if response.status().is_success() {
            Ok(())
        } else {
            Err(LoginError::Status(url.to_string(), response.status()))
        }
    }

    /// Verifies a token response. `subject` is that of the login that is refreshed.
    pub(super) async fn verify(
        &self,
        response: TokenResponse,
        nonce: ExpectedNonce<'_>,
        subject: Option<&str>,
    ) -> Result<TokenSet, LoginError> {
        let now = clock::now();
        // RFC 6749 section 7.1: a token of an unknown type must not be used
        if *response.token_type() != CoreTokenType::Bearer {
            return Err(LoginError::Response("its token is not a bearer token".into()));
        }
        let access_token = response.access_token().secret();
        if !is_bearer(access_token) {
            return Err(LoginError::Response("its token has a byte that no header may have".into()));
        }
        let id = match response.extra_fields().text() {
            None => None,
            Some(token) => {
                let jwks = self.provider.jwks().await?;
                let expected = ExpectedIdToken { nonce, access_token: Some(access_token), subject };
                let client_id = &self.settings.client_id;
                let verified = verify(token, &jwks, &self.provider.issuer, client_id, expected, now);
                Some(verified.map_err(LoginError::IdToken)?)
            }
        };
        Ok(TokenSet {
            access: stored(access_token),
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

/// RFC 6750 section 2.1: the characters of a bearer token.
fn is_bearer(token: &str) -> bool {
    !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b))
}
