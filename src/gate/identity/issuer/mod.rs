//! One issuer: its rules, its keys, and the task that refreshes the keys.
//!
//! The JWKS contract: keys are refreshed according to the response's cache headers, within [1 min, 1 h]. A token with an
//! unknown `kid` causes one additional fetch, at most every 30 s for all callers together. A key that is no longer
//! published is withdrawn with the refresh that shows it. While the issuer is unreachable its last keys stay valid for a
//! bounded grace period, then none. Responses are bounded; only https is used, or http to a loopback address. The gate
//! starts without the issuer.
//!
//! A key is reported as unknown (401) only on proof: a fetch that succeeded, began after the token existed, and did not
//! contain the key; or showed that a key which was there before is gone. Without that (the issuer is unreachable, or the
//! last fetch is younger than 30 s but older than the token) the response is 503 with the time of the next fetch:
//! senders drop what is answered with 401, and a rotation may just have happened. The token existed when it arrived;
//! that it existed before is known from its `iat`, with the leeway added. A caller may forge `iat`: this changes only its
//! own response and causes no fetch.

mod key_set;

use std::{
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

use self::key_set::{FetchTime, KeySet};
pub(super) use self::key_set::{KeyLookup, unavailable};
pub(crate) use super::openid::metadata::is_https_or_loopback;
use super::{
    fetch::{FETCH_DEADLINE, Fetched, fetch},
    keys::{Key, MAX_JWKS_KEYS},
    remote::{RemoteValidator, ValidationCounts},
    settings::{KeySource, Settings},
};
use crate::{
    backoff::Backoff,
    client::Client,
    clock::{self, Instant, Timestamp},
    telemetry::{Telemetry, chain},
};

/// The minimum time between two fetches that unknown keys cause.
const UNKNOWN_KEY_INTERVAL: Duration = Duration::from_secs(30);
const RETRY_MIN: Duration = Duration::from_secs(2);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// An issuer with its keys. A reload keeps the issuers whose settings are unchanged.
pub struct Issuer {
    /// As configured.
    pub settings: Settings,
    /// The name, shared by its principals.
    pub name: Arc<str>,
    client: Arc<Client>,
    keys: ArcSwap<KeySet>,
    progress: watch::Sender<Progress>,
    counts: Counts,
    closed: CancellationToken,
    pub(super) remote: Option<Arc<RemoteValidator>>,
}

/// The progress of the fetch task. Requesting a fetch is atomic under its one lock, which is held for a few
/// instructions.
#[derive(Default)]
struct Progress {
    /// Fetches begun and finished; they differ while one is under way.
    begun: u64,
    finished: u64,
    /// Whether a token with an unknown key waits for a fetch that has not begun.
    requested: bool,
    /// When the last fetch that an unknown key caused was requested, or began.
    requested_at: Option<Instant>,
}

/// Fetches since the start, for `/metrics`.
#[derive(Debug, Default)]
pub struct Counts {
    /// Successful fetches.
    pub fetched: AtomicU64,
    /// Failed fetches.
    pub failed: AtomicU64,
    /// Fetches that unknown keys caused.
    pub unknown_key: AtomicU64,
}

impl Issuer {
    /// An issuer without keys; [`Issuer::run`] fetches them.
    #[must_use]
    pub fn new(settings: Settings, client: Arc<Client>) -> Self {
        let name: Arc<str> = settings.name.as_str().into();
        let remote = settings
            .remote
            .clone()
            .map(|remote| RemoteValidator::new(remote, settings.rules.clone(), name.clone(), client.clone()));
        Self {
            settings,
            name,
            client,
            keys: ArcSwap::default(),
            progress: watch::Sender::new(Progress::default()),
            counts: Counts::default(),
            closed: CancellationToken::new(),
            remote,
        }
    }

    /// The HTTP client for this issuer.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Its component name in readiness.
    #[must_use]
    pub fn component(&self) -> String {
        format!("issuer {}", self.name)
    }

    /// Its component names in readiness: its keys, and its remote validation.
    pub fn components(&self) -> impl Iterator<Item = String> {
        std::iter::once(self.component()).chain(self.remote.as_ref().map(|remote| remote.component()))
    }

    /// The key for a token's `kid` and algorithm. An unknown key causes a fetch. `issued_at` is the token's unverified
    /// `iat`.
    pub(super) async fn key(
        &self,
        kid: Option<&str>,
        algorithm: Algorithm,
        issued_at: Option<Timestamp>,
        now: Timestamp,
    ) -> KeyLookup {
        match self.keys.load().find(kid, algorithm) {
            KeyLookup::Unknown => {}
            known => return known,
        }
        let (awaited, wait) = self.request_fetch();
        if let Some(number) = awaited {
            let mut progress = self.progress.subscribe();
            let finished = progress.wait_for(|progress| progress.finished >= number);
            if tokio::time::timeout(FETCH_DEADLINE, finished).await.is_err() {
                return KeyLookup::Unavailable(None);
            }
        }
        let keys = self.keys.load();
        match keys.find(kid, algorithm) {
            KeyLookup::Unknown => {}
            known => return known,
        }
        let was_withdrawn = kid.is_some_and(|kid| keys.withdrawn.iter().any(|withdrawn| withdrawn == kid));
        // the token existed when it arrived, or earlier according to its `iat`
        let existed_at = issued_at.map_or(now, |at| clock::after(at, self.settings.rules.leeway).min(now));
        match keys.confirmed {
            Some(confirmed) if !keys.failing && (was_withdrawn || confirmed.began >= existed_at) => KeyLookup::Unknown,
            _ => KeyLookup::Unavailable(wait.filter(|_| !keys.failing)),
        }
    }

    /// Requests a fetch from the task, unless the last one was too recent. Returns the number of the fetch to wait for
    /// (the requested one, else one under way), and the time until the next fetch is allowed.
    fn request_fetch(&self) -> (Option<u64>, Option<Duration>) {
        let now = clock::monotonic();
        let mut awaited = None;
        let mut wait = None;
        self.progress.send_if_modified(|progress| {
            let next = progress.requested_at.map(|at| at + UNKNOWN_KEY_INTERVAL);
            wait = next.and_then(|next| next.checked_duration_since(now)).filter(|left| !left.is_zero());
            let allowed = !progress.requested && wait.is_none();
            if allowed {
                progress.requested = true;
                progress.requested_at = Some(now);
            }
            awaited = if progress.requested {
                Some(progress.begun + 1)
            } else {
                (progress.begun > progress.finished).then_some(progress.begun)
            };
            allowed
        });
        (awaited, wait)
    }

    /// The time since the last successful fetch.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.keys.load().confirmed.map(|confirmed| clock::monotonic().duration_since(confirmed.at))
    }

    /// How long the keys would stay valid if the issuer were unreachable from now on.
    #[must_use]
    pub fn grace_left(&self) -> Option<Duration> {
        self.age().map(|age| self.settings.grace.saturating_sub(age))
    }

    /// The number of keys.
    #[must_use]
    pub fn key_count(&self) -> usize {
        self.keys.load().keys.len()
    }

    /// Whether the last fetch failed.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.keys.load().failing
    }

    /// Whether it can verify tokens: it has keys, or needs none.
    #[must_use]
    pub fn can_verify(&self) -> bool {
        self.settings.keys == KeySource::None || self.key_count() > 0
    }

    /// Fetches since the start.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Results of its remote validations since the start; `None` if it has none.
    #[must_use]
    pub fn validation_counts(&self) -> Option<&ValidationCounts> {
        self.remote.as_ref().map(|remote| &remote.counts)
    }

    /// Withdraws every key and every result of remote validation, for good: all tokens of this issuer, cached ones
    /// included, are refused from now on, and open streams are closed.
    pub fn close(&self) {
        self.closed.cancel();
        self.withdraw();
    }

    fn withdraw(&self) {
        self.keys.rcu(|keys| {
            keys.keys.iter().for_each(|k| k.withdraw());
            let KeySet { withdrawn, failing, .. } = &**keys;
            KeySet { keys: Vec::new(), withdrawn: withdrawn.clone(), confirmed: None, failing: *failing }
        });
    }

    /// Refreshes the keys and runs the remote validations, while it is polled and the issuer is not closed.
    pub async fn run(&self, telemetry: &Telemetry) {
        let remote = async {
            match &self.remote {
                Some(remote) => remote.run(telemetry).await,
                None => std::future::pending().await,
            }
        };
        let work = async { tokio::join!(self.refresh_keys(telemetry), remote) };
        tokio::select! {
            _ = work => {}
            () = self.closed.cancelled() => {}
        }
    }

    /// Fetches the keys, again and again.
    async fn refresh_keys(&self, telemetry: &Telemetry) {
        let component = self.component();
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        let mut progress = self.progress.subscribe();
        loop {
            let confirmed = FetchTime { began: clock::now(), at: clock::monotonic() };
            self.begin_fetch(confirmed.at);
            let wait = match fetch(&self.settings, &self.client).await {
                Ok(fetched) => {
                    backoff.reset();
                    telemetry.set_healthy(&component);
                    self.install(fetched, confirmed)
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(issuer = %self.name, error, "the issuer's keys cannot be refreshed");
                    let left = self.record_failure();
                    telemetry.set_unhealthy(&component, false, describe_outage(&error, left));
                    let delay = backoff.next_delay();
                    // not after the end of the grace period
                    left.map_or(delay, |left| delay.min(left))
                }
            };
            self.progress.send_modify(|progress| progress.finished = progress.begun);
            let _ = tokio::time::timeout(wait, progress.wait_for(|progress| progress.requested)).await;
        }
    }

    fn begin_fetch(&self, now: Instant) {
        self.progress.send_modify(|progress| {
            progress.begun += 1;
            if std::mem::take(&mut progress.requested) {
                progress.requested_at = Some(now);
                self.counts.unknown_key.fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    /// Installs the fetched keys. Returns the time until the next fetch.
    fn install(&self, fetched: Fetched, confirmed: FetchTime) -> Duration {
        self.counts.fetched.fetch_add(1, Ordering::Relaxed);
        let before = self.keys.load_full();
        // a key that is still published keeps its identity, so that tokens verified with it stay cached
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
        self.keys.store(Arc::new(KeySet { keys, withdrawn, confirmed: Some(confirmed), failing: false }));
        if self.closed.is_cancelled() {
            // the issuer was closed during the fetch
            self.withdraw();
        }
        if let (Some(remote), Some(url)) = (&self.remote, fetched.introspection) {
            remote.set_discovered_endpoint(url);
        }
        fetched.refresh
    }

    /// Records a failed fetch. Returns the grace that is left; `None` if there are no keys, or no longer any.
    fn record_failure(&self) -> Option<Duration> {
        self.counts.failed.fetch_add(1, Ordering::Relaxed);
        let before = self.keys.load_full();
        let left = self.grace_left();
        if left == Some(Duration::ZERO) {
            tracing::error!(issuer = %self.name, "the issuer's keys are withdrawn: the grace period is over");
            before.keys.iter().for_each(|k| k.withdraw());
        }
        let left = left.filter(|left| !left.is_zero());
        let keys = if left.is_some() { before.keys.clone() } else { Vec::new() };
        let confirmed = before.confirmed.filter(|_| left.is_some());
        self.keys.store(Arc::new(KeySet { keys, withdrawn: before.withdrawn.clone(), confirmed, failing: true }));
        left
    }
}

/// The readiness text while an issuer is unreachable.
fn describe_outage(error: &str, grace_left: Option<Duration>) -> String {
    match grace_left {
        None => format!("its keys cannot be fetched, so its tokens are refused with 503: {error}"),
        Some(left) => {
            let minutes = left.as_secs().div_ceil(60);
            format!("its keys cannot be refreshed; the last ones stay valid for {minutes} min more: {error}")
        }
    }
}

#[cfg(test)]
mod tests;
