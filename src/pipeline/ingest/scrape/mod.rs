//! The gate's own scrapes, for series that no Prometheus sends.
//!
//! Promises: what a scrape yields is what Prometheus would have stored: `job` and `instance` on every series (an
//! exporter's own become `exported_…`), `up`, `scrape_duration_seconds` and `scrape_samples_scraped` beside them, and
//! a stale marker for each series that is gone, or for all of them when the scrape failed. A page is taken whole or
//! not at all, and its size and the time it may take are bounded. A target that needs a credential is not asked
//! without one.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use tokio::{task::JoinSet, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Metrics, Reason, remote_write::batch_id};
use crate::exposition::samples;
use crate::{
    client::{Upstream, Worker},
    clock::{self, Timestamp},
    http::{Body, read_bounded},
    pipeline::{shape::keep::KeepList, spool::Spool},
    secret::CredentialSlot,
    series::{BatchBuilder, LabelRef, Labels, METRIC_NAME, Sample},
};

/// Text first: OpenMetrics is read too, protobuf is not.
const ACCEPT: &str = "text/plain;version=0.0.4,application/openmetrics-text;version=1.0.0;q=0.8,*/*;q=0.1";
/// As remote write has it.
const AHEAD: i64 = 10 * 60 * 1000;

/// One page to scrape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// The `job` label: the exporter's name.
    pub job: Arc<str>,
    /// The `instance` label: host and port.
    pub instance: Arc<str>,
    /// The exporter.
    pub upstream: Upstream,
    /// What the exporter is shown, if it wants to be shown something.
    pub credential: Option<CredentialSlot>,
    /// The page's path, with a leading slash, and its query.
    pub path: Box<str>,
    /// How often.
    pub interval: Duration,
    /// How long one scrape may take; at most the interval is sensible.
    pub timeout: Duration,
    /// Largest page, in bytes.
    pub max_body: usize,
}

/// Where scraped samples go.
#[derive(Clone, Debug)]
pub(crate) struct Destination {
    /// Which series are worth storing.
    pub keep: Arc<KeepList>,
    /// Where they are stored.
    pub spool: Spool,
    /// What counts them.
    pub metrics: Metrics,
}

/// Scrapes all targets, each at its own interval, until `shutdown`.
pub(crate) async fn run(targets: Vec<Target>, destination: Destination, shutdown: CancellationToken) {
    let mut scrapers = JoinSet::new();
    for target in targets {
        let scraper = Scraper { target, destination: destination.clone(), known: HashSet::new() };
        let shutdown = shutdown.clone();
        scrapers.spawn(scraper.run(shutdown));
    }
    while scrapers.join_next().await.is_some() {}
}

/// Why a scrape failed, as a metric says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Failure(&'static str);

struct Scraper {
    target: Target,
    destination: Destination,
    /// The kept series of the scrape before, to tell which are gone. Those that bring their own time are not here:
    /// their exporter answers for how old they are.
    known: HashSet<Labels>,
}

struct Page {
    text: String,
    format: samples::Format,
}

impl Scraper {
    async fn run(mut self, shutdown: CancellationToken) {
        let mut ticks = tokio::time::interval(self.target.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let fetched = async {
                ticks.tick().await;
                let now = clock::now();
                let began = clock::monotonic();
                let fetched = tokio::time::timeout(self.target.timeout, self.fetch(now)).await;
                (now, fetched.unwrap_or(Err(Failure("timeout"))), began.elapsed().as_secs_f64())
            };
            // a page may be given up at any moment, but what is being stored is also counted
            let Some((now, fetched, seconds)) = shutdown.run_until_cancelled(fetched).await else { return };
            self.take(now, fetched, seconds).await;
        }
    }

    async fn take(&mut self, now: Timestamp, fetched: Result<Page, Failure>, seconds: f64) {
        let yielded = fetched.and_then(|page| {
            let mut harvest = Harvest::new(&self.target, &self.destination.keep, now);
            match samples::for_each_sample(&page.text, page.format, |line| harvest.add(line)) {
                Ok(()) => Ok(harvest),
                Err(problem) => {
                    tracing::warn!(job = &*self.target.job, error = %problem, "an exporter's page cannot be read");
                    Err(Failure("format"))
                }
            }
        });
        let (mut harvest, up) = match yielded {
            Ok(harvest) => (harvest, 1.0),
            Err(Failure(reason)) => {
                self.destination.metrics.scrapes_failed.get_or_create(&Reason { reason }).inc();
                (Harvest::new(&self.target, &self.destination.keep, now), 0.0)
            }
        };
        for gone in self.known.difference(&harvest.seen) {
            harvest.builder.push(&gone.iter().collect::<Vec<_>>(), &[Sample::stale(harvest.at)]);
        }
        let scraped = harvest.scraped as f64;
        for (name, value) in [("up", up), ("scrape_duration_seconds", seconds), ("scrape_samples_scraped", scraped)] {
            harvest.add_own(name, value);
        }
        self.known = self.store(harvest).await;
    }

    /// Stores what was harvested; returns the series to compare the next scrape with.
    async fn store(&self, harvest: Harvest<'_>) -> HashSet<Labels> {
        let Harvest { builder, seen, kept, not_kept, invalid, ahead, .. } = harvest;
        let metrics = &self.destination.metrics;
        metrics.drop_samples("invalid_series", invalid);
        metrics.drop_samples("too_far_ahead", ahead);
        if builder.samples() > 0 {
            if let Err(problem) = self.destination.spool.append(builder.finish()).await {
                tracing::warn!(job = &*self.target.job, error = %problem, "a scrape could not be stored");
                metrics.drop_samples("spool", kept + not_kept);
                // what is gone has to be said again, and what is new was not seen yet
                return self.known.union(&seen).cloned().collect();
            }
            metrics.batches.inc();
        }
        metrics.accepted.inc_by(kept + not_kept);
        metrics.drop_samples("not_kept", not_kept);
        seen
    }

    async fn fetch(&self, now: Timestamp) -> Result<Page, Failure> {
        let target = &self.target;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static(ACCEPT));
        headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("wicketgate/", env!("CARGO_PKG_VERSION"))));
        if let Some(slot) = &target.credential {
            let credential = slot.usable(now).ok_or(Failure("no_credential"))?;
            headers.insert(header::AUTHORIZATION, credential.authorization.clone());
        }
        let sent =
            target.upstream.send(Worker::BACKGROUND, Method::GET, &target.path, headers, Body::Empty, target.timeout);
        let (head, body) = sent.await.map_err(|_| Failure("unreachable"))?.into_parts();
        if head.status != StatusCode::OK {
            return Err(Failure("status"));
        }
        let body = read_bounded(body, target.max_body, target.timeout).await.map_err(|_| Failure("body"))?;
        let media = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let text = String::from_utf8(body.into()).map_err(|_| Failure("format"))?;
        Ok(Page { text, format: samples::Format::of(media) })
    }
}

/// What one scrape yields.
struct Harvest<'a> {
    target: &'a Target,
    keep: &'a KeepList,
    builder: BatchBuilder,
    /// The kept series that take the scrape's time.
    seen: HashSet<Labels>,
    at: i64,
    scraped: u64,
    kept: u64,
    not_kept: u64,
    invalid: u64,
    ahead: u64,
}

impl<'a> Harvest<'a> {
    fn new(target: &'a Target, keep: &'a KeepList, now: Timestamp) -> Self {
        let at = now.as_millisecond();
        let caller: Arc<str> = format!("scrape:{}", target.job).into();
        let builder = BatchBuilder::new(batch_id(now), at, &caller);
        let seen = HashSet::new();
        Self { target, keep, builder, seen, at, scraped: 0, kept: 0, not_kept: 0, invalid: 0, ahead: 0 }
    }

    fn add(&mut self, line: &samples::PageSample<'_>) {
        self.scraped += 1;
        let own = |name: &str| line.labels.iter().any(|(known, _)| known == name);
        let mut labels: BTreeSet<(Cow<'_, str>, &str)> = BTreeSet::new();
        let mut given = 0;
        for (name, value) in line.labels.iter().filter(|(_, value)| !value.is_empty()) {
            let name = match &**name {
                clash @ ("job" | "instance") => {
                    let mut renamed = format!("exported_{clash}");
                    while own(&renamed) {
                        renamed.insert_str(0, "exported_");
                    }
                    renamed.into()
                }
                other => Cow::Borrowed(other),
            };
            labels.insert((name, value));
            given += 1;
        }
        labels.insert((METRIC_NAME.into(), &line.metric));
        labels.insert(("instance".into(), &self.target.instance));
        labels.insert(("job".into(), &self.target.job));
        let names: BTreeSet<_> = labels.iter().map(|(name, _)| name).collect();
        if names.len() != given + 3 {
            self.invalid += 1;
            return;
        }
        let labels: Vec<LabelRef<'_>> = labels.iter().map(|(name, value)| (&**name, *value)).collect();
        if self.add_series(&labels, line.value, line.timestamp) && line.timestamp.is_none() {
            self.seen.insert(Labels::new(&labels));
        }
    }

    /// What the scrape itself is worth a sample for. It never ends: the next scrape says it anew.
    fn add_own(&mut self, metric: &str, value: f64) {
        let labels = [(METRIC_NAME, metric), ("instance", &*self.target.instance), ("job", &*self.target.job)];
        self.add_series(&labels, value, None);
    }

    /// Adds a series if it is kept; says whether it was.
    fn add_series(&mut self, labels: &[LabelRef<'_>], value: f64, timestamp: Option<i64>) -> bool {
        if !self.keep.keeps(labels) {
            self.not_kept += 1;
        } else if timestamp.is_some_and(|at| at > self.at.saturating_add(AHEAD)) {
            self.ahead += 1;
        } else {
            self.kept += 1;
            self.builder.push(labels, &[Sample { timestamp: timestamp.unwrap_or(self.at), value }]);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests;
