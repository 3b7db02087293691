//! Session refresh with the provider's refresh token (RFC 6749 section 6, OpenID Connect Core section 12).
//!
//! Promises: one refresh for each generation of a session, however many requests carry its cookie at once; for two
//! minutes all of them get the same new session, so that a provider that rotates refresh tokens sees none of them
//! twice. A refresh that has begun is finished even if the request goes away. If the provider refuses, the session
//! ends; if the provider cannot be reached, it does not.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;

use super::{
    active::{ActiveSession, RefreshOutcome, RefreshedSession},
    cookie,
    provider::{ProviderError, TokenGrant},
    sealed::Session,
    sessions::{Sessions, ended, too_large},
    subject::RevocationTarget,
};
use crate::{
    clock::{self, Timestamp},
    gate::identity::{
        AuthContext,
        openid::id_token::{ExpectedIdToken, ExpectedNonce},
    },
    refusal::Refusal,
};

/// A session is refreshed when less than this is left of it, or half of a shorter one.
const MARGIN: Duration = Duration::from_secs(60);
/// How long requests with the old cookie get the new session.
const REMEMBERED: Duration = Duration::from_secs(120);
/// Between two attempts if the provider cannot be reached.
const RETRY: Duration = Duration::from_secs(5);
/// Most refreshes in a row for one request: its cookie may be several generations old.
const MAX_GENERATIONS: usize = 4;

impl Sessions {
    /// Whether it is time for the next generation.
    pub(super) fn wants_refresh(&self, session: &Session, now: Timestamp) -> bool {
        let left = Duration::try_from(session.ends.duration_since(now)).unwrap_or_default();
        let whole = Duration::try_from(session.ends.duration_since(session.issued)).unwrap_or_default();
        self.can_refresh(session, now) && left < MARGIN.min(whole / 2)
    }

    /// Whether there can be a next generation.
    pub(super) fn can_refresh(&self, session: &Session, now: Timestamp) -> bool {
        let last = session.last(self.settings.max_lifetime);
        session.refresh_token.is_some() && session.ends < last && now < last
    }

    /// The next generation of a session, its cookies on `reply`; the session itself if its provider cannot be reached
    /// and it has not expired.
    pub(super) async fn refreshed(
        self: &Arc<Self>,
        mut active: Arc<ActiveSession>,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<Arc<ActiveSession>, Refusal> {
        let mut newest = None;
        for _ in 0..MAX_GENERATIONS {
            if !self.wants_refresh(&active.session, context.now) {
                break;
            }
            match self.refresh_once(&active, context.now).await {
                RefreshOutcome::Refreshed(refreshed) => {
                    active = refreshed.active.clone();
                    newest = Some(refreshed);
                }
                RefreshOutcome::Refused(why) => return Err(ended().with_detail(why)),
                RefreshOutcome::Unavailable(refusal) if active.session.ends <= context.now => return Err(refusal),
                RefreshOutcome::Unavailable(_) => break,
            }
        }
        if active.principal.ended.is_cancelled() || active.session.ends <= context.now {
            return Err(ended());
        }
        if let Some(refreshed) = newest {
            let lifetime = self.cookie_lifetime(&active.session, context.now);
            cookie::set_session(reply, &refreshed.sealed, lifetime, context.headers).map_err(too_large)?;
        }
        Ok(active)
    }

    /// The one refresh of this generation.
    async fn refresh_once(self: &Arc<Self>, active: &Arc<ActiveSession>, now: Timestamp) -> RefreshOutcome {
        let generation = (active.session.id, active.session.generation);
        let flight = self.state.refreshes.join(generation, now, || {
            let sessions = self.clone();
            let active = active.clone();
            async move {
                let outcome = sessions.refresh(&active, now).await;
                let span = if matches!(outcome, RefreshOutcome::Unavailable(_)) { RETRY } else { REMEMBERED };
                (outcome, span)
            }
        });
        flight.wait().await.unwrap_or_else(|| {
            let text = "your session could not be refreshed; try again";
            RefreshOutcome::Unavailable(Refusal::unavailable("issuer_unavailable", text))
        })
    }

    async fn refresh(&self, active: &ActiveSession, now: Timestamp) -> RefreshOutcome {
        let outcome = self.next_generation(active, now).await;
        if let RefreshOutcome::Refused(_) = &outcome {
            // the provider has ended it, so its open streams and its other cookies end too
            let target = RevocationTarget::Session(active.session.id);
            if let Err(error) = self.state.revocations.revoke(target, now).await {
                tracing::error!(%error, "cannot write a session revocation");
            }
        }
        outcome
    }

    async fn next_generation(&self, active: &ActiveSession, now: Timestamp) -> RefreshOutcome {
        let session = &active.session;
        let Some((provider, token)) = self.provider_of(session).zip(session.refresh_token.as_ref()) else {
            return RefreshOutcome::Refused("the session cannot be refreshed".into());
        };
        let grant = TokenGrant::RefreshToken(token.expose());
        let tokens = match provider.request_tokens(grant, self.callback_url(), now).await {
            Ok(tokens) => tokens,
            Err(error @ ProviderError::Refused(_)) => return RefreshOutcome::Refused(error.to_string()),
            Err(error @ ProviderError::Unavailable(_)) => return RefreshOutcome::Unavailable(error.unavailable()),
        };
        // claims come from the new ID token, never from an older one: without a new one the session ends
        let Some(id_token) = tokens.id_token else {
            return RefreshOutcome::Refused("the provider's refresh gave no ID token".into());
        };
        let nonce = session.nonce();
        let expected = ExpectedIdToken {
            nonce: nonce.as_deref().map_or(ExpectedNonce::Any, ExpectedNonce::SameOrAbsent),
            access_token: Some(tokens.access_token.expose()),
            subject: Some(&active.principal.subject),
        };
        // the provider's response took its time
        let now = clock::now().max(now);
        let verified = match provider.id_token(id_token.expose(), expected, now).await {
            Ok(verified) => verified,
            Err(refusal) if refusal.retry_after.is_some() => return RefreshOutcome::Unavailable(refusal),
            Err(refusal) => return RefreshOutcome::Refused(format!("{}: {}", refusal.reason, refusal.text)),
        };
        let next = Session {
            id: session.id,
            generation: session.generation.saturating_add(1),
            issuer: session.issuer.clone(),
            sid: verified.sid.or_else(|| session.sid.clone()),
            id_token,
            // RFC 6749 section 6: without a new refresh token the old one stays valid
            refresh_token: tokens.refresh_token.or_else(|| session.refresh_token.clone()),
            created: session.created,
            issued: now,
            ends: verified.expires_at.min(session.last(self.settings.max_lifetime)),
        };
        match self.seal(next, now) {
            Ok((sealed, active)) => RefreshOutcome::Refreshed(Arc::new(RefreshedSession { sealed, active })),
            Err(refusal) if refusal.retry_after.is_some() => RefreshOutcome::Unavailable(refusal),
            Err(refusal) => RefreshOutcome::Refused(refusal.reason.into()),
        }
    }
}

impl Session {
    /// The nonce of its login.
    fn nonce(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        struct NonceClaim {
            nonce: Option<String>,
        }
        serde_json::from_str::<NonceClaim>(&self.claims()?).ok()?.nonce
    }
}
