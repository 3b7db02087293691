//! One issuer: its rules, its keys, and the task that keeps the keys fresh.
//!
//! The JWKS contract: keys are refreshed as the answer's cache headers say, within [1 min, 1 h]; a token with an unknown
//! `kid` causes one fetch more, at most every 30 s, whoever asks; a key that is no longer published is refused with the
//! refresh that shows it; while the issuer cannot be reached its last keys serve for a bounded grace, then none. Answers
//! are bounded, and only https is spoken, or http to this machine itself. Starting needs no issuer.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::Request;
use jsonwebtoken::Algorithm;
use tokio::sync::{Notify, watch};

use super::{
    jwt::Rules,
    keys::{Key, MAX_JWKS_BYTES, parse_jwks},
};
use crate::{
    client::Client,
    clock::{self, Timestamp},
    http::Body,
    telemetry::Telemetry,
};

const REFRESH_LEAST: Duration = Duration::from_secs(60);
const REFRESH_MOST: Duration = Duration::from_secs(3600);
const REFRESH_DEFAULT: Duration = Duration::from_secs(300);
/// Between two fetches that unknown keys cause.
const UNKNOWN_KEY_FLOOR: Duration = Duration::from_secs(30);
const FETCH_DEADLINE: Duration = Duration::from_secs(10);
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
}

/// An issuer with its keys. Lives on over reloads that do not change its settings.
pub struct Issuer {
    /// As configured.
    pub settings: Settings,
    /// The name, shared by its principals.
    pub name: Arc<str>,
    client: Arc<Client>,
    keys: ArcSwap<Keys>,
    /// Counts finished fetches; whoever waits for one watches it.
    fetches: watch::Sender<u64>,
    wanted: Notify,
}

#[derive(Default)]
struct Keys {
    keys: Vec<Arc<Key>>,
    /// The last fetch that succeeded.
    fresh_at: Option<Timestamp>,
    /// The last fetch that an unknown key caused.
    wanted_at: Option<Timestamp>,
    failing: bool,
}

/// What is known of a key that a token names.
pub(super) enum Lookup {
    Found(Arc<Key>),
    /// The issuer does not publish it.
    Unknown,
    /// The issuer cannot be asked, so nobody can say.
    Unavailable,
}

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Client(String),
    #[error("`{0}` answered {1}")]
    Status(String, http::StatusCode),
    #[error("the discovery document at `{0}` {1}")]
    Discovery(String, String),
    #[error("cannot read `{path}`: {problem}", path = .0.display(), problem = .1)]
    File(PathBuf, std::io::Error),
    #[error(transparent)]
    Jwks(#[from] super::keys::JwksError),
}

impl Issuer {
    /// An issuer without keys yet; [`Issuer::keep_fresh`] fetches them.
    #[must_use]
    pub fn new(settings: Settings, client: Arc<Client>) -> Self {
        let name = settings.name.as_str().into();
        let fetches = watch::Sender::new(0);
        Self { settings, name, client, keys: ArcSwap::default(), fetches, wanted: Notify::new() }
    }

    /// What readiness calls it.
    #[must_use]
    pub fn part(&self) -> String {
        format!("issuer {}", self.name)
    }

    /// The key for a token's `kid` and algorithm, asking the issuer once more where it is not known.
    pub(super) async fn key(&self, kid: Option<&str>, algorithm: Algorithm, now: Timestamp) -> Lookup {
        let keys = self.keys.load_full();
        if let Some(key) = keys.find(kid, algorithm) {
            return Lookup::Found(key);
        }
        let asked_lately = keys.wanted_at.is_some_and(|at| now < clock::after(at, UNKNOWN_KEY_FLOOR));
        if keys.fresh_at.is_some() && asked_lately && !keys.failing {
            return Lookup::Unknown;
        }
        let mut told = true;
        if !asked_lately {
            let mut fetches = self.fetches.subscribe();
            self.wanted.notify_one();
            // the task answers each notification with a fetch or with the one that is under way
            told = tokio::time::timeout(FETCH_DEADLINE, fetches.changed()).await.is_ok();
        }
        let keys = self.keys.load();
        match keys.find(kid, algorithm) {
            Some(key) => Lookup::Found(key),
            // a key that nobody looked for may well be there, and senders drop their data on 401
            None if !told || keys.fresh_at.is_none() || keys.failing => Lookup::Unavailable,
            None => Lookup::Unknown,
        }
    }

    /// When the keys were last confirmed.
    #[must_use]
    pub fn fresh_at(&self) -> Option<Timestamp> {
        self.keys.load().fresh_at
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

    /// Withdraws every key: tokens of this issuer, remembered ones among them, are refused from here on.
    pub fn close(&self) {
        self.keys.rcu(|keys| {
            keys.keys.iter().for_each(|k| k.withdraw());
            Keys { keys: Vec::new(), fresh_at: None, ..**keys }
        });
    }

    /// Fetches the keys now and then, for as long as it is polled.
    pub async fn keep_fresh(&self, telemetry: &Telemetry) {
        let part = self.part();
        let mut retry = RETRY_FIRST;
        let mut wanted = false;
        loop {
            let now = clock::now();
            let wait = match self.fetch().await {
                Ok((keys, refresh)) => {
                    self.publish(keys, now, wanted);
                    telemetry.well(&part);
                    retry = RETRY_FIRST;
                    refresh
                }
                Err(error) => {
                    let error = crate::telemetry::chain(&error);
                    tracing::warn!(issuer = %self.name, error, "its keys cannot be refreshed");
                    self.failed(now, wanted);
                    telemetry.trouble(
                        &part,
                        self.fresh_at().is_none(),
                        format!("its keys cannot be refreshed: {error}"),
                    );
                    retry = (retry * 2).min(RETRY_MOST);
                    retry
                }
            };
            self.fetches.send_modify(|n| *n += 1);
            wanted = tokio::time::timeout(wait, self.wanted.notified()).await.is_ok();
        }
    }

    fn publish(&self, fetched: Vec<Key>, now: Timestamp, wanted: bool) {
        let before = self.keys.load_full();
        // a key that is still published stays the same value, so tokens that it verified stay remembered
        let keys: Vec<Arc<Key>> = fetched
            .into_iter()
            .map(|key| before.keys.iter().find(|old| old.same_as(&key)).cloned().unwrap_or_else(|| Arc::new(key)))
            .collect();
        for old in &before.keys {
            if !keys.iter().any(|key| Arc::ptr_eq(key, old)) {
                tracing::info!(issuer = %self.name, kid = old.kid(), "a key was withdrawn");
                old.withdraw();
            }
        }
        let wanted_at = if wanted { Some(now) } else { before.wanted_at };
        self.keys.store(Arc::new(Keys { keys, fresh_at: Some(now), wanted_at, failing: false }));
    }

    fn failed(&self, now: Timestamp, wanted: bool) {
        let before = self.keys.load_full();
        let wanted_at = if wanted { Some(now) } else { before.wanted_at };
        let over = before.fresh_at.is_some_and(|at| clock::after(at, self.settings.grace) <= now);
        if over {
            tracing::error!(issuer = %self.name, "its keys are too old to be trusted any longer");
            before.keys.iter().for_each(|k| k.withdraw());
        }
        let (keys, fresh_at) = if over { (Vec::new(), None) } else { (before.keys.clone(), before.fresh_at) };
        self.keys.store(Arc::new(Keys { keys, fresh_at, wanted_at, failing: true }));
    }

    async fn fetch(&self) -> Result<(Vec<Key>, Duration), FetchError> {
        let url = match &self.settings.keys {
            KeySource::File(path) => {
                let text = tokio::fs::read(path).await.map_err(|e| FetchError::File(path.clone(), e))?;
                return Ok((parse_jwks(&text)?, REFRESH_LEAST));
            }
            KeySource::Url(url) => url.clone(),
            KeySource::Discovery => self.discover().await?,
        };
        let (text, refresh) = self.get(&url).await?;
        Ok((parse_jwks(&text)?, refresh))
    }

    /// Section 4.3 of OpenID Connect Discovery: the document's `issuer` must be the one that was asked.
    async fn discover(&self) -> Result<String, FetchError> {
        #[derive(serde::Deserialize)]
        struct Document {
            issuer: String,
            jwks_uri: String,
        }
        let url = format!("{}/.well-known/openid-configuration", self.settings.rules.issuer.trim_end_matches('/'));
        let (text, _) = self.get(&url).await?;
        let wrong = |why: String| FetchError::Discovery(url.clone(), why);
        let document: Document = serde_json::from_slice(&text).map_err(|e| wrong(format!("cannot be read: {e}")))?;
        if document.issuer != self.settings.rules.issuer {
            return Err(wrong(format!("is of the issuer `{}`", document.issuer)));
        }
        if !may_be_asked(&document.jwks_uri) {
            return Err(wrong(format!("names `{}`, which is not https", document.jwks_uri)));
        }
        Ok(document.jwks_uri)
    }

    async fn get(&self, url: &str) -> Result<(bytes::Bytes, Duration), FetchError> {
        let request = Request::get(url).header("accept", "application/json").body(Body::Empty);
        let request = request.map_err(|e| FetchError::Client(format!("`{url}`: {e}")))?;
        let answer = self.client.fetch(request, MAX_JWKS_BYTES, FETCH_DEADLINE).await;
        let answer = answer.map_err(|e| FetchError::Client(format!("`{url}`: {}", crate::telemetry::chain(&e))))?;
        if answer.status() != http::StatusCode::OK {
            return Err(FetchError::Status(url.to_owned(), answer.status()));
        }
        let refresh = max_age(answer.headers()).unwrap_or(REFRESH_DEFAULT).clamp(REFRESH_LEAST, REFRESH_MOST);
        Ok((answer.into_body(), refresh))
    }
}

impl Keys {
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Option<Arc<Key>> {
        let mut fitting = self.keys.iter().filter(|k| k.fits(algorithm) && (kid.is_none() || k.kid() == kid));
        let first = fitting.next()?;
        // a token without `kid` is for the one key that fits; between two it would be a guess
        (kid.is_some() || fitting.next().is_none()).then(|| first.clone())
    }
}

/// Whether keys may be fetched from `url`: https, or http to this machine itself.
#[must_use]
pub fn may_be_asked(url: &str) -> bool {
    let Ok(url) = url::Url::parse(url) else { return false };
    match (url.scheme(), url.host()) {
        ("https", Some(_)) => true,
        ("http", Some(url::Host::Ipv4(ip))) => ip.is_loopback(),
        ("http", Some(url::Host::Ipv6(ip))) => ip.is_loopback(),
        ("http", Some(url::Host::Domain(name))) => name == "localhost",
        _ => false,
    }
}

/// `max-age` of `Cache-Control` (RFC 9111 section 5.2.2.1).
fn max_age(headers: &http::HeaderMap) -> Option<Duration> {
    let value = headers.get(http::header::CACHE_CONTROL)?.to_str().ok()?;
    let seconds = value.split(',').find_map(|d| d.trim().strip_prefix("max-age="))?;
    seconds.trim_matches('"').parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_that_could_not_be_asked_for_in_time_is_not_called_unknown() {
        let rules = Rules {
            issuer: "https://idp.test".into(),
            audiences: vec!["wicketgate".into()],
            algorithms: vec![Algorithm::RS256],
            leeway: Duration::ZERO,
        };
        let keys = KeySource::Url("https://idp.test/jwks".into());
        let settings = Settings { name: "corp".into(), rules, keys, grace: Duration::ZERO, ca: None };
        let issuer = Issuer::new(settings, Arc::new(Client::new(None).unwrap()));
        let now = clock::now();
        issuer.publish(Vec::new(), now, false);
        // nobody fetches: an issuer that is slower than whoever waits for it
        assert!(matches!(issuer.key(Some("new"), Algorithm::RS256, now).await, Lookup::Unavailable));
        issuer.publish(Vec::new(), now, true);
        assert!(matches!(issuer.key(Some("new"), Algorithm::RS256, now).await, Lookup::Unknown));
    }
}
