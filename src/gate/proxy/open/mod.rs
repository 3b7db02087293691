//! Pages that need no authentication: OAuth metadata, token exchange, login and logout.
//!
//! Promises: the set is closed, and it is matched on the same canonical path as the routes.

mod login;
mod metadata;
pub(super) mod paths;
mod token;

use std::sync::Arc;

use http::{HeaderMap, Method, Response};

use self::{
    metadata::{issuer_metadata, json_document, resource_metadata},
    token::exchange,
};
use super::{
    gate::Gate,
    target::Target,
    token_issuer::{JWKS_MAX_AGE, TokenIssuer},
};
use crate::{
    gate::{
        audit::{Decision, Record},
        identity::{AuthContext, session::Sessions},
    },
    http::Body,
    refusal::Refusal,
};

/// A page that needs no authentication.
#[derive(Clone, Copy)]
pub(super) enum OpenPage<'g> {
    /// Protected resource metadata (RFC 9728).
    ResourceMetadata,
    /// Issuer metadata (OpenID Connect Discovery, RFC 8414).
    IssuerMetadata(&'g TokenIssuer),
    /// The issuer's key set (RFC 7517).
    Jwks(&'g TokenIssuer),
    /// Token exchange (RFC 8693).
    TokenExchange(&'g TokenIssuer),
    /// Starts a login.
    Login(&'g Sessions),
    /// The redirect URI of the login.
    Callback(&'g Sessions),
    /// The logout confirmation page.
    LogoutPage(&'g Sessions),
    /// RP-initiated logout.
    Logout(&'g Sessions),
    /// Back-channel logout.
    BackChannelLogout(&'g Sessions),
}

impl<'g> OpenPage<'g> {
    pub(super) fn find(gate: &'g Gate, method: &Method, path: &str) -> Option<Self> {
        let issuer = gate.token_issuer.as_ref();
        let sessions = gate.identity.sessions().map(Arc::as_ref);
        match (method.as_str(), path) {
            ("GET", paths::RESOURCE_METADATA) => Some(Self::ResourceMetadata),
            ("GET", paths::OPENID_CONFIGURATION | paths::OAUTH_METADATA) => issuer.map(Self::IssuerMetadata),
            ("GET", paths::JWKS) => issuer.map(Self::Jwks),
            ("POST", paths::TOKEN) => issuer.map(Self::TokenExchange),
            ("GET", "/login") => sessions.map(Self::Login),
            ("GET", "/callback") => sessions.map(Self::Callback),
            ("GET", "/logout") => sessions.map(Self::LogoutPage),
            ("POST", "/logout") => sessions.map(Self::Logout),
            ("POST", "/backchannel-logout") => sessions.map(Self::BackChannelLogout),
            _ => None,
        }
    }

    pub(super) async fn answer(
        self,
        gate: &Gate,
        context: AuthContext<'_>,
        target: Target<'_>,
        body: Body,
        record: &mut Record,
        reply: &mut HeaderMap,
    ) -> Result<Response<Body>, Refusal> {
        let decides = matches!(self, Self::TokenExchange(_));
        record.route = Some(if decides { "exchange" } else { "open" });
        let answer = match self {
            Self::ResourceMetadata => json_document(resource_metadata(gate), None),
            Self::IssuerMetadata(issuer) => json_document(issuer_metadata(issuer), Some(JWKS_MAX_AGE)),
            Self::Jwks(issuer) => json_document(issuer.signing.jwks(), Some(JWKS_MAX_AGE)),
            // it writes its own decision
            Self::TokenExchange(issuer) => return Ok(exchange(gate, issuer, context, body, record).await),
            Self::Login(sessions) => login::login(sessions, context, target, reply).await?,
            Self::Callback(sessions) => login::callback(sessions, context, target, record, reply).await?,
            Self::LogoutPage(sessions) => login::logout_page(sessions, context),
            Self::Logout(sessions) => login::logout(sessions, context, reply).await?,
            Self::BackChannelLogout(sessions) => login::back_channel_logout(sessions, context, body).await?,
        };
        record.decision = Decision::Allow;
        Ok(answer)
    }
}
