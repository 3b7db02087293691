//! Tokens that only their issuer can validator: it is asked, and asked again for as long as anybody stands on the answer.
//!
//! Promises: an answer counts for the configured time and never beyond the token's own end; whoever comes with the same
//! token meanwhile shares it, and those who come at once share one question. When the time is over and a stream is
//! still open, the issuer is asked again, and the stream ends as soon as the token is no longer active, or when nobody
//! could be asked for as long again. A refusal is remembered shortly, so that a sender that does not give up is
//! answered from memory. An issuer that cannot be asked is 503, never yes. Tokens, questions and refusals are bounded
//! in number; a question that nobody waits for any longer is not asked, and a crowd of unknown tokens does not keep
//! good ones waiting. Never: an answer used for another token, or a token or a secret written anywhere but into the
//! question.

mod admission;
pub(crate) mod introspection;
pub(crate) mod token_review;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use http::{HeaderValue, Request, StatusCode};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::admission::{Place, Turns};
use super::{
    issuer,
    jwt::{Rules, TokenError},
};
use crate::{
    client::Client,
    clock::{self, Instant, Timestamp},
    http::Body,
    principal::{Confirmation, Principal},
    secret::{Secret, SecretSource, SourceError},
    telemetry::{Telemetry, chain},
};

/// Tokens known at once, for each issuer.
const MAX_TOKENS: usize = 50_000;
/// Of those, tokens that were refused.
const MAX_REFUSED: usize = 10_000;
/// How long a refusal is remembered.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// Longest token that is no JWT, in bytes: they are kept for as long as anybody stands on them.
pub(super) const MAX_OPAQUE: usize = 4 * 1024;
/// For one question.
const QUESTION_DEADLINE: Duration = Duration::from_secs(5);
/// How long a request waits for its turn and the answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// Between questions about a token that somebody stands on, while nobody counts.
const RETRY: Duration = Duration::from_secs(5);
/// ValidationCounts of more bytes than this are refused.
const MAX_ANSWER: usize = 64 * 1024;
/// How long the secret is used before it is read again; a refused one is read again at once.
const SECRET_FOR: Duration = Duration::from_secs(60);

/// How an issuer is asked about its tokens, one by one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whom to ask, and what.
    pub validator: Validator,
    /// How long its answer counts.
    pub cache: Duration,
}

/// Who can say whether a token is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validator {
    /// The issuer's introspection endpoint (RFC 7662).
    Introspection(introspection::Settings),
    /// Kubernetes' API server.
    TokenReview(token_review::Settings),
}

/// What the judge said.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Validation {
    Active(Active),
    Refused(TokenError),
}

/// Whose an active token is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Active {
    pub(super) subject: String,
    /// One JSON object.
    pub(super) claims: String,
    /// Where the token has an end.
    pub(super) expires_at: Option<Timestamp>,
    /// What its sender must hold.
    pub(super) confirmation: Option<Confirmation>,
}

/// Why nobody could judge.
#[derive(Debug, thiserror::Error)]
pub(super) enum ValidationError {
    #[error(
        "its discovery document, which was to name the introspection endpoint, has not been read yet or names none"
    )]
    Nowhere,
    #[error("the gate's own secret for it")]
    Secret(#[from] SourceError),
    #[error("the gate's own secret for it holds bytes that no header may hold")]
    NoHeader(#[from] http::header::InvalidHeaderValue),
    #[error("`{0}`: {1}")]
    Client(String, String),
    #[error("`{0}` refuses the gate's own credential ({1})")]
    Credential(String, StatusCode),
    #[error("`{0}` answered {1}")]
    Status(String, StatusCode),
    #[error("the answer of `{0}` cannot be understood: {1}")]
    Malformed(String, &'static str),
}

/// How questions were answered since the start, for `/metrics`.
#[derive(Debug, Default)]
pub struct ValidationCounts {
    /// The token is good.
    pub active: AtomicU64,
    /// It is not.
    pub refused: AtomicU64,
    /// Nobody could say.
    pub failed: AtomicU64,
}

/// What a caller is told.
pub(super) enum RemoteVerdict {
    /// Whose token it is, and whether the judge was asked just now.
    Active(Arc<Principal>, bool),
    Refused(TokenError),
    Unavailable,
}

type Digest = [u8; 32];

/// How it stands with one token.
#[derive(Clone)]
enum TokenState {
    Pending,
    Active(Arc<Principal>),
    Refused(TokenError),
    Unavailable,
}

/// One token to be asked about, and where the answer goes.
struct PendingToken {
    token: Secret,
    digest: Digest,
    standing: Arc<watch::Sender<TokenState>>,
    place: Place,
}

/// The tokens of one issuer that it was asked about.
pub(super) struct RemoteValidator {
    settings: Settings,
    issuer: Arc<str>,
    rules: Rules,
    client: Arc<Client>,
    /// The introspection endpoint that discovery named.
    found_at: ArcSwapOption<String>,
    secret: tokio::sync::Mutex<Option<(Instant, Secret)>>,
    /// No receivers, so that those who wait for an answer can be counted.
    tokens: Mutex<HashMap<Digest, Weak<watch::Sender<TokenState>>>>,
    refused: AtomicUsize,
    questions: mpsc::Sender<PendingToken>,
    inbox: Mutex<Option<mpsc::Receiver<PendingToken>>>,
    turns: Turns,
    /// Why the last question got no answer.
    trouble: watch::Sender<Option<String>>,
    pub(super) counts: ValidationCounts,
}

impl RemoteValidator {
    pub(super) fn new(settings: Settings, of: &issuer::Settings, issuer: Arc<str>, client: Arc<Client>) -> Arc<Self> {
        let (questions, inbox) = mpsc::channel(1024);
        Arc::new(Self {
            settings,
            issuer,
            rules: of.rules.clone(),
            client,
            found_at: ArcSwapOption::empty(),
            secret: tokio::sync::Mutex::default(),
            tokens: Mutex::default(),
            refused: AtomicUsize::new(0),
            questions,
            inbox: Mutex::new(Some(inbox)),
            turns: Turns::new(),
            trouble: watch::Sender::new(None),
            counts: ValidationCounts::default(),
        })
    }

    /// Whether it judges tokens that are no JWTs.
    pub(super) fn takes_opaque_tokens(&self) -> bool {
        matches!(self.settings.validator, Validator::Introspection(_))
    }

    /// Takes note of the endpoint that the issuer's discovery document names.
    pub(super) fn found_at(&self, url: String) {
        self.found_at.store(Some(Arc::new(url)));
    }

    /// Whose token this is. `digest` is the token's.
    pub(super) async fn ask(&self, token: &str, digest: Digest, now: Timestamp) -> RemoteVerdict {
        let Some((known, mut later)) = self.standing(token, digest) else { return RemoteVerdict::Unavailable };
        let asked_now = matches!(known, TokenState::Pending);
        let standing = if asked_now {
            let answered = later.wait_for(|standing| !matches!(standing, TokenState::Pending));
            match tokio::time::timeout(REQUEST_DEADLINE, answered).await {
                Ok(Ok(standing)) => standing.clone(),
                _ => TokenState::Unavailable,
            }
        } else {
            known
        };
        match standing {
            TokenState::Active(principal) if principal.until > now => RemoteVerdict::Active(principal, asked_now),
            TokenState::Active(_) => RemoteVerdict::Refused(TokenError::Expired),
            TokenState::Refused(error) => RemoteVerdict::Refused(error),
            TokenState::Pending | TokenState::Unavailable => RemoteVerdict::Unavailable,
        }
    }

    /// How it stands with a token, and where to see it change; puts the question where nobody has yet. Nothing where
    /// there are too many tokens already, or too many that nobody knows.
    fn standing(&self, token: &str, digest: Digest) -> Option<(TokenState, watch::Receiver<TokenState>)> {
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = tokens.get(&digest).and_then(Weak::upgrade) {
            let later = known.subscribe();
            let standing = later.borrow().clone();
            return Some((standing, later));
        }
        if tokens.len() >= MAX_TOKENS {
            return None;
        }
        let (standing, later) = watch::channel(TokenState::Pending);
        let (standing, place) = (Arc::new(standing), self.turns.place(&digest)?);
        let known = Arc::downgrade(&standing);
        self.questions.try_send(PendingToken { token: Secret::new(token.to_owned()), digest, standing, place }).ok()?;
        tokens.insert(digest, known);
        Some((TokenState::Pending, later))
    }

    /// Asks what there is to ask, for as long as it is polled. What was told until then ends with it.
    pub(super) async fn serve(self: &Arc<Self>, telemetry: &Telemetry) {
        let taken = self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut inbox) = taken else { return };
        let component = self.component();
        let mut trouble = self.trouble.subscribe();
        // what was told of settings before these is no longer so; the next question tells anew
        telemetry.set_healthy(&component);
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                Some(question) = inbox.recv() => {
                    open.spawn(Arc::clone(self).stand_by(question));
                }
                Some(_) = open.join_next() => {}
                Ok(()) = trouble.changed() => match &*trouble.borrow_and_update() {
                    Some(text) => telemetry.set_unhealthy(&component, false, format!("it cannot be asked about tokens: {text}")),
                    None => telemetry.set_healthy(&component),
                },
            }
        }
    }

    /// What readiness calls it.
    pub(super) fn component(&self) -> String {
        let what = match self.settings.validator {
            Validator::Introspection(_) => "introspection",
            Validator::TokenReview(_) => "token review",
        };
        format!("issuer {} ({what})", self.issuer)
    }

    /// Asks about one token, and again and again while somebody stands on it.
    async fn stand_by(self: Arc<Self>, question: PendingToken) {
        let PendingToken { token, digest, standing, place } = question;
        let mut turn = tokio::select! {
            biased;
            () = self.is_given_up(&digest, &standing) => return,
            turn = self.turns.first(place) => turn,
        };
        let ended = CancellationToken::new();
        // when nobody asks any longer, nobody may stand on it any longer
        let _end = ended.clone().drop_guard();
        let mut holders: Vec<Weak<Principal>> = Vec::new();
        let mut silent_since = None;
        loop {
            let now = clock::now();
            let judged = self.judge(&token, now).await;
            drop(turn);
            let wait = match judged {
                Ok(Validation::Active(active)) => {
                    silent_since = None;
                    self.turns.judged(&digest, true);
                    let principal = Arc::new(self.principal(digest, active, &ended));
                    let left = principal.until.duration_since(now).try_into().unwrap_or_default();
                    holders.push(Arc::downgrade(&principal));
                    standing.send_replace(TokenState::Active(principal));
                    self.settings.cache.min(left)
                }
                Ok(Validation::Refused(error)) => {
                    ended.cancel();
                    self.turns.judged(&digest, false);
                    drop(token);
                    standing.send_replace(TokenState::Refused(error));
                    return self.linger(&digest).await;
                }
                Err(error) => {
                    self.is_silent(chain(&error));
                    let since = *silent_since.get_or_insert_with(clock::monotonic);
                    let silent = clock::monotonic().duration_since(since);
                    if self.is_left(&digest, &standing, TokenState::Unavailable, &mut holders) {
                        return;
                    }
                    if silent >= self.settings.cache {
                        return self.forget(&digest);
                    }
                    RETRY.min(self.settings.cache)
                }
            };
            tokio::time::sleep(wait).await;
            let next = if silent_since.is_none() { TokenState::Pending } else { TokenState::Unavailable };
            if self.is_left(&digest, &standing, next, &mut holders) {
                return;
            }
            turn = self.turns.again().await;
        }
    }

    /// Waits until nobody waits for a token's first answer any longer, and forgets the token.
    async fn is_given_up(&self, digest: &Digest, standing: &watch::Sender<TokenState>) {
        loop {
            standing.closed().await;
            // under the lock, so that nobody joins in between
            let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
            if standing.is_closed() {
                tokens.remove(digest);
                return;
            }
        }
    }

    /// Says how it stands with the token from here on, and forgets it where nobody holds a principal of it.
    fn is_left(
        &self,
        digest: &Digest,
        standing: &watch::Sender<TokenState>,
        next: TokenState,
        holders: &mut Vec<Weak<Principal>>,
    ) -> bool {
        // under the lock, so that nobody takes the principal in between
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        // each receiver is a request that may be about to take the principal
        let about_to = matches!(*standing.borrow(), TokenState::Active(_)) && !standing.is_closed();
        standing.send_replace(next);
        holders.retain(|holder| holder.strong_count() > 0);
        let left = holders.is_empty() && !about_to;
        if left {
            tokens.remove(digest);
        }
        left
    }

    /// Notes that a question got no answer; says so once for each reason, not for each token.
    fn is_silent(&self, error: String) {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        self.trouble.send_if_modified(|trouble| {
            let news = trouble.as_ref() != Some(&error);
            if news {
                tracing::warn!(issuer = %self.issuer, error, "it cannot be asked about tokens");
                *trouble = Some(error);
            }
            news
        });
    }

    fn forget(&self, digest: &Digest) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(digest);
    }

    /// Keeps a refusal for a moment, where there are not too many.
    async fn linger(&self, digest: &Digest) {
        if self.refused.fetch_add(1, Ordering::Relaxed) < MAX_REFUSED {
            tokio::time::sleep(REFUSED_FOR).await;
        }
        self.refused.fetch_sub(1, Ordering::Relaxed);
        self.forget(digest);
    }

    async fn judge(&self, token: &Secret, now: Timestamp) -> Result<Validation, ValidationError> {
        let judgement = match &self.settings.validator {
            Validator::Introspection(settings) => {
                let found = self.found_at.load_full();
                introspection::ask(self, settings, found.as_deref(), &self.rules, token, now).await
            }
            Validator::TokenReview(settings) => token_review::ask(self, settings, &self.rules, token, now).await,
        }?;
        self.trouble.send_if_modified(|trouble| trouble.take().is_some());
        let count = match judgement {
            Validation::Active(_) => &self.counts.active,
            Validation::Refused(_) => &self.counts.refused,
        };
        count.fetch_add(1, Ordering::Relaxed);
        Ok(judgement)
    }

    fn principal(&self, digest: Digest, active: Active, ended: &CancellationToken) -> Principal {
        let Active { subject, claims, expires_at, confirmation } = active;
        // what stands for the claims in caches has to change with them
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

    /// The secret that the gate shows to the judge.
    pub(super) async fn secret(&self, source: &SecretSource) -> Result<Secret, SourceError> {
        let mut kept = self.secret.lock().await;
        let now = clock::monotonic();
        if let Some((read_at, secret)) = &*kept
            && now.duration_since(*read_at) < SECRET_FOR
        {
            return Ok(secret.clone());
        }
        let secret = source.read().await?;
        *kept = Some((now, secret.clone()));
        Ok(secret)
    }

    /// Sends one question and reads the whole answer.
    pub(super) async fn post(
        &self,
        url: &str,
        authorization: HeaderValue,
        kind: &'static str,
        body: String,
    ) -> Result<bytes::Bytes, ValidationError> {
        let failed = |why: String| ValidationError::Client(url.to_owned(), why);
        let request = Request::post(url)
            .header(http::header::AUTHORIZATION, authorization)
            .header(http::header::CONTENT_TYPE, kind)
            .header(http::header::ACCEPT, "application/json")
            .body(Body::from(body))
            .map_err(|e| failed(e.to_string()))?;
        let answer = self.client.fetch(request, MAX_ANSWER, QUESTION_DEADLINE).await;
        let answer = answer.map_err(|e| failed(chain(&e)))?;
        match answer.status() {
            StatusCode::OK | StatusCode::CREATED => Ok(answer.into_body()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                *self.secret.lock().await = None;
                Err(ValidationError::Credential(url.to_owned(), status))
            }
            status => Err(ValidationError::Status(url.to_owned(), status)),
        }
    }
}

#[cfg(test)]
mod tests;
