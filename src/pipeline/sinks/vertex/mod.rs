//! Forecasts by Vertex AI: windows of the spooled series go to `:predict`, what comes back goes to `feedback`.
//!
//! Promises:
//! - Every acknowledged sample that a forecast selects is put into a window and sent with it, after a kill -9 too:
//!   windows are rebuilt from the spool, which keeps batches for as long as the longest window.
//! - A batch counts as delivered when every forecast that took a sample of it has had a round that reached the end.
//! - An endpoint that is down is asked again with growing pauses; each forecast has a task of its own, so that none
//!   waits for another. A series whose request the model refuses again and again is found by halves and left out of
//!   the round, and the others go on.
//! - Without a usable credential nothing is sent.
//!
//! It must never write what an endpoint answered into a log whole, nor follow a redirect.

mod round;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    client::Upstream,
    clock,
    pipeline::{
        feedback::Predictions,
        shape::windows::{self, Observed, Windows},
        spool::{Released, Sequence, Spool},
    },
    secret::CredentialSlot,
    series::{Batch, Selector},
    telemetry::Telemetry,
};

/// Bytes of batches read from the spool at a time.
const PAGE: usize = 1 << 20;
/// How long to gather batches once there are some: a read for each append would cost more than the batches.
const GATHER: Duration = Duration::from_millis(50);
/// How often the spool is told what it may delete. Each time costs it a sync.
const RELEASE_EVERY: Duration = Duration::from_secs(1);
/// How often at most it is told when only time has passed.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// One forecast: which series, how they are resampled, who is asked, how often.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Forecast {
    /// Its name in metrics.
    pub name: Arc<str>,
    /// The series it is about.
    pub selector: Selector,
    /// `projects/P/locations/L/endpoints/E`, without a leading slash.
    pub endpoint: Box<str>,
    /// Vertex AI at the endpoint's location.
    pub upstream: Upstream,
    /// What the upstream is shown: the credential of inference.
    pub credential: CredentialSlot,
    /// Time between two points of a window; at least a millisecond.
    pub step: Duration,
    /// Points sent at most.
    pub context: usize,
    /// Series with fewer points wait.
    pub min_context: usize,
    /// Points asked for.
    pub horizon: usize,
    /// How often each series is forecast.
    pub interval: Duration,
    /// Series forecast at most.
    pub max_series: usize,
    /// How long the endpoint may take for one answer.
    pub timeout: Duration,
}

impl Forecast {
    fn step_millis(&self) -> i64 {
        i64::try_from(self.step.as_millis()).unwrap_or(i64::MAX).max(1)
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByForecast {
    forecast: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByReason {
    forecast: String,
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct ByCode {
    forecast: String,
    code: String,
}

/// Counters of all forecasts; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    taken: Family<ByForecast, Counter>,
    dropped: Family<ByReason, Counter>,
    sent: Family<ByForecast, Counter>,
    requests: Family<ByCode, Counter>,
    series: Family<ByForecast, Gauge>,
    refused: Family<ByForecast, Counter>,
}

impl Metrics {
    /// Registers `wicketgate_forecast_*`.
    #[must_use]
    pub(crate) fn register(telemetry: &Telemetry) -> Self {
        let metrics = Self::default();
        telemetry.register(|registry| {
            let help = "Samples put into a window; after a restart those still in the spool are put in again";
            registry.register("forecast_samples_taken", help, metrics.taken.clone());
            let help = "Samples that a forecast selected and that became no point, by reason";
            registry.register("forecast_samples_dropped", help, metrics.dropped.clone());
            let help = "Points sent in requests that were answered with a forecast";
            registry.register("forecast_samples_sent", help, metrics.sent.clone());
            let help = "Requests for forecasts, by HTTP status or what else became of them";
            registry.register("forecast_requests", help, metrics.requests.clone());
            registry.register("forecast_series", "Series that have a window", metrics.series.clone());
            let help = "Series left out of a round because the endpoint refused them alone";
            registry.register("forecast_series_refused", help, metrics.refused.clone());
        });
        metrics
    }
}

/// A forecast's windows, and how far they have been sent.
#[derive(Debug)]
struct State {
    windows: Windows,
    /// The first batch with a sample in the windows that no finished round has sent.
    unsent: Option<Sequence>,
    /// The same, counted from the beginning of the round that is under way.
    unsent_since_round: Option<Sequence>,
}

impl State {
    fn touch(&mut self, sequence: Sequence) {
        self.unsent.get_or_insert(sequence);
        self.unsent_since_round.get_or_insert(sequence);
    }

    fn begin_round(&mut self) {
        self.unsent_since_round = None;
    }

    fn finish_round(&mut self) {
        self.unsent = self.unsent_since_round;
    }
}

/// A forecast with its state, shared between the task that reads the spool and the one that asks the endpoint.
#[derive(Debug)]
struct Running {
    forecast: Forecast,
    state: Mutex<State>,
}

impl Running {
    fn with_state<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The sink: all forecasts over one spool.
#[derive(Debug)]
pub(crate) struct Vertex {
    forecasts: Vec<Arc<Running>>,
    spool: Spool,
    predictions: Predictions,
    metrics: Metrics,
}

impl Vertex {
    /// A sink for these forecasts; nothing runs yet.
    #[must_use]
    pub(crate) fn new(forecasts: Vec<Forecast>, spool: Spool, predictions: Predictions, metrics: Metrics) -> Self {
        let running = |forecast: Forecast| {
            let Forecast { context, max_series, .. } = forecast;
            let settings = windows::Settings { step: forecast.step_millis(), context, max_series };
            let state = State { windows: Windows::new(settings), unsent: None, unsent_since_round: None };
            Arc::new(Running { forecast, state: Mutex::new(state) })
        };
        Self { forecasts: forecasts.into_iter().map(running).collect(), spool, predictions, metrics }
    }

    /// Reads the spool and asks the endpoints until `shutdown`. What is not delivered by then is, after the next start.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        self.predictions.retain_forecasts(|name| self.forecasts.iter().any(|running| *running.forecast.name == *name));
        let (caught_up, wait_for_replay) = watch::channel(false);
        let mut rounds = JoinSet::new();
        for running in &self.forecasts {
            let asker = round::Asker {
                running: Arc::clone(running),
                predictions: self.predictions.clone(),
                metrics: self.metrics.clone(),
            };
            rounds.spawn(asker.run(wait_for_replay.clone(), shutdown.clone()));
        }
        // a task that is dropped in the middle of a request is one that is asked again after the next start
        shutdown.run_until_cancelled(self.read_spool(caught_up)).await;
        while rounds.join_next().await.is_some() {}
    }

    /// Fills the windows from the spool, from the oldest batch that it keeps.
    async fn read_spool(&self, caught_up: watch::Sender<bool>) {
        let mut cursor = 0;
        // what was here before: senders may never leave a moment without a new batch
        let replayed = self.spool.last_sequence();
        let mut told: Option<(Released, clock::Instant)> = None;
        loop {
            if self.forecasts.is_empty() {
                cursor = self.spool.last_sequence();
            } else {
                match self.spool.read_after(cursor, PAGE).await {
                    Ok((batches, end)) => {
                        self.take_in(&batches);
                        let done = end >= replayed || end == cursor;
                        caught_up.send_if_modified(|known| done && !std::mem::replace(known, true));
                        cursor = end;
                    }
                    Err(problem) => {
                        tracing::error!(error = %problem, "windows cannot be filled");
                        tokio::time::sleep(RELEASE_EVERY).await;
                    }
                }
            }
            self.release(cursor, &mut told).await;
            if self.spool.last_sequence() <= cursor {
                // a round that ends makes batches deletable though no new one comes: look again now and then
                if let Ok(false) = tokio::time::timeout(RELEASE_EVERY, self.spool.wait_beyond(cursor)).await {
                    return;
                }
                tokio::time::sleep(GATHER).await;
            }
        }
    }

    /// Tells the spool what is no longer needed: soon when more was delivered, and now and then as time passes.
    async fn release(&self, cursor: Sequence, told: &mut Option<(Released, clock::Instant)>) {
        let released = self.released(cursor);
        let due = told.is_none_or(|(last, at)| {
            let wait =
                if last.delivered == released.delivered { SWEEP_EVERY.min(self.span() / 16) } else { RELEASE_EVERY };
            at.elapsed() >= wait.max(RELEASE_EVERY)
        });
        if due && self.spool.depth().batches > 0 {
            self.spool.release(released).await;
            *told = Some((released, clock::monotonic()));
        }
    }

    /// How far back the longest window reaches.
    fn span(&self) -> Duration {
        let span = |running: &Arc<Running>| running.with_state(|state| state.windows.span());
        let longest = self.forecasts.iter().map(span).max().unwrap_or(0);
        Duration::from_millis(u64::try_from(longest).unwrap_or(0))
    }

    fn released(&self, cursor: Sequence) -> Released {
        let now = clock::now().as_millisecond();
        let unsent = |running: &Arc<Running>| running.with_state(|state| state.unsent);
        let first_unsent = self.forecasts.iter().filter_map(unsent).min();
        let delivered = first_unsent.map_or(cursor, |sequence| sequence.saturating_sub(1).min(cursor));
        let oldest = now.saturating_sub(i64::try_from(self.span().as_millis()).unwrap_or(i64::MAX));
        // without forecasts nothing waits to be sent, so that nothing can expire
        let expire_before = if self.forecasts.is_empty() { i64::MIN } else { oldest };
        Released { delivered, keep_from: oldest, expire_before }
    }

    fn take_in(&self, batches: &[(Sequence, Batch)]) {
        for running in &self.forecasts {
            let mut tally = Tally::default();
            running.with_state(|state| {
                for (sequence, batch) in batches {
                    if let Err(problem) = take_in(&running.forecast.selector, state, *sequence, batch, &mut tally) {
                        tracing::error!(sequence, error = %problem, "a spooled batch was passed over in part");
                    }
                }
            });
            tally.count(&running.forecast.name, &self.metrics);
        }
    }
}

fn take_in(
    selector: &Selector,
    state: &mut State,
    sequence: Sequence,
    batch: &Batch,
    tally: &mut Tally,
) -> Result<(), crate::series::BrokenBatch> {
    let before = tally.taken;
    let outcome = batch.for_each_series(|labels, samples| {
        if selector.matches(labels) {
            state.windows.observe(labels, samples, |observed| tally.add(observed));
        }
    });
    if tally.taken > before {
        state.touch(sequence);
    }
    outcome
}

/// What became of the samples of a page.
#[derive(Debug, Default)]
struct Tally {
    taken: u64,
    too_old: u64,
    too_many_series: u64,
    not_finite: u64,
}

impl Tally {
    fn add(&mut self, observed: Observed) {
        match observed {
            Observed::Taken => self.taken += 1,
            Observed::TooOld => self.too_old += 1,
            Observed::TooManySeries => self.too_many_series += 1,
            Observed::NotFinite => self.not_finite += 1,
            // the end of a series is news and no loss; what is known was counted when it came first
            Observed::Ended | Observed::Known => {}
        }
    }

    fn count(&self, forecast: &str, metrics: &Metrics) {
        if self.taken > 0 {
            metrics.taken.get_or_create(&ByForecast { forecast: forecast.to_owned() }).inc_by(self.taken);
        }
        let dropped =
            [("too_old", self.too_old), ("too_many_series", self.too_many_series), ("not_finite", self.not_finite)];
        for (reason, count) in dropped.into_iter().filter(|(_, count)| *count > 0) {
            metrics.dropped.get_or_create(&ByReason { forecast: forecast.to_owned(), reason }).inc_by(count);
        }
    }
}

#[cfg(test)]
mod tests;
