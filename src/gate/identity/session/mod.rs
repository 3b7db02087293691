//! People: from a sealed cookie to one principal.
//!
//! Promises: a session is what the gate sealed after a login, no more: an id, the issuer's ID token and when it ends,
//! which is never after that token unless its refresh token gave a new one, and never after the longest session. What a
//! session may do without being asked by its own pages is read: an unsafe method from another site is refused. A
//! session that was ended counts for nothing, at once. Never: a session for a provider that is no longer configured, or
//! whose `iss`, client or rules are others now; nor its tokens shown to the one that has its name.

pub(crate) mod cookie;
mod id_token;
pub(crate) mod keys;
mod login;
mod logout;
mod provider;
mod refresh;
mod revocations;
mod sealed;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use http::{HeaderMap, StatusCode, header::ORIGIN};
use quick_cache::sync::Cache;
use tokio_util::sync::CancellationToken;

pub use self::login::{Callback, ReturnTo};
use self::{
    cookie::Found,
    keys::{Key, Ring, SealError},
    provider::Provider,
    revocations::Names,
    sealed::Session,
};
pub(crate) use self::{
    login::Choice,
    logout::{MAX_FORM, Next},
    provider::LoginSettings,
    revocations::Memory,
};
use super::{AuthContext, Authenticated, Issuer};
use crate::{clock::Timestamp, principal::Principal, refusal::Refusal};

/// Opened cookies remembered at once; the least used make room.
const REMEMBERED: usize = 10_000;
/// What no configuration lets a session last longer than.
pub(crate) const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

/// The `[sessions]` section and what it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The https URL of the gate, without a slash at its end: cookies and redirects are for this origin.
    pub url: String,
    /// Whom people can log in at.
    pub logins: Vec<LoginSettings>,
    /// What seals cookies: the first seals, all open. Where there is none, a key of the process's own.
    pub keys: Vec<Key>,
    /// Longest session.
    pub longest: Duration,
    /// Where ended sessions are kept over a restart.
    pub ended: Option<std::path::PathBuf>,
}

/// Everything that lets people in.
pub struct Sessions {
    settings: Settings,
    providers: Vec<Provider>,
    sessions: Ring,
    attempts: Ring,
    memory: Arc<Memory>,
    opened: Cache<[u8; 32], Arc<Opened>>,
}

/// A session whose cookie was opened and which counted then.
struct Opened {
    session: Session,
    principal: Arc<Principal>,
}

impl Sessions {
    /// Lets people in at these providers; those whose issuer is not among `issuers` are left out.
    ///
    /// # Errors
    /// When no key can be derived.
    pub fn new(settings: Settings, issuers: &[Arc<Issuer>], memory: Arc<Memory>) -> Result<Self, SealError> {
        let own = [memory.own_key.clone()];
        let keys: &[Key] = if settings.keys.is_empty() { &own } else { &settings.keys };
        let of = |login: &LoginSettings| issuers.iter().find(|issuer| *issuer.name == *login.issuer).cloned();
        let providers = settings.logins.iter().filter_map(|login| Some(Provider::new(login.clone(), of(login)?)));
        Ok(Self {
            providers: providers.collect(),
            sessions: Ring::new(keys, "wicketgate session 1")?,
            attempts: Ring::new(keys, "wicketgate login 1")?,
            memory,
            opened: Cache::new(REMEMBERED),
            settings,
        })
    }

    /// Cuts off what stands on sessions of providers that are not the same in `next`, which is served from now on.
    pub fn retire(&self, next: Option<&Self>) {
        let carried = next.filter(|next| Arc::ptr_eq(&next.memory, &self.memory));
        for provider in &self.providers {
            let same = carried.and_then(|next| next.provider(&provider.issuer.name)).is_some_and(|next| {
                next.rules == provider.rules && next.settings.client_id == provider.settings.client_id
            });
            if !same {
                // first for requests under way, which may be about to open a session
                provider.retired.store(true, Ordering::SeqCst);
                self.memory.withdraw(&provider.issuer.name);
            }
        }
    }

    /// What it was made from.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The principal of a request's session. What its cookies should become is put on `reply`.
    ///
    /// # Errors
    /// 401 where the session is none of the gate's or has ended, 403 where another site asks for what changes
    /// something, 503 where it could go on but its provider cannot be asked.
    pub(super) async fn principal(
        self: &Arc<Self>,
        found: Found,
        context: AuthContext<'_>,
        reply: &mut HeaderMap,
    ) -> Result<Authenticated, Refusal> {
        if !context.method.is_safe() && !self.is_of_own_pages(context.headers) {
            let text = "another site asked for this with your session; do it from this gate's own pages";
            return Err(Refusal::new(StatusCode::FORBIDDEN, "cross_site", text));
        }
        let outcome = match self.opened(&found, context.now) {
            Ok((opened, _)) if self.wants_refresh(&opened.session, context.now) => {
                self.refreshed(opened, context, reply).await.map(|opened| (opened, true))
            }
            other => other,
        };
        let (opened, fresh) = outcome.inspect_err(|refusal| {
            if refusal.status == StatusCode::UNAUTHORIZED {
                cookie::clear_session(reply, context.headers);
            }
        })?;
        Ok(Authenticated { principal: opened.principal.clone(), fresh })
    }

    /// The session of a cookie, and whether it had to be opened just now. It may be past its end where it can be
    /// refreshed.
    fn opened(&self, found: &Found, now: Timestamp) -> Result<(Arc<Opened>, bool), Refusal> {
        let Found::Sealed(text) = found else { return Err(invalid()) };
        let digest = blake3::derive_key("wicketgate 2026 session cookie", text.as_bytes());
        let (opened, fresh) = match self.opened.get(&digest) {
            Some(opened) if !opened.principal.ended.is_cancelled() => (opened, false),
            // perhaps it was only cut off, by a reload
            _ => (self.open(text, digest, now)?, true),
        };
        if opened.principal.ended.is_cancelled() {
            self.opened.remove(&digest);
            return Err(ended());
        }
        if opened.session.ends <= now && !self.can_refresh(&opened.session, now) {
            self.opened.remove(&digest);
            return Err(ended());
        }
        if fresh {
            self.opened.insert(digest, opened.clone());
        }
        Ok((opened, fresh))
    }

    fn open(&self, text: &str, digest: [u8; 32], now: Timestamp) -> Result<Arc<Opened>, Refusal> {
        let session = self.sessions.open(cookie::SESSION, text).and_then(|plain| Session::read(&plain));
        let session = session.ok_or_else(invalid)?;
        // what is over takes no room among those that are not
        let over = session.over(self.settings.longest);
        if over <= now {
            return Err(ended());
        }
        let provider = self.provider_of(&session).ok_or_else(ended)?;
        let names = session.names(provider.issuer.name.clone()).ok_or_else(invalid)?;
        let token = self.memory.admit(&names, over, now)?.map_err(|_| ended())?;
        if provider.retired.load(Ordering::SeqCst) {
            return Err(ended());
        }
        let principal = session.principal(names, digest, token).ok_or_else(invalid)?;
        Ok(Arc::new(Opened { session, principal: Arc::new(principal) }))
    }

    fn provider(&self, name: &str) -> Option<&Provider> {
        self.providers.iter().find(|provider| *provider.issuer.name == *name)
    }

    /// The provider that a session is of; nothing where another one has its name today, or today's rules would not take
    /// its ID token.
    fn provider_of(&self, session: &Session) -> Option<&Provider> {
        self.provider(&session.issuer).filter(|provider| provider.still_takes(session.id_token.expose()))
    }

    /// Whether the gate's own pages sent this: the browser says so (Fetch Metadata section 2.4), or an old one its
    /// origin.
    pub(super) fn is_of_own_pages(&self, headers: &HeaderMap) -> bool {
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
}

impl Session {
    /// The principal that the session is of.
    fn principal(&self, names: Names, proof: [u8; 32], ended: CancellationToken) -> Option<Principal> {
        Some(Principal {
            name: format!("{}:{}", names.issuer, names.subject).into(),
            issuer: names.issuer,
            subject: names.subject,
            claims: self.claims()?.into(),
            proof,
            expires_at: self.ends,
            until: self.ends,
            ended,
            roles: None,
            // a cookie is good for whoever has it
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

fn ended() -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, "session_ended", "your session has ended; sign in again")
}

impl From<SealError> for Refusal {
    fn from(error: SealError) -> Self {
        Refusal::unavailable("no_cryptography", "the gate cannot seal a session at the moment").with_detail(error)
    }
}

#[cfg(test)]
mod tests;
