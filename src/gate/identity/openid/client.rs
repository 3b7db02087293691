//! OAuth 2.0 and OpenID Connect requests: authorization, token and logout requests.
//!
//! Promises: an ID token in a token response is kept as text and is not read here, so that a rotated refresh token of the
//! same response is never lost to an invalid ID token. Never: a token in `Debug`.

use std::fmt;

use openidconnect::{
    AuthUrl, AuthenticationFlow, ClientId, CsrfToken, EmptyAdditionalClaims, EndSessionUrl, EndpointNotSet,
    EndpointSet, EndpointState, ExtraTokenFields, IssuerUrl, JsonWebKeySet, LogoutHint, LogoutRequest, Nonce,
    PkceCodeChallenge, PostLogoutRedirectUrl, RedirectUrl, Scope, StandardErrorResponse, StandardTokenResponse,
    core::{
        CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJweContentEncryptionAlgorithm,
        CoreResponseType, CoreRevocableToken, CoreRevocationErrorResponse, CoreTokenIntrospectionResponse,
        CoreTokenType,
    },
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::{ParseError, Url};

use super::key::{SigningAlgorithm, VerificationKey};
use crate::secret::Secret;

/// A client of one provider, and which of its endpoints are set.
pub(crate) type OpenIdClient<Authorization = EndpointNotSet, Device = EndpointNotSet, Token = EndpointNotSet> =
    openidconnect::Client<
        EmptyAdditionalClaims,
        CoreAuthDisplay,
        CoreGenderClaim,
        CoreJweContentEncryptionAlgorithm,
        VerificationKey,
        CoreAuthPrompt,
        TokenErrorResponse,
        TokenResponse,
        CoreTokenIntrospectionResponse,
        CoreRevocableToken,
        CoreRevocationErrorResponse,
        Authorization,
        Device,
        EndpointNotSet,
        EndpointNotSet,
        Token,
        EndpointNotSet,
    >;

/// An ID token of this program's key type.
pub(crate) type IdToken =
    openidconnect::IdToken<EmptyAdditionalClaims, CoreGenderClaim, CoreJweContentEncryptionAlgorithm, SigningAlgorithm>;

/// The error of a token endpoint (RFC 6749 section 5.2).
pub(crate) type TokenErrorResponse = StandardErrorResponse<CoreErrorResponseType>;

/// A token response (OpenID Connect Core section 3.1.3.3).
pub(crate) type TokenResponse = StandardTokenResponse<IdTokenMember, CoreTokenType>;

/// The member `id_token` of a token response.
#[derive(Clone, Default)]
pub(crate) struct IdTokenMember {
    text: Option<Secret>,
    read: Option<IdToken>,
}

impl IdTokenMember {
    /// The ID token, not verified yet.
    pub(crate) fn text(&self) -> Option<&Secret> {
        self.text.as_ref()
    }
}

impl fmt::Debug for IdTokenMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdTokenMember(..)")
    }
}

#[derive(Deserialize)]
struct Member {
    id_token: Option<String>,
}

impl<'de> Deserialize<'de> for IdTokenMember {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let Some(text) = Member::deserialize(from)?.id_token else { return Ok(Self::default()) };
        Ok(Self { read: text.parse().ok(), text: Some(Secret::new(text)) })
    }
}

impl Serialize for IdTokenMember {
    /// The trait requires it; nothing writes a token response.
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_none()
    }
}

impl ExtraTokenFields for IdTokenMember {}

impl
    openidconnect::TokenResponse<
        EmptyAdditionalClaims,
        CoreGenderClaim,
        CoreJweContentEncryptionAlgorithm,
        SigningAlgorithm,
    > for TokenResponse
{
    fn id_token(&self) -> Option<&IdToken> {
        self.extra_fields().read.as_ref()
    }
}

/// A client of the provider `issuer`. Its scopes are the caller's alone.
///
/// # Errors
/// If `issuer` is not a URL.
pub(crate) fn client(issuer: &str, client_id: &str) -> Result<OpenIdClient, ParseError> {
    let issuer = IssuerUrl::new(issuer.to_owned())?;
    // the keys are selected for each ID token
    let client = OpenIdClient::new(ClientId::new(client_id.to_owned()), issuer, JsonWebKeySet::default());
    Ok(client.disable_openid_scope())
}

/// The parameters of an authorization request (OpenID Connect Core section 3.1.2.1).
pub(crate) struct AuthorizationRequest<'a> {
    pub(crate) redirect_uri: String,
    pub(crate) state: String,
    pub(crate) nonce: String,
    pub(crate) challenge: PkceCodeChallenge,
    pub(crate) scopes: &'a [String],
    /// Further parameters.
    pub(crate) target: &'a [(&'static str, String)],
}

impl AuthorizationRequest<'_> {
    /// The URL of the request to `endpoint`, with PKCE (RFC 7636 section 4.3).
    ///
    /// # Errors
    /// If the redirect URI is not a URL.
    pub(crate) fn url<Device: EndpointState, Token: EndpointState>(
        self,
        client: OpenIdClient<EndpointNotSet, Device, Token>,
        endpoint: Url,
    ) -> Result<Url, ParseError> {
        let Self { redirect_uri, state, nonce, challenge, scopes, target } = self;
        let client: OpenIdClient<EndpointSet, Device, Token> = client.set_auth_uri(AuthUrl::from_url(endpoint));
        let client = client.set_redirect_uri(RedirectUrl::new(redirect_uri)?);
        let flow = AuthenticationFlow::<CoreResponseType>::AuthorizationCode;
        let mut request = client
            .authorize_url(flow, || CsrfToken::new(state), || Nonce::new(nonce))
            .add_scopes(scopes.iter().cloned().map(Scope::new))
            .set_pkce_challenge(challenge);
        if scopes.iter().any(|scope| scope == "offline_access") {
            // OpenID Connect Core section 11: without it the scope is ignored
            request = request.add_prompt(CoreAuthPrompt::Consent);
        }
        for (name, value) in target {
            request = request.add_extra_param(*name, value.clone());
        }
        let (url, _, _) = request.url();
        Ok(url)
    }
}

/// The hint of a logout request.
pub(crate) enum Hint<'a> {
    IdToken(&'a IdToken),
    Subject(&'a str),
}

/// The URL of a logout request (OpenID Connect RP-Initiated Logout section 2).
///
/// # Errors
/// If an address is not a URL.
pub(crate) fn logout_url(
    endpoint: &str,
    client_id: &str,
    redirect_uri: String,
    state: String,
    hint: &Hint<'_>,
) -> Result<Url, ParseError> {
    let request = LogoutRequest::from(EndSessionUrl::new(endpoint.to_owned())?)
        .set_client_id(ClientId::new(client_id.to_owned()))
        .set_post_logout_redirect_uri(PostLogoutRedirectUrl::new(redirect_uri)?)
        .set_state(CsrfToken::new(state));
    let request = match hint {
        Hint::IdToken(id_token) => request.set_id_token_hint(id_token),
        Hint::Subject(subject) => request.set_logout_hint(LogoutHint::new((*subject).to_owned())),
    };
    Ok(request.http_get_url())
}
