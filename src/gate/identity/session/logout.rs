//! Logout: at the gate, at the provider (OpenID Connect RP-Initiated Logout), and by the provider (Back-Channel Logout).
//!
//! Promises: when the response is sent, the session is revoked, its open streams are closed and its cookies are removed.
//! The browser carries the logout to the provider. A logout token ends sessions only if it satisfies every rule of
//! OpenID Connect Back-Channel Logout section 2.6, and once.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::{
    cookie,
    keys::{digest, random_text},
    provider::LoginProvider,
    revocations::SingleUse,
    sealed::Session,
    sessions::Sessions,
    subject::RevocationTarget,
};
use crate::{
    clock::{self, Timestamp},
    gate::identity::{
        jwt::{TokenKind, Unverified},
        openid::client::{self, Hint, IdToken},
    },
    refusal::Refusal,
};

/// The member of `events` that makes a token a logout token (section 2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// How far the `iat` of a logout token may be from now, in both directions.
const WINDOW: Duration = Duration::from_secs(120);
/// How long a logout waits for the provider's end session endpoint.
const METADATA_DEADLINE: Duration = Duration::from_secs(3);
/// Longest URL with an ID token hint, in bytes; longer ones may not pass browsers and servers.
const MAX_URL: usize = 6 * 1024;
/// Longest body of a back-channel logout, in bytes.
pub(crate) const MAX_FORM: usize = 64 * 1024;

/// The redirect after a logout.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogoutRedirect {
    /// To the provider's end session endpoint.
    Provider(String),
    /// None: the provider has no such endpoint.
    None,
}

/// The claims that only a logout token has.
#[derive(Deserialize)]
struct LogoutClaims {
    iat: Option<f64>,
    jti: Option<String>,
    sid: Option<Box<str>>,
    nonce: Option<serde_json::Value>,
    events: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Sessions {
    /// The origin that a request's logout may redirect to, for the page's `form-action` policy. It is that of the
    /// session's provider, as far as its metadata is cached: a page does not wait for a provider.
    #[must_use]
    pub fn logout_origin(&self, headers: &HeaderMap) -> Option<String> {
        let provider = self.provider_of(&self.unsealed(headers)?)?;
        let end = match (&provider.settings.end_session, provider.cached_metadata()) {
            (Some(end), _) => end.clone(),
            (None, Some(metadata)) => metadata.end_session_endpoint.clone()?.into(),
            // as a rule the endpoint is on the issuer's own origin
            (None, None) => provider.rules.issuer.clone(),
        };
        Some(url::Url::parse(&end).ok()?.origin().ascii_serialization())
    }

    fn unsealed(&self, headers: &HeaderMap) -> Option<Session> {
        let cookie::SessionCookie::Sealed(sealed) = cookie::session(headers) else { return None };
        Session::read(&self.session_sealer.open(cookie::SESSION, &sealed)?)
    }

    /// Ends the session of a request, if it has one. `reply` removes its cookies.
    ///
    /// # Errors
    /// 403 if another site sends the request.
    pub async fn log_out(
        &self,
        headers: &HeaderMap,
        now: Timestamp,
        reply: &mut HeaderMap,
    ) -> Result<LogoutRedirect, Refusal> {
        if !self.is_same_origin(headers) {
            let text = "another site sent this request with your session; sign out from this gate's own pages";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "cross_site", text));
        }
        cookie::clear_session(reply, headers);
        let Some(session) = self.unsealed(headers) else { return Ok(LogoutRedirect::None) };
        if let Err(error) = self.state.revocations.revoke(RevocationTarget::Session(session.id), now).await {
            // it is revoked in this process, and the browser has no cookie any longer
            tracing::error!(%error, "cannot write a session revocation");
        }
        let Some(provider) = self.provider_of(&session) else { return Ok(LogoutRedirect::None) };
        let Some(end) = self.end_session_endpoint(provider, now).await else { return Ok(LogoutRedirect::None) };
        Ok(self.logout_url(provider, &end, &session)?.map_or(LogoutRedirect::None, LogoutRedirect::Provider))
    }

    /// The provider's end session endpoint.
    async fn end_session_endpoint(&self, provider: &LoginProvider, now: Timestamp) -> Option<String> {
        if let Some(end) = &provider.settings.end_session {
            return Some(end.clone());
        }
        let metadata = tokio::time::timeout(METADATA_DEADLINE, provider.metadata(now)).await;
        metadata.map_or_else(|_| provider.cached_metadata(), Result::ok)?.end_session_endpoint.clone().map(String::from)
    }

    /// The logout request (RP-Initiated Logout section 2), with the ID token as a hint if the URL stays short enough.
    fn logout_url(&self, provider: &LoginProvider, end: &str, session: &Session) -> Result<Option<String>, Refusal> {
        let state = random_text()?;
        let url = |hint: Hint<'_>| {
            let redirect_uri = format!("{}/", self.settings.url);
            client::logout_url(end, &provider.settings.client_id, redirect_uri, state.clone(), &hint).ok()
        };
        let id_token: Option<IdToken> = session.id_token.expose().parse().ok();
        let hinted = id_token.and_then(|id_token| url(Hint::IdToken(&id_token)));
        if let Some(hinted) = hinted.filter(|url| url.as_str().len() <= MAX_URL) {
            return Ok(Some(hinted.into()));
        }
        let identifiers = session.identifiers(provider.issuer.name.clone());
        let subject = identifiers.map(|identifiers| identifiers.subject).unwrap_or_default();
        Ok(url(Hint::Subject(&subject)).map(String::from))
    }

    /// Revokes the sessions that a provider's logout token names (section 2.5): a form with `logout_token`.
    ///
    /// # Errors
    /// 400 if the token breaks a rule, 503 if it cannot be verified or the revocation cannot be written.
    pub async fn back_channel(&self, form: &[u8], now: Timestamp) -> Result<(), Refusal> {
        let mut tokens = url::form_urlencoded::parse(form).filter(|(name, _)| name == "logout_token");
        let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
            return Err(Refusal::malformed("logout_malformed", "send one `logout_token` in a form"));
        };
        let unverified =
            Unverified::parse_as(TokenKind::Logout, &token).map_err(|e| malformed(e.reason(), e.to_string()))?;
        let provider = self.providers.iter().find(|provider| provider.rules.issuer == unverified.issuer());
        let provider =
            provider.ok_or_else(|| malformed("token_issuer", "its issuer is no login provider of this gate"))?;
        let (subject, verified) = provider.logout_token(&token, now).await.map_err(as_bad_request)?;
        let claims: LogoutClaims =
            serde_json::from_str(&verified.claims).map_err(|_| malformed("token_claims", "its claims"))?;
        let targets = targets(&claims, subject, provider, now)?;
        let jti = claims.jti.unwrap_or_default();
        let id = digest(&format!("{} {jti}", provider.rules.issuer));
        if self.state.revocations.was_used(SingleUse::LogoutToken, id, now) {
            return Err(malformed("logout_replayed", "its `jti` was used before"));
        }
        for target in targets {
            self.state.revocations.revoke(target, now).await.map_err(|error| {
                let text = "the sessions have ended, but the revocation cannot be stored; try again";
                Refusal::unavailable("logout_not_kept", text).with_detail(error)
            })?;
        }
        // marked last, so that the provider may try again; a full table does not undo the revocation
        if self
            .state
            .revocations
            .use_once(SingleUse::LogoutToken, id, clock::after(verified.expires_at, WINDOW), now)
            .is_err()
        {
            tracing::warn!(issuer = %provider.issuer.name, "too many logout tokens: one could be replayed");
        }
        Ok(())
    }
}

/// The rules of section 2.6 from its step 4 on; gives the sessions to revoke.
fn targets(
    claims: &LogoutClaims,
    subject: Option<String>,
    provider: &LoginProvider,
    now: Timestamp,
) -> Result<Vec<RevocationTarget>, Refusal> {
    #[allow(clippy::cast_possible_truncation, reason = "compared with now right after")]
    let issued = claims.iat.filter(|iat| iat.is_finite()).and_then(|iat| Timestamp::from_second(iat as i64).ok());
    let issued = issued.ok_or_else(|| malformed("logout_iat", "`iat` is missing"))?;
    let allowed = WINDOW + provider.rules.leeway;
    if clock::after(issued, allowed) < now || clock::after(now, allowed) < issued {
        return Err(malformed("logout_iat", "`iat` is too old, or in the future"));
    }
    if !claims.events.as_ref().and_then(|events| events.get(EVENT)).is_some_and(serde_json::Value::is_object) {
        return Err(malformed("logout_events", "`events` does not contain the logout event"));
    }
    if claims.nonce.is_some() {
        // an ID token must not pass for a logout token
        return Err(malformed("logout_nonce", "a logout token has no `nonce`"));
    }
    if claims.jti.as_deref().unwrap_or_default().is_empty() {
        return Err(malformed("logout_jti", "`jti` is missing"));
    }
    let issuer: Box<str> = Box::from(&*provider.issuer.name);
    let sid = claims.sid.clone().filter(|sid| !sid.is_empty());
    let subject = subject.filter(|subject| !subject.is_empty()).map(Box::<str>::from);
    match (sid, subject) {
        // `sid` is optional in an ID token, so a session without one may be the one that is meant
        (Some(sid), Some(subject)) => {
            Ok(vec![RevocationTarget::Sid(issuer.clone(), sid), RevocationTarget::SubjectWithoutSid(issuer, subject)])
        }
        (Some(sid), None) => Ok(vec![RevocationTarget::Sid(issuer, sid)]),
        (None, Some(subject)) => Ok(vec![RevocationTarget::Subject(issuer, subject)]),
        (None, None) => Err(malformed("logout_no_session", "it names neither `sid` nor `sub`")),
    }
}

fn malformed(reason: &'static str, what: impl std::fmt::Display) -> Refusal {
    Refusal::malformed(reason, format!("the logout token is not accepted: {what}"))
}

/// Section 2.8: 400 for every invalid logout token.
fn as_bad_request(refusal: Refusal) -> Refusal {
    if refusal.retry_after.is_some() {
        return refusal;
    }
    let detail = refusal.detail.unwrap_or_default();
    malformed(refusal.reason, "it is not a valid token of its issuer for this gate").with_detail(detail)
}
