//! Logging out: at the gate, at the provider, and when the provider says so.
//!
//! Promises: the session counts for nothing when the answer is sent, its open streams included; its cookies are taken
//! back. The provider is told by the browser (OpenID Connect RP-Initiated Logout). A logout token ends sessions only
//! where every rule of OpenID Connect Back-Channel Logout section 2.6 is kept, and once.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use super::{
    Sessions, cookie,
    keys::{digest, random_text},
    provider::Provider,
    revocations::{Once, Who},
    sealed::Session,
};
use crate::{
    clock::{self, Timestamp},
    gate::identity::jwt::{Kind, Unverified},
    refusal::Refusal,
};

/// The member of `events` that makes a token a logout token (section 2.4).
const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
/// How old a logout token may be, and how far ahead of this clock.
const WINDOW: Duration = Duration::from_secs(120);
/// How long somebody who has signed out waits to learn where that is done at the provider.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest URL that browsers and servers are sure to carry, in bytes; with the ID token in it, it may be longer.
const MAX_URL: usize = 6 * 1024;
/// Longest body of a back-channel logout.
pub(crate) const MAX_FORM: usize = 64 * 1024;

/// Where a browser goes after its session has ended here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// To the provider, to end the session there too.
    Provider(String),
    /// Nowhere: the provider has no page for that.
    Here,
}

/// What a logout token says besides what every token does.
#[derive(Deserialize)]
struct Claims {
    iat: Option<f64>,
    jti: Option<String>,
    sid: Option<Box<str>>,
    nonce: Option<serde_json::Value>,
    events: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Sessions {
    /// The origin that a request's logout may lead to, for a page's policy on where its forms go: as far as it is known
    /// of the session's own provider. A page waits for nobody.
    #[must_use]
    pub fn logout_origin(&self, headers: &HeaderMap) -> Option<String> {
        let provider = self.provider_of(&self.unsealed(headers)?)?;
        let end = match (&provider.settings.end_session, provider.last_document()) {
            (Some(end), _) => end.clone(),
            (None, Some(document)) => document.end_session_endpoint?,
            // as a rule it is the issuer's own, and this page comes before anybody has asked
            (None, None) => provider.rules.issuer.clone(),
        };
        Some(url::Url::parse(&end).ok()?.origin().ascii_serialization())
    }

    fn unsealed(&self, headers: &HeaderMap) -> Option<Session> {
        let cookie::Found::Sealed(sealed) = cookie::session(headers) else { return None };
        Session::read(&self.sessions.open(cookie::SESSION, &sealed)?)
    }

    /// Ends the session of a request, where it has one. Its cookies are taken back by `reply`.
    ///
    /// # Errors
    /// 403 where another site asks for it.
    pub async fn log_out(&self, headers: &HeaderMap, now: Timestamp, reply: &mut HeaderMap) -> Result<Next, Refusal> {
        if !self.is_of_own_pages(headers) {
            let text = "another site asked for this with your session; sign out from this gate's own pages";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "cross_site", text));
        }
        cookie::clear_session(reply, headers);
        let Some(session) = self.unsealed(headers) else { return Ok(Next::Here) };
        if let Err(error) = self.memory.end(Who::Session(session.id), now).await {
            // it has ended in this process, and the browser has no cookie any longer
            tracing::error!(%error, "an ended session cannot be written down");
        }
        let Some(provider) = self.provider_of(&session) else { return Ok(Next::Here) };
        let Some(end) = self.end_session(provider, now).await else { return Ok(Next::Here) };
        Ok(self.end_url(provider, &end, &session)?.map_or(Next::Here, Next::Provider))
    }

    /// Where a provider's own session is ended.
    async fn end_session(&self, provider: &Provider, now: Timestamp) -> Option<String> {
        if let Some(end) = &provider.settings.end_session {
            return Some(end.clone());
        }
        let document = tokio::time::timeout(PATIENCE, provider.document(now)).await;
        document.map_or_else(|_| provider.last_document(), Result::ok)?.end_session_endpoint
    }

    /// RP-Initiated Logout section 2; the ID token as a hint where the URL stays short enough for it.
    fn end_url(&self, provider: &Provider, end: &str, session: &Session) -> Result<Option<String>, Refusal> {
        let state = random_text()?;
        let Ok(mut url) = url::Url::parse(end) else { return Ok(None) };
        let back = format!("{}/", self.settings.url);
        url.query_pairs_mut()
            .append_pair("client_id", &provider.settings.client_id)
            .append_pair("post_logout_redirect_uri", &back)
            .append_pair("state", &state);
        let mut hinted = url.clone();
        hinted.query_pairs_mut().append_pair("id_token_hint", session.id_token.expose());
        if hinted.as_str().len() <= MAX_URL {
            return Ok(Some(hinted.into()));
        }
        if let Some(names) = session.names(provider.issuer.name.clone()) {
            url.query_pairs_mut().append_pair("logout_hint", &names.subject);
        }
        Ok(Some(url.into()))
    }

    /// Ends what a provider's logout token names (section 2.5): a form with `logout_token`.
    ///
    /// # Errors
    /// 400 where the token breaks a rule, 503 where it cannot be checked or its effect cannot be written down.
    pub async fn back_channel(&self, form: &[u8], now: Timestamp) -> Result<(), Refusal> {
        let mut tokens = url::form_urlencoded::parse(form).filter(|(name, _)| name == "logout_token");
        let (Some((_, token)), None) = (tokens.next(), tokens.next()) else {
            return Err(Refusal::malformed("logout_malformed", "send one `logout_token` in a form"));
        };
        let unverified =
            Unverified::parse_as(Kind::Logout, &token).map_err(|e| malformed(e.reason(), e.to_string()))?;
        let provider = self.providers.iter().find(|provider| provider.rules.issuer == unverified.issuer());
        let provider = provider.ok_or_else(|| malformed("token_issuer", "nobody signs in with its issuer"))?;
        let (_, subject, verified) = provider.verified(Kind::Logout, &token, now).await.map_err(as_bad_request)?;
        let claims: Claims =
            serde_json::from_str(&verified.claims).map_err(|_| malformed("token_claims", "its claims"))?;
        let who = named(&claims, subject, provider, now)?;
        let jti = claims.jti.unwrap_or_default();
        let once = digest(&format!("{} {jti}", provider.rules.issuer));
        if self.memory.was_used(Once::LogoutToken, once, now) {
            return Err(malformed("logout_replayed", "its `jti` was used before"));
        }
        for who in who {
            self.memory.end(who, now).await.map_err(|error| {
                let text = "the sessions have ended, but that cannot be written down; try again";
                Refusal::unavailable("logout_not_kept", text).with_detail(error)
            })?;
        }
        // marked last, so that the provider may try again; what has ended has ended, though nothing more is remembered
        if self.memory.use_once(Once::LogoutToken, once, clock::after(verified.expires_at, WINDOW), now).is_err() {
            tracing::warn!(issuer = %provider.issuer.name, "too many logout tokens: one more could be used again");
        }
        Ok(())
    }
}

/// The rules of section 2.6 from its step 4 on; whose sessions end.
fn named(claims: &Claims, subject: Option<String>, provider: &Provider, now: Timestamp) -> Result<Vec<Who>, Refusal> {
    #[allow(clippy::cast_possible_truncation, reason = "compared with now right after")]
    let issued = claims.iat.filter(|iat| iat.is_finite()).and_then(|iat| Timestamp::from_second(iat as i64).ok());
    let issued = issued.ok_or_else(|| malformed("logout_iat", "`iat` is missing"))?;
    let allowed = WINDOW + provider.rules.leeway;
    if clock::after(issued, allowed) < now || clock::after(now, allowed) < issued {
        return Err(malformed("logout_iat", "`iat` is not of now"));
    }
    if !claims.events.as_ref().and_then(|events| events.get(EVENT)).is_some_and(serde_json::Value::is_object) {
        return Err(malformed("logout_events", "`events` does not say that it is one"));
    }
    if claims.nonce.is_some() {
        // so that an ID token can never stand for one
        return Err(malformed("logout_nonce", "a logout token has no `nonce`"));
    }
    if claims.jti.as_deref().unwrap_or_default().is_empty() {
        return Err(malformed("logout_jti", "`jti` is missing"));
    }
    let issuer: Box<str> = Box::from(&*provider.issuer.name);
    let sid = claims.sid.clone().filter(|sid| !sid.is_empty());
    let subject = subject.filter(|subject| !subject.is_empty()).map(Box::<str>::from);
    match (sid, subject) {
        // an ID token need not say its `sid`, and a session without one could be the one that is meant
        (Some(sid), Some(subject)) => Ok(vec![Who::Sid(issuer.clone(), sid), Who::Unnamed(issuer, subject)]),
        (Some(sid), None) => Ok(vec![Who::Sid(issuer, sid)]),
        (None, Some(subject)) => Ok(vec![Who::Subject(issuer, subject)]),
        (None, None) => Err(malformed("logout_nobody", "it names neither `sid` nor `sub`")),
    }
}

fn malformed(reason: &'static str, what: impl std::fmt::Display) -> Refusal {
    Refusal::malformed(reason, format!("the logout token is not accepted: {what}"))
}

/// Section 2.8: 400 for a logout token that is not good, whatever is wrong with it.
fn as_bad_request(refusal: Refusal) -> Refusal {
    if refusal.retry_after.is_some() {
        return refusal;
    }
    let detail = refusal.detail.unwrap_or_default();
    malformed(refusal.reason, "it does not prove that it is its issuer's for this gate").with_detail(detail)
}
