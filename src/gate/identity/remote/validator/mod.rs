//! Cached remote validation of one issuer's tokens, repeated while a request or stream depends on the result.
//!
//! Promises: a result is valid for the configured time and never beyond the token's own expiry. Concurrent requests with
//! one token share one validation and its result. If a principal is still in use when the result expires, the token is
//! validated again: its principals are cancelled as soon as it is no longer active, or after the endpoint has been
//! unreachable for as long again. Refusals are cached for 10 s. An unreachable endpoint is 503, never a success. The
//! number of tokens, of queued validations and of cached refusals is bounded. A queued validation is dropped when no
//! request waits for it any longer, and unknown tokens do not delay tokens that were active before (`admission`).
//! Never: a result used for another token; a token or a secret written anywhere but into the validation request.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    admission::{Admission, Digest, QueueTicket},
    endpoint::{ActiveToken, Endpoint, Validation, ValidationError},
    introspection, token_review,
};
use crate::{
    client::Client,
    clock::{self, Timestamp},
    gate::identity::rules::{Rules, TokenError},
    principal::Principal,
    secret::Secret,
    telemetry::{Telemetry, chain},
};

/// Cached tokens of each issuer.
const MAX_TOKENS: usize = 50_000;
/// Of those, refused tokens.
const MAX_CACHED_REJECTIONS: usize = 10_000;
/// How long a refusal is cached.
const REJECTION_TTL: Duration = Duration::from_secs(10);
/// Longest opaque token in bytes: it is kept in memory for as long as it is validated again.
pub(in crate::gate::identity) const MAX_OPAQUE: usize = 4 * 1024;
/// How long a request waits for admission and the result.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// The pause before a failed validation is repeated, while a principal of the token is in use.
const RETRY: Duration = Duration::from_secs(5);

/// Remote validation of an issuer's tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The validation endpoint and its protocol.
    pub validator: Validator,
    /// How long a result is valid.
    pub cache: Duration,
}

/// The protocol of remote validation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validator {
    /// The issuer's introspection endpoint (RFC 7662).
    Introspection(introspection::Settings),
    /// Kubernetes' API server.
    TokenReview(token_review::Settings),
}

/// Results of validations since the start, for `/metrics`.
#[derive(Debug, Default)]
pub struct ValidationCounts {
    /// The token is active.
    pub active: AtomicU64,
    /// The token is refused.
    pub refused: AtomicU64,
    /// The endpoint could not be reached, or its response was invalid.
    pub failed: AtomicU64,
}

/// The result of remote validation for one request.
pub(in crate::gate::identity) enum RemoteVerdict {
    /// The token's principal, and whether it was validated for this request.
    Active(Arc<Principal>, bool),
    Refused(TokenError),
    Unavailable,
}

/// The state of one token.
#[derive(Clone)]
enum TokenState {
    Pending,
    Active(Arc<Principal>),
    Refused(TokenError),
    Unavailable,
}

/// A token that waits for its first validation, and the channel for its state.
struct PendingToken {
    token: Secret,
    digest: Digest,
    state: Arc<watch::Sender<TokenState>>,
    ticket: QueueTicket,
}

/// Validates the tokens of one issuer remotely and caches the results.
pub(in crate::gate::identity) struct RemoteValidator {
    settings: Settings,
    issuer: Arc<str>,
    rules: Rules,
    endpoint: Endpoint,
    /// The introspection endpoint in the discovery document.
    discovered_endpoint: ArcSwapOption<String>,
    /// Senders without receivers, so that each receiver is a waiting request.
    tokens: Mutex<HashMap<Digest, Weak<watch::Sender<TokenState>>>>,
    cached_rejections: AtomicUsize,
    pending: mpsc::Sender<PendingToken>,
    inbox: Mutex<Option<mpsc::Receiver<PendingToken>>>,
    admission: Admission,
    /// The error of the last validation, `None` if it succeeded.
    last_error: watch::Sender<Option<String>>,
    pub(in crate::gate::identity) counts: ValidationCounts,
}

impl RemoteValidator {
    pub(in crate::gate::identity) fn new(
        settings: Settings,
        rules: Rules,
        issuer: Arc<str>,
        client: Arc<Client>,
    ) -> Arc<Self> {
        let (pending, inbox) = mpsc::channel(1024);
        Arc::new(Self {
            settings,
            issuer,
            rules,
            endpoint: Endpoint::new(client),
            discovered_endpoint: ArcSwapOption::empty(),
            tokens: Mutex::default(),
            cached_rejections: AtomicUsize::new(0),
            pending,
            inbox: Mutex::new(Some(inbox)),
            admission: Admission::new(),
            last_error: watch::Sender::new(None),
            counts: ValidationCounts::default(),
        })
    }

    /// Whether it validates opaque tokens.
    pub(in crate::gate::identity) fn accepts_opaque_tokens(&self) -> bool {
        matches!(self.settings.validator, Validator::Introspection(_))
    }

    /// Sets the introspection endpoint that the issuer's discovery document lists.
    pub(in crate::gate::identity) fn set_discovered_endpoint(&self, url: String) {
        self.discovered_endpoint.store(Some(Arc::new(url)));
    }

    /// The token's principal, from the cache or by a validation. `digest` is the token's.
    pub(in crate::gate::identity) async fn validate(
        &self,
        token: &str,
        digest: Digest,
        now: Timestamp,
    ) -> RemoteVerdict {
        let Some((cached, mut changes)) = self.subscribe(token, digest) else { return RemoteVerdict::Unavailable };
        let fresh = matches!(cached, TokenState::Pending);
        let state = if fresh {
            let validated = changes.wait_for(|state| !matches!(state, TokenState::Pending));
            match tokio::time::timeout(REQUEST_DEADLINE, validated).await {
                Ok(Ok(state)) => state.clone(),
                _ => TokenState::Unavailable,
            }
        } else {
            cached
        };
        match state {
            TokenState::Active(principal) if principal.until > now => RemoteVerdict::Active(principal, fresh),
            TokenState::Active(_) => RemoteVerdict::Refused(TokenError::Expired),
            TokenState::Refused(error) => RemoteVerdict::Refused(error),
            TokenState::Pending | TokenState::Unavailable => RemoteVerdict::Unavailable,
        }
    }

    /// The state of a token and its later changes; queues the first validation of a new token. `None` if there are too
    /// many tokens, or too many unknown ones.
    fn subscribe(&self, token: &str, digest: Digest) -> Option<(TokenState, watch::Receiver<TokenState>)> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cached) = tokens.get(&digest).and_then(Weak::upgrade) {
            let changes = cached.subscribe();
            let state = changes.borrow().clone();
            return Some((state, changes));
        }
        if tokens.len() >= MAX_TOKENS {
            return None;
        }
        let (state, changes) = watch::channel(TokenState::Pending);
        let state = Arc::new(state);
        let ticket = self.admission.enqueue(&digest)?;
        let cached = Arc::downgrade(&state);
        self.pending.try_send(PendingToken { token: Secret::new(token.to_owned()), digest, state, ticket }).ok()?;
        tokens.insert(digest, cached);
        Some((TokenState::Pending, changes))
    }

    /// Runs the validations while it is polled. Principals obtained from it are cancelled when it is dropped.
    pub(in crate::gate::identity) async fn run(self: &Arc<Self>, telemetry: &Telemetry) {
        let taken = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut inbox) = taken else { return };
        let component = self.component();
        let mut errors = self.last_error.subscribe();
        // an error under earlier settings does not apply to these; the next validation reports anew
        telemetry.set_healthy(&component);
        let mut running = JoinSet::new();
        loop {
            tokio::select! {
                Some(pending) = inbox.recv() => {
                    running.spawn(Arc::clone(self).revalidate(pending));
                }
                Some(_) = running.join_next() => {}
                Ok(()) = errors.changed() => match &*errors.borrow_and_update() {
                    Some(error) => {
                        telemetry.set_unhealthy(&component, false, format!("tokens cannot be validated: {error}"));
                    }
                    None => telemetry.set_healthy(&component),
                },
            }
        }
    }

    /// Its component name in readiness.
    pub(in crate::gate::identity) fn component(&self) -> String {
        let protocol = match self.settings.validator {
            Validator::Introspection(_) => "introspection",
            Validator::TokenReview(_) => "token review",
        };
        format!("issuer {} ({protocol})", self.issuer)
    }

    /// Validates one token, and again each time the result expires while a principal of the token is in use.
    async fn revalidate(self: Arc<Self>, pending: PendingToken) {
        let PendingToken { token, digest, state, ticket } = pending;
        let mut permit = tokio::select! {
            biased;
            () = self.abandoned(&digest, &state) => return,
            permit = self.admission.acquire(ticket) => permit,
        };
        let ended = CancellationToken::new();
        // once revalidation stops, the principals are no longer valid
        let _end = ended.clone().drop_guard();
        let mut principals: Vec<Weak<Principal>> = Vec::new();
        let mut failing_since = None;
        loop {
            let now = clock::now();
            let validated = self.request(&token, now).await;
            drop(permit);
            let wait = match validated {
                Ok(Validation::Active(active)) => {
                    failing_since = None;
                    self.admission.record(&digest, true);
                    let principal = Arc::new(self.principal(digest, active, &ended));
                    let left = principal.until.duration_since(now).try_into().unwrap_or_default();
                    principals.push(Arc::downgrade(&principal));
                    state.send_replace(TokenState::Active(principal));
                    self.settings.cache.min(left)
                }
                Ok(Validation::Refused(error)) => {
                    ended.cancel();
                    self.admission.record(&digest, false);
                    drop(token);
                    state.send_replace(TokenState::Refused(error));
                    return self.cache_rejection(&digest).await;
                }
                Err(error) => {
                    self.report_failure(chain(&error));
                    let since = *failing_since.get_or_insert_with(clock::monotonic);
                    let failing_for = clock::monotonic().duration_since(since);
                    if self.publish(&digest, &state, TokenState::Unavailable, &mut principals) {
                        return;
                    }
                    if failing_for >= self.settings.cache {
                        return self.remove(&digest);
                    }
                    RETRY.min(self.settings.cache)
                }
            };
            tokio::time::sleep(wait).await;
            let next = if failing_since.is_none() { TokenState::Pending } else { TokenState::Unavailable };
            if self.publish(&digest, &state, next, &mut principals) {
                return;
            }
            permit = self.admission.acquire_reserved().await;
        }
    }

    /// Waits until no request waits for the token's first validation, and removes the token.
    async fn abandoned(&self, digest: &Digest, state: &watch::Sender<TokenState>) {
        loop {
            state.closed().await;
            // under the lock, so that no request subscribes in between
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            if state.is_closed() {
                tokens.remove(digest);
                return;
            }
        }
    }

    /// Publishes the token's new state, and removes the token if no principal obtained from it is in use. Returns
    /// whether it was removed.
    fn publish(
        &self,
        digest: &Digest,
        state: &watch::Sender<TokenState>,
        next: TokenState,
        principals: &mut Vec<Weak<Principal>>,
    ) -> bool {
        // under the lock, so that no request obtains the principal in between
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        // each receiver is a request that may be about to obtain the principal
        let about_to = matches!(*state.borrow(), TokenState::Active(_)) && !state.is_closed();
        state.send_replace(next);
        principals.retain(|principal| principal.strong_count() > 0);
        let unused = principals.is_empty() && !about_to;
        if unused {
            tokens.remove(digest);
        }
        unused
    }

    /// Counts a failed validation, and logs each new reason once rather than for each token.
    fn report_failure(&self, error: String) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        self.last_error.send_if_modified(|last| {
            let is_new = last.as_ref() != Some(&error);
            if is_new {
                tracing::warn!(issuer = %self.issuer, error, "tokens cannot be validated");
                *last = Some(error);
            }
            is_new
        });
    }

    fn remove(&self, digest: &Digest) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    /// Caches a refusal for [`REJECTION_TTL`], unless [`MAX_CACHED_REJECTIONS`] are cached already.
    async fn cache_rejection(&self, digest: &Digest) {
        if self.cached_rejections.fetch_add(1, Ordering::Relaxed) < MAX_CACHED_REJECTIONS {
            tokio::time::sleep(REJECTION_TTL).await;
        }
        self.cached_rejections.fetch_sub(1, Ordering::Relaxed);
        self.remove(digest);
    }

    /// Sends one validation request.
    async fn request(&self, token: &Secret, now: Timestamp) -> Result<Validation, ValidationError> {
        let validation = match &self.settings.validator {
            Validator::Introspection(settings) => {
                let discovered = self.discovered_endpoint.load_full();
                introspection::request(&self.endpoint, settings, discovered.as_deref(), &self.rules, token, now).await
            }
            Validator::TokenReview(settings) => {
                token_review::request(&self.endpoint, settings, &self.rules, token, now).await
            }
        }?;
        self.last_error.send_if_modified(|last| last.take().is_some());
        let count = match validation {
            Validation::Active(_) => &self.counts.active,
            Validation::Refused(_) => &self.counts.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(validation)
    }

    fn principal(&self, digest: Digest, active: ActiveToken, ended: &CancellationToken) -> Principal {
        let ActiveToken { subject, claims, expires_at, confirmation } = active;
        // caches know the claims by the proof, so it must change with them
        let mut proof = blake3::Hasher::new();
        proof.update(&digest).update(claims.as_bytes());
        let expires_at = expires_at.unwrap_or(Timestamp::MAX);
        Principal {
            name: format!("{}:{subject}", self.issuer).into(),
            issuer: self.issuer.clone(),
            subject: subject.into(),
            claims: claims.into(),
            proof: *proof.finalize().as_bytes(),
            expires_at,
            until: clock::after(expires_at, self.rules.leeway),
            ended: ended.clone(),
            roles: None,
            confirmation,
        }
    }
}

#[cfg(test)]
mod tests;
