//! Silent refresh: a session goes on with its provider's refresh token.
//!
//! Promises: one refresh for each generation of a session, however many requests bring its cookie at once; for two
//! minutes they all are given the same new session, so that a provider that rotates refresh tokens sees none of them
//! twice. A refresh that has begun is finished though its asker goes away. A provider that refuses ends the session;
//! one that cannot be asked does not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Opened, Sessions, cookie, ended,
    id_token::Expected,
    provider::{AskError, Grant},
    revocations::Who,
    sealed::Session,
};
use crate::{
    clock::{self, Timestamp},
    gate::identity::AuthContext,
    refusal::Refusal,
};

/// A session is refreshed when less than this is left of it, or half of a shorter one.
const AHEAD: Duration = Duration::from_secs(60);
/// How long requests that still bring the old cookie are given the new session.
const REMEMBERED: Duration = Duration::from_secs(120);
/// Between two attempts at a provider that cannot be asked.
const RETRY: Duration = Duration::from_secs(5);
/// Refreshes in a row for one request: its cookie may be of a generation that others have long replaced.
const CHAIN: usize = 4;

/// The refreshes that are under way or just done, by session and generation.
#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<(Uuid, u32), Flight>>);

struct Flight {
    begun: Timestamp,
    outcome: watch::Receiver<Option<Outcome>>,
}

#[derive(Clone)]
enum Outcome {
    Refreshed(Arc<Refreshed>),
    Refused(String),
    Unavailable(Refusal),
}

struct Refreshed {
    sealed: String,
    opened: Arc<Opened>,
}

impl Flight {
    fn counts(&self, now: Timestamp) -> bool {
        let span = match &*self.outcome.borrow() {
            Some(Outcome::Unavailable(_)) => RETRY,
            _ => REMEMBERED,
        };
        now < clock::after(self.begun, span)
    }
}

impl Sessions {
    /// Whether it is time for the next generation.
    pub(super) fn wants_refresh(&self, session: &Session, now: Timestamp) -> bool {
        let left = Duration::try_from(session.ends.duration_since(now)).unwrap_or_default();
        let whole = Duration::try_from(session.ends.duration_since(session.issued)).unwrap_or_default();
        self.can_refresh(session, now) && left < AHEAD.min(whole / 2)
    }

    /// Whether there can be a next generation.
    pub(super) fn can_refresh(&self, session: &Session, now: Timestamp) -> bool {
        let last = session.last(self.settings.longest);
        session.refresh_token.is_some() && session.ends < last && now < last
    }

    /// The next generation of a session, its cookies on `reply`; the session itself where its provider cannot be asked
    /// and it has not ended.
    pub(super) async fn refreshed(
        self: &Arc<Self>,
        mut opened: Arc<Opened>,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<Arc<Opened>, Refusal> {
        let mut newest = None;
        for _ in 0..CHAIN {
            if !self.wants_refresh(&opened.session, context.now) {
                break;
            }
            match self.flight(&opened, context.now).await {
                Outcome::Refreshed(refreshed) => {
                    opened = refreshed.opened.clone();
                    newest = Some(refreshed);
                }
                Outcome::Refused(why) => return Err(ended().with_detail(why)),
                Outcome::Unavailable(refusal) if opened.session.ends <= context.now => return Err(refusal),
                Outcome::Unavailable(_) => break,
            }
        }
        if opened.principal.ended.is_cancelled() || opened.session.ends <= context.now {
            return Err(ended());
        }
        if let Some(refreshed) = newest {
            let span = self.cookie_span(&opened.session, context.now);
            cookie::set_session(reply, &refreshed.sealed, span, context.headers).map_err(too_large)?;
        }
        Ok(opened)
    }

    /// How long a browser keeps the session's cookies: until it can no longer be refreshed.
    pub(super) fn cookie_span(&self, session: &Session, now: Timestamp) -> Duration {
        session.over(self.settings.longest).duration_since(now).try_into().unwrap_or_default()
    }

    /// The one refresh of this generation.
    async fn flight(self: &Arc<Self>, opened: &Arc<Opened>, now: Timestamp) -> Outcome {
        let mut outcome = {
            let mut flights = self.memory.flights.0.lock().unwrap_or_else(PoisonError::into_inner);
            flights.retain(|_, flight| flight.counts(now));
            let key = (opened.session.id, opened.session.generation);
            let flight = flights.entry(key).or_insert_with(|| {
                let (sender, outcome) = watch::channel(None);
                let (sessions, opened) = (self.clone(), opened.clone());
                #[allow(
                    clippy::disallowed_methods,
                    reason = "a provider that rotates its refresh token has done so though \
                    the asker walks away; the task ends with the deadlines of its few requests"
                )]
                tokio::spawn(async move {
                    let outcome = sessions.refresh(&opened, now).await;
                    sender.send_replace(Some(outcome));
                });
                Flight { begun: now, outcome }
            });
            flight.outcome.clone()
        };
        let done = outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        done.unwrap_or_else(|| {
            let text = "your session could not be refreshed; try again";
            Outcome::Unavailable(Refusal::unavailable("issuer_unavailable", text))
        })
    }

    async fn refresh(&self, opened: &Opened, now: Timestamp) -> Outcome {
        let session = &opened.session;
        let outcome = self.next(opened, now).await;
        if let Outcome::Refused(_) = &outcome {
            // its provider has ended it, so that its open streams and its other cookies count no longer either
            if let Err(error) = self.memory.end(Who::Session(session.id), now).await {
                tracing::error!(%error, "an ended session cannot be written down");
            }
        }
        outcome
    }

    async fn next(&self, opened: &Opened, now: Timestamp) -> Outcome {
        let session = &opened.session;
        let Some((provider, token)) = self.provider_of(session).zip(session.refresh_token.as_ref()) else {
            return Outcome::Refused("the session cannot be refreshed".into());
        };
        let tokens = match provider.ask(Grant::Refresh(token.expose()), self.callback_url(), now).await {
            Ok(tokens) => tokens,
            Err(error @ AskError::Refused(_)) => return Outcome::Refused(error.to_string()),
            Err(error @ AskError::Unavailable(_)) => return Outcome::Unavailable(error.unavailable()),
        };
        // claims come from the token at hand, never from an older one: without an ID token there is nothing to go on
        // with
        let Some(id_token) = tokens.id_token else {
            return Outcome::Refused("the provider's refresh gave no ID token".into());
        };
        let nonce = session.nonce();
        let expected = Expected {
            nonce: nonce.as_deref(),
            access_token: tokens.access_token.expose(),
            refreshes: Some(&opened.principal.subject),
        };
        // the provider's answer took its time
        let now = clock::now().max(now);
        let checked = match provider.id_token(id_token.expose(), expected, now).await {
            Ok(checked) => checked,
            Err(refusal) if refusal.retry_after.is_some() => return Outcome::Unavailable(refusal),
            Err(refusal) => return Outcome::Refused(format!("{}: {}", refusal.reason, refusal.text)),
        };
        let next = Session {
            id: session.id,
            generation: session.generation.saturating_add(1),
            issuer: session.issuer.clone(),
            sid: checked.sid.or_else(|| session.sid.clone()),
            id_token,
            // RFC 6749 section 6: the old one goes on where there is no new one
            refresh_token: tokens.refresh_token.or_else(|| session.refresh_token.clone()),
            created: session.created,
            issued: now,
            ends: checked.expires_at.min(session.last(self.settings.longest)),
        };
        match self.seal(next, now) {
            Ok((sealed, opened)) => Outcome::Refreshed(Arc::new(Refreshed { sealed, opened })),
            Err(refusal) if refusal.retry_after.is_some() => Outcome::Unavailable(refusal),
            Err(refusal) => Outcome::Refused(refusal.reason.into()),
        }
    }

    /// The sealed text of a session, and the session as its cookie will give it.
    pub(super) fn seal(&self, session: Session, now: Timestamp) -> Result<(String, Arc<Opened>), Refusal> {
        let unreadable = |error: serde_json::Error| {
            Refusal::unavailable("no_cryptography", "the gate cannot seal a session at the moment").with_detail(error)
        };
        let sealed = self.sessions.seal(cookie::SESSION, &session.write().map_err(unreadable)?)?;
        let found = cookie::Found::Sealed(sealed);
        let (opened, _) = self.opened(&found, now)?;
        let cookie::Found::Sealed(sealed) = found else { return Err(ended()) };
        Ok((sealed, opened))
    }
}

impl Session {
    /// The nonce of the login that it came of.
    fn nonce(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct Claims {
            nonce: Option<String>,
        }
        serde_json::from_str::<Claims>(&self.claims()?).ok()?.nonce
    }
}

pub(super) fn too_large(error: cookie::TooLarge) -> Refusal {
    Refusal::new(http::StatusCode::FORBIDDEN, "session_too_large", error.to_string())
}
