//! One issuer: its rules, its keys, and the task that keeps the keys fresh.
//!
//! The JWKS contract: keys are refreshed as the answer's cache headers say, within [1 min, 1 h]; a token with an
//! unknown `kid` causes one fetch more, at most every 30 s, whoever asks; a key that is no longer published is refused
//! with the refresh that shows it; while the issuer cannot be reached its last keys serve for a bounded grace, then
//! none. Answers are bounded, and only https is spoken, or http to this machine itself. Starting needs no issuer.
//!
//! A key is called unknown (401) only on proof: a fetch that succeeded, began after the token was there, and did not
//! show the key; or showed that a key which was there before is gone. Without that (the issuer is away, or the last
//! look is younger than 30 s but older than the token) the answer is 503 with the time of the next look, since senders
//! drop what is answered with 401, and a rotation may just have happened. That a token was there is known when it
//! arrives; that it was there before, its `iat` says, with the leeway added. A caller may bend `iat`, which changes the
//! answer to itself alone and causes no fetch.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use jsonwebtoken::Algorithm;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) use super::openid::metadata::is_https_or_loopback;
use super::{
    fetch::{FETCH_DEADLINE, Fetched, fetch},
    jwt::Rules,
    keys::{Key, MAX_JWKS_KEYS},
    remote::{self, RemoteValidator},
};
use crate::{
    client::Client,
    clock::{self, Instant, Timestamp},
    secret::SecretSource,
    telemetry::{Telemetry, chain},
};

/// Between two fetches that unknown keys cause.
const UNKNOWN_KEY_FLOOR: Duration = Duration::from_secs(30);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// `jwks_uri` of the discovery document (OpenID Connect Discovery 1.0 section 4).
    Discovery,
    /// This URL.
    Url(String),
    /// This file, read when the configuration is loaded and at each refresh.
    File(PathBuf),
    /// Nowhere: it is asked about each of its tokens.
    None,
}

/// One `[[issuer]]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The name that principals carry.
    pub name: String,
    /// What its tokens must satisfy.
    pub rules: Rules,
    /// Where its keys come from.
    pub keys: KeySource,
    /// How long its last keys serve while it cannot be reached.
    pub grace: Duration,
    /// The roots its server's certificate must chain to; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// The bearer token that is shown when discovery and keys are fetched; Kubernetes' API server wants one.
    pub credential: Option<SecretSource>,
    /// How it is asked about tokens that only it can judge.
    pub remote: Option<remote::Settings>,
}

/// An issuer with its keys. Lives on over reloads that do not change its settings.
pub struct Issuer {
    /// As configured.
    pub settings: Settings,
    /// The name, shared by its principals.
    pub name: Arc<str>,
    client: Arc<Client>,
    keys: ArcSwap<Keys>,
    progress: watch::Sender<Progress>,
    counts: Counts,
    closed: CancellationToken,
    pub(super) remote: Option<Arc<RemoteValidator>>,
}

#[derive(Default)]
struct Keys {
    keys: Vec<Arc<Key>>,
    /// The `kid`s of keys that were published once and then no longer, the latest last.
    withdrawn: Vec<String>,
    /// The last fetch that succeeded.
    confirmed: Option<Confirmed>,
    failing: bool,
}

/// When a fetch that succeeded began: by the wall clock, to compare with claims, and by the monotonic one, to measure.
#[derive(Clone, Copy)]
struct Confirmed {
    began: Timestamp,
    at: Instant,
}

/// How far the task is with its fetches. One lock, held for a few instructions, makes asking for one atomic.
#[derive(Default)]
struct Progress {
    /// Fetches begun and finished; they differ while one is under way.
    begun: u64,
    finished: u64,
    /// Whether a token with an unknown key waits for a fetch that has not begun.
    wanted: bool,
    /// When the last fetch that an unknown key caused was asked for, or began.
    wanted_at: Option<Instant>,
}

/// What happened since the start, for `/metrics`.
#[derive(Debug, Default)]
pub struct Counts {
    /// Fetches that gave keys.
    pub fetched: AtomicU64,
    /// Fetches that gave none.
    pub failed: AtomicU64,
    /// Fetches that unknown keys caused.
    pub unknown_key: AtomicU64,
}

/// What is known of a key that a token names.
pub(super) enum Lookup {
    Found(Arc<Key>),
    /// The issuer publishes it, but not for this algorithm.
    Unfit,
    /// The token names none, and several would fit.
    Ambiguous,
    /// The issuer does not publish it.
    Unknown,
    /// Nobody can say for now; when to ask again, where that is known.
    Unavailable(Option<Duration>),
}

impl Issuer {
    /// An issuer without keys yet; [`Issuer::run`] fetches them.
    #[must_use]
    pub fn new(settings: Settings, client: Arc<Client>) -> Self {
        let name: Arc<str> = settings.name.as_str().into();
        let remote =
            settings.remote.clone().map(|remote| RemoteValidator::new(remote, &settings, name.clone(), client.clone()));
        let (keys, progress) = (ArcSwap::default(), watch::Sender::new(Progress::default()));
        let (counts, closed) = (Counts::default(), CancellationToken::new());
        Self { settings, name, client, keys, progress, counts, closed, remote }
    }

    /// What it is asked by.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What readiness calls it.
    #[must_use]
    pub fn component(&self) -> String {
        format!("issuer {}", self.name)
    }

    /// The same, and what readiness calls its answers about tokens.
    pub fn components(&self) -> impl Iterator<Item = String> {
        std::iter::once(self.component()).chain(self.remote.as_ref().map(|remote| remote.component()))
    }

    /// The key for a token's `kid` and algorithm, asking the issuer once more where it is not known. `issued_at` is
    /// what the token says of itself.
    pub(super) async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        issued_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Lookup {
        match self.keys.load().find(kid, algorithm) {
            Lookup::Unknown => {}
            known => return known,
        }
        let (awaited, floor_left) = self.want();
        if let Some(number) = awaited {
            let mut progress = self.progress.subscribe();
            let finished = progress.wait_for(|progress| progress.finished >= number);
            if tokio::time::timeout(FETCH_DEADLINE, finished).await.is_err() {
                return Lookup::Unavailable(None);
            }
        }
        let keys = self.keys.load();
        match keys.find(kid, algorithm) {
            Lookup::Unknown => {}
            known => return known,
        }
        let was_withdrawn = kid.is_some_and(|kid| keys.withdrawn.iter().any(|gone| gone == kid));
        // it was there when it arrived, or earlier where it says so
        let there_at = issued_at.map_or(now, |at| clock::after(at, self.settings.rules.leeway).min(now));
        match keys.confirmed {
            Some(confirmed) if !keys.failing && (was_withdrawn || confirmed.began >= there_at) => Lookup::Unknown,
            _ => Lookup::Unavailable(floor_left.filter(|_| !keys.failing)),
        }
    }

    /// Asks the task for a fetch where the floor allows one. Gives the number of the fetch to wait for: the one asked
    /// for, else one under way; and how long the floor holds.
    fn want(&self) -> (Option<u64>, Option<Duration>) {
        let now = clock::monotonic();
        let (mut awaited, mut floor_left) = (None, None);
        self.progress.send_if_modified(|progress| {
            let next = progress.wanted_at.map(|at| at + UNKNOWN_KEY_FLOOR);
            floor_left = next.and_then(|next| next.checked_duration_since(now)).filter(|left| !left.is_zero());
            let may_ask = !progress.wanted && floor_left.is_none();
            if may_ask {
                (progress.wanted, progress.wanted_at) = (true, Some(now));
            }
            awaited = if progress.wanted {
                Some(progress.begun + 1)
            } else {
                (progress.begun > progress.finished).then_some(progress.begun)
            };
            may_ask
        });
        (awaited, floor_left)
    }

    /// How long ago the keys were last confirmed.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.keys.load().confirmed.map(|confirmed| clock::monotonic().duration_since(confirmed.at))
    }

    /// How long the keys would serve from here on if the issuer could not be reached.
    #[must_use]
    pub fn grace_left(&self) -> Option<Duration> {
        self.age().map(|age| self.settings.grace.saturating_sub(age))
    }

    /// How many keys there are now.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.load().keys.len()
    }

    /// Whether the last fetch failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.keys.load().failing
    }

    /// Whether it can let anybody in: it has keys, or needs none.
    #[must_use]
    pub fn can_verify(&self) -> bool {
        self.settings.keys == KeySource::None || self.key_count() > 0
    }

    /// What happened since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// How its questions about tokens were answered since the start, where it is asked.
    #[must_use]
    pub fn validation_counts(&self) -> Option<&remote::ValidationCounts> {
        self.remote.as_ref().map(|remote| &remote.counts)
    }

    /// Withdraws every key, and what it said of tokens: tokens of this issuer, remembered ones among them, are refused
    /// from here on, and whoever still asks is cut off. It has no other keys ever.
    pub fn close(&self) {
        self.closed.cancel();
        self.withdraw();
    }

    fn withdraw(&self) {
        self.keys.rcu(|keys| {
            keys.keys.iter().for_each(|k| k.withdraw());
            let Keys { withdrawn, failing, .. } = &**keys;
            Keys { keys: Vec::new(), withdrawn: withdrawn.clone(), confirmed: None, failing: *failing }
        });
    }

    /// Does its work for as long as it is polled and not closed: keeps the keys fresh, and asks about tokens that only the issuer can
    /// judge.
    pub async fn run(&self, telemetry: &Telemetry) {
        let remote = async {
            match &self.remote {
                Some(remote) => remote.serve(telemetry).await,
                None => std::future::pending().await,
            }
        };
        let work = async { tokio::join!(self.refresh_keys(telemetry), remote) };
        tokio::select! {
            _ = work => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Fetches the keys now and then.
    async fn refresh_keys(&self, telemetry: &Telemetry) {
        let component = self.component();
        let mut retry = RETRY_FIRST;
        let mut progress = self.progress.subscribe();
        loop {
            let confirmed = Confirmed { began: clock::now(), at: clock::monotonic() };
            self.begin(confirmed.at);
            let wait = match fetch(&self.settings, &self.client).await {
                Ok(fetched) => {
                    retry = RETRY_FIRST;
                    telemetry.set_healthy(&component);
                    self.publish(fetched, confirmed)
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(issuer = %self.name, error, "its keys cannot be refreshed");
                    retry = (retry * 2).min(RETRY_MOST);
                    let left = self.failed();
                    telemetry.set_unhealthy(&component, false, in_words(&error, left));
                    // not a moment longer than the grace
                    left.map_or(retry, |left| retry.min(left))
                }
            };
            self.progress.send_modify(|progress| progress.finished = progress.begun);
            let _ = tokio::time::timeout(wait, progress.wait_for(|progress| progress.wanted)).await;
        }
    }

    fn begin(&self, now: Instant) {
        self.progress.send_modify(|progress| {
            progress.begun += 1;
            if std::mem::take(&mut progress.wanted) {
                progress.wanted_at = Some(now);
                self.counts.unknown_key.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Puts what was fetched in place; gives the time until the next fetch.
    fn publish(&self, fetched: Fetched, confirmed: Confirmed) -> Duration {
        self.counts.fetched.fetch_add(1, Ordering::Relaxed);
        let before = self.keys.load_full();
        // a key that is still published stays the same value, so tokens that it verified stay remembered
        let same =
            |key: Key| before.keys.iter().find(|old| old.same_as(&key)).cloned().unwrap_or_else(|| Arc::new(key));
        let keys: Vec<Arc<Key>> = fetched.keys.into_iter().map(same).collect();
        let mut withdrawn = before.withdrawn.clone();
        for old in &before.keys {
            if !keys.iter().any(|key| Arc::ptr_eq(key, old)) {
                tracing::info!(issuer = %self.name, kid = old.kid(), "a key was withdrawn");
                old.withdraw();
                withdrawn.extend(old.kid().map(str::to_owned));
            }
        }
        withdrawn.retain(|kid| !keys.iter().any(|key| key.kid() == Some(kid)));
        withdrawn.drain(..withdrawn.len().saturating_sub(MAX_JWKS_KEYS));
        self.keys.store(Arc::new(Keys { keys, withdrawn, confirmed: Some(confirmed), failing: false }));
        if self.closed.is_cancelled() {
            // it was closed while these were on their way
            self.withdraw();
        }
        if let (Some(remote), Some(url)) = (&self.remote, fetched.introspection) {
            remote.found_at(url);
        }
        fetched.refresh
    }

    /// Notes that a fetch failed; gives the grace that is left, nothing where there are no keys (any longer).
    fn failed(&self) -> Option<Duration> {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        let before = self.keys.load_full();
        let left = self.grace_left();
        if left == Some(Duration::ZERO) {
            tracing::error!(issuer = %self.name, "its keys are too old to be trusted any longer");
            before.keys.iter().for_each(|k| k.withdraw());
        }
        let left = left.filter(|left| !left.is_zero());
        let keys = if left.is_some() { before.keys.clone() } else { Vec::new() };
        let confirmed = before.confirmed.filter(|_| left.is_some());
        self.keys.store(Arc::new(Keys { keys, withdrawn: before.withdrawn.clone(), confirmed, failing: true }));
        left
    }
}

/// What readiness says while an issuer cannot be reached.
fn in_words(error: &str, grace_left: Option<Duration>) -> String {
    match grace_left {
        None => format!("its keys cannot be fetched, so its tokens are answered with 503: {error}"),
        Some(left) => {
            let minutes = left.as_secs().div_ceil(60);
            format!("its keys cannot be refreshed; the last ones serve for {minutes} min more: {error}")
        }
    }
}

impl Keys {
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Lookup {
        let named = || self.keys.iter().filter(|k| kid.is_none() || k.kid() == kid);
        let mut fitting = named().filter(|k| k.supports(algorithm));
        match (fitting.next(), fitting.next()) {
            // a token without `kid` is for the one key that fits; between two it would be a guess
            (Some(_), Some(_)) if kid.is_none() => Lookup::Ambiguous,
            (Some(key), _) => Lookup::Found(key.clone()),
            (None, _) if kid.is_some() && named().next().is_some() => Lookup::Unfit,
            (None, _) => Lookup::Unknown,
        }
    }
}

#[cfg(test)]
impl Settings {
    /// Settings for the tests of pure parts.
    pub(super) fn test() -> Self {
        Self {
            name: "corp".into(),
            rules: Rules {
                issuer: "https://idp.test".into(),
                audiences: vec!["wicketgate".into()],
                algorithms: vec![Algorithm::RS256, Algorithm::ES256],
                leeway: Duration::from_secs(60),
                ..Rules::default()
            },
            keys: KeySource::Discovery,
            grace: Duration::from_secs(24 * 3600),
            ca: None,
            credential: None,
            remote: None,
        }
    }
}

#[cfg(test)]
mod tests;
