//! The pages that ask nobody who they are: a closed set, matched on the same canonical path as everything else.

pub(super) mod login;
pub(super) mod token;
use std::{sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Method, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use self::token::exchange;
use super::{
    Bindings, Gate, Target,
    token_issuer::{self, JWKS_MAX_AGE, TokenIssuer},
};
use crate::{
    gate::{
        audit::{Decision, Record},
        identity::{AuthContext, dpop::proof::ALGORITHMS, session::Sessions},
    },
    http::Body,
    refusal::Refusal,
};

/// An open page.
#[derive(Clone, Copy)]
pub(super) enum OpenPage<'g> {
    /// RFC 9728: whose tokens this gate takes, and how.
    ResourceMetadata,
    /// OpenID Connect Discovery and RFC 8414: the gate as an issuer.
    IssuerMetadata(&'g TokenIssuer),
    /// RFC 7517: its keys.
    Jwks(&'g TokenIssuer),
    /// RFC 8693: a token of another issuer for one of the gate's.
    TokenExchange(&'g TokenIssuer),
    /// Where a person's login begins.
    Login(&'g Sessions),
    /// Where the provider sends the browser back.
    Callback(&'g Sessions),
    /// Asks whether to sign out.
    AskLogout(&'g Sessions),
    /// Signs out.
    Logout(&'g Sessions),
    /// Where a provider says who has signed out there.
    BackChannelLogout(&'g Sessions),
}

/// Where RFC 9728 section 3 puts it.
pub(super) const RESOURCE_METADATA: &str = "/.well-known/oauth-protected-resource";

impl<'g> OpenPage<'g> {
    pub(super) fn find(gate: &'g Gate, method: &Method, path: &str) -> Option<Self> {
        let (issuer, sessions) = (gate.token_issuer.as_ref(), gate.identity.sessions().map(Arc::as_ref));
        match (method.as_str(), path) {
            ("GET", RESOURCE_METADATA) => Some(Self::ResourceMetadata),
            ("GET", token_issuer::OPENID | token_issuer::OAUTH) => issuer.map(Self::IssuerMetadata),
            ("GET", token_issuer::JWKS) => issuer.map(Self::Jwks),
            ("POST", token_issuer::TOKEN) => issuer.map(Self::TokenExchange),
            ("GET", "/login") => sessions.map(Self::Login),
            ("GET", "/callback") => sessions.map(Self::Callback),
            ("GET", "/logout") => sessions.map(Self::AskLogout),
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
            Self::ResourceMetadata => document(resource_metadata(gate), None),
            Self::IssuerMetadata(issuer) => document(issuer.metadata(), Some(JWKS_MAX_AGE)),
            Self::Jwks(issuer) => document(issuer.signing.jwks(), Some(JWKS_MAX_AGE)),
            // it decides for itself
            Self::TokenExchange(issuer) => return Ok(exchange(gate, issuer, context, body, record).await),
            Self::Login(sessions) => login::login(sessions, context, target, reply).await?,
            Self::Callback(sessions) => login::callback(sessions, context, target, record, reply).await?,
            Self::AskLogout(sessions) => login::ask_logout(sessions, context),
            Self::Logout(sessions) => login::logout(sessions, context, reply).await?,
            Self::BackChannelLogout(sessions) => login::back_channel_logout(sessions, context, body).await?,
        };
        record.decision = Decision::Allow;
        Ok(answer)
    }
}

fn document(text: String, max_age: Option<Duration>) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let cached = max_age.and_then(|age| HeaderValue::from_str(&format!("public, max-age={}", age.as_secs())).ok());
    response.headers_mut().extend(cached.map(|value| (CACHE_CONTROL, value)));
    response
}

fn resource_metadata(gate: &Gate) -> String {
    let mut issuers: Vec<&str> = gate.identity.issuers().iter().map(|i| i.settings.rules.issuer.as_str()).collect();
    issuers.extend(gate.token_issuer.as_ref().map(|issuer| issuer.url.as_str()));
    let mut document = serde_json::json!({
        "authorization_servers": issuers,
        "bearer_methods_supported": ["header"],
        "resource_name": "wicketgate",
    });
    let Bindings { dpop, certificates, required } = gate.bindings;
    if let Some(members) = document.as_object_mut() {
        if let Some(url) = &gate.url {
            members.insert("resource".into(), url.as_str().into());
        }
        // RFC 9728 section 2
        if dpop {
            members
                .insert("dpop_signing_alg_values_supported".into(), ALGORITHMS.map(|(name, _)| name).as_slice().into());
            // with certificates there is another way to bind a token
            members.insert("dpop_bound_access_tokens_required".into(), (required && !certificates).into());
        }
        members.insert("tls_client_certificate_bound_access_tokens".into(), certificates.into());
    }
    document.to_string()
}
