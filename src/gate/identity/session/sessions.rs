//! Session authentication: from a sealed cookie to one principal.
//!
//! Promises: what its own module page says of sessions. A cookie is decrypted once and then cached; a cached session is
//! refused when it is revoked, when it expires and when its provider is retired.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderMap, StatusCode, header::ORIGIN};
use quick_cache::sync::Cache;
use tokio_util::sync::CancellationToken;

use super::{
    active::ActiveSession,
    cookie::{self, SessionCookie},
    keys::{SealError, Sealer, SealingKey},
    provider::{LoginProvider, LoginSettings},
    sealed::Session,
    state::SessionState,
    subject::SessionIdentifiers,
};
use crate::{
    clock::Timestamp,
    gate::identity::{AuthContext, Authenticated, Issuer},
    principal::Principal,
    refusal::Refusal,
};

/// Opened sessions in the cache; the least used are evicted.
const CACHE_CAPACITY: usize = 10_000;

/// The `[sessions]` section, and the `[issuer.login]` sections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The https URL of the gate, without a slash at its end: cookies and redirects are for this origin.
    pub url: String,
    /// The providers that people can log in at.
    pub logins: Vec<LoginSettings>,
    /// The keys that seal cookies: the first seals, all open. If empty, the process makes a key of its own.
    pub keys: Vec<SealingKey>,
    /// The longest lifetime of a session.
    pub max_lifetime: Duration,
    /// The file that keeps revocations over a restart.
    pub revocations: Option<PathBuf>,
}

/// The providers, sessions and login attempts of one configuration.
pub struct Sessions {
    pub(super) settings: Settings,
    pub(super) providers: Vec<LoginProvider>,
    pub(super) session_sealer: Sealer,
    pub(super) attempt_sealer: Sealer,
    pub(super) state: Arc<SessionState>,
    cache: Cache<[u8; 32], Arc<ActiveSession>>,
}

impl Sessions {
    /// The sessions of these providers, without those whose issuer is not among `issuers`.
    ///
    /// # Errors
    /// If no key can be derived.
    pub(crate) fn new(
        settings: Settings,
        issuers: &[Arc<Issuer>],
        state: Arc<SessionState>,
    ) -> Result<Self, SealError> {
        let process_key = [state.process_key.clone()];
        let keys: &[SealingKey] = if settings.keys.is_empty() { &process_key } else { &settings.keys };
        let of = |login: &LoginSettings| issuers.iter().find(|issuer| *issuer.name == *login.issuer).cloned();
        let providers = settings.logins.iter().filter_map(|login| Some(LoginProvider::new(login.clone(), of(login)?)));
        Ok(Self {
            providers: providers.collect(),
            session_sealer: Sealer::new(keys, "wicketgate session 1")?,
            attempt_sealer: Sealer::new(keys, "wicketgate login 1")?,
            state,
            cache: Cache::new(CACHE_CAPACITY),
            settings,
        })
    }

    /// Cancels what depends on sessions of providers that are not the same in `next`, the configuration that takes over.
    pub(crate) fn retire(&self, next: Option<&Self>) {
        let next = next.filter(|next| Arc::ptr_eq(&next.state, &self.state));
        for provider in &self.providers {
            let same = next.and_then(|next| next.provider(&provider.issuer.name)).is_some_and(|next| {
                next.rules == provider.rules && next.settings.client_id == provider.settings.client_id
            });
            if !same {
                // first for requests under way, which may be about to open a session
                provider.retired.store(true, Ordering::SeqCst);
                self.state.revocations.cancel_issuer(&provider.issuer.name);
            }
        }
    }

    /// The settings that it was made from.
    #[must_use]
    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The principal of a request's session. Changes of its cookies are put on `reply`.
    ///
    /// # Errors
    /// 401 if the session is not the gate's or has ended, 403 if another site sends an unsafe method, 503 if the session
    /// must be refreshed and its provider cannot be reached.
    pub(in crate::gate::identity) async fn principal(
        self: &Arc<Self>,
        cookie: SessionCookie,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<Authenticated, Refusal> {
        if !context.method.is_safe() && !self.is_same_origin(context.headers) {
            let text = "another site sent this request with your session; do it from this gate's own pages";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "cross_site", text));
        }
        let outcome = match self.open_cookie(&cookie, context.now) {
            Ok((active, _)) if self.wants_refresh(&active.session, context.now) => {
                self.refreshed(active, context, reply).await.map(|active| (active, true))
            }
            other => other,
        };
        let (active, fresh) = outcome.inspect_err(|refusal| {
            if refusal.status == StatusCode::UNAUTHORIZED {
                cookie::clear_session(reply, context.headers);
            }
        })?;
        Ok(Authenticated { principal: active.principal.clone(), fresh })
    }

    /// The session of a cookie, and whether it was not in the cache. It may have expired if it can be refreshed.
    pub(super) fn open_cookie(
        &self,
        cookie: &SessionCookie,
        now: Timestamp,
    ) -> Result<(Arc<ActiveSession>, bool), Refusal> {
        let SessionCookie::Sealed(text) = cookie else { return Err(invalid()) };
        let digest = blake3::derive_key("wicketgate 2026 session cookie", text.as_bytes());
        let (active, fresh) = match self.cache.get(&digest) {
            Some(active) if !active.principal.ended.is_cancelled() => (active, false),
            // a reload may have cancelled it without revoking it
            _ => (self.unseal(text, digest, now)?, true),
        };
        if active.principal.ended.is_cancelled() {
            self.cache.remove(&digest);
            return Err(ended());
        }
        if active.session.ends <= now && !self.can_refresh(&active.session, now) {
            self.cache.remove(&digest);
            return Err(ended());
        }
        if fresh {
            self.cache.insert(digest, active.clone());
        }
        Ok((active, fresh))
    }

    fn unseal(&self, text: &str, digest: [u8; 32], now: Timestamp) -> Result<Arc<ActiveSession>, Refusal> {
        let session = self.session_sealer.open(cookie::SESSION, text).and_then(|plain| Session::read(&plain));
        let session = session.ok_or_else(invalid)?;
        // an expired session takes no room in the table of sessions in use
        let usable_until = session.usable_until(self.settings.max_lifetime);
        if usable_until <= now {
            return Err(ended());
        }
        let provider = self.provider_of(&session).ok_or_else(ended)?;
        let identifiers = session.identifiers(provider.issuer.name.clone()).ok_or_else(invalid)?;
        let token = self.state.revocations.admit(&identifiers, usable_until, now)?.map_err(|_| ended())?;
        if provider.retired.load(Ordering::SeqCst) {
            return Err(ended());
        }
        let principal = session.principal(identifiers, digest, token).ok_or_else(invalid)?;
        Ok(Arc::new(ActiveSession { session, principal: Arc::new(principal) }))
    }

    pub(super) fn provider(&self, name: &str) -> Option<&LoginProvider> {
        self.providers.iter().find(|provider| *provider.issuer.name == *name)
    }

    /// The provider of a session; `None` if another provider has its name now, or if today's rules would refuse its ID
    /// token.
    pub(super) fn provider_of(&self, session: &Session) -> Option<&LoginProvider> {
        self.provider(&session.issuer).filter(|provider| provider.still_accepts(session.id_token.expose()))
    }

    /// Whether the gate's own pages sent this request: by Fetch Metadata (section 2.4), or by `Origin` if the browser is
    /// too old for it.
    pub(super) fn is_same_origin(&self, headers: &HeaderMap) -> bool {
        let only = |name: &str| {
            let mut values = headers.get_all(name).iter();
            let first = values.next();
            (first, values.next().is_some())
        };
        match only("sec-fetch-site") {
            (Some(site), false) => site == "same-origin",
            (Some(_), true) => false,
            (None, _) => {
                let (origin, several) = only(ORIGIN.as_str());
                !several && origin.is_some_and(|origin| origin.as_bytes() == self.settings.url.as_bytes())
            }
        }
    }

    /// The sealed text of a session, and the session as its cookie will give it.
    pub(super) fn seal(&self, session: Session, now: Timestamp) -> Result<(String, Arc<ActiveSession>), Refusal> {
        let unwritable = |error: serde_json::Error| Refusal::from(SealError).with_detail(error);
        let sealed = self.session_sealer.seal(cookie::SESSION, &session.write().map_err(unwritable)?)?;
        let cookie = SessionCookie::Sealed(sealed);
        let (active, _) = self.open_cookie(&cookie, now)?;
        let SessionCookie::Sealed(sealed) = cookie else { return Err(ended()) };
        Ok((sealed, active))
    }

    /// How long a browser keeps the session's cookies: until the session can no longer be refreshed.
    pub(super) fn cookie_lifetime(&self, session: &Session, now: Timestamp) -> Duration {
        session.usable_until(self.settings.max_lifetime).duration_since(now).try_into().unwrap_or_default()
    }
}

impl Session {
    /// The principal of the session.
    fn principal(
        &self,
        identifiers: SessionIdentifiers,
        proof: [u8; 32],
        ended: CancellationToken,
    ) -> Option<Principal> {
        Some(Principal {
            name: format!("{}:{}", identifiers.issuer, identifiers.subject).into(),
            issuer: identifiers.issuer,
            subject: identifiers.subject,
            claims: self.claims()?.into(),
            proof,
            expires_at: self.ends,
            until: self.ends,
            ended,
            roles: None,
            // a cookie is a bearer credential
            confirmation: None,
        })
    }
}

fn invalid() -> Refusal {
    Refusal::new(
        StatusCode::UNAUTHORIZED,
        "session_invalid",
        "the session cookie is not one of this gate's; sign in again",
    )
}

pub(super) fn ended() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "session_ended", "your session has ended; sign in again")
}

pub(super) fn too_large(error: cookie::TooLarge) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, "session_too_large", error.to_string())
}

impl From<SealError> for Refusal {
    fn from(error: SealError) -> Self {
        Refusal::unavailable("no_cryptography", "the gate cannot seal a session at the moment").with_detail(error)
    }
}
