//! Composes the data path: remote write and scrapes into the spool, the spool into forecasts, forecasts onto a page.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::reuse::{Reused, reuse};
use crate::{
    client::Upstream,
    config::{DataSettings, ForecastSettings, ScrapeSettings},
    gate::routes::{Exporter, Vertex},
    pipeline::{
        feedback::Predictions,
        ingest::{
            self,
            remote_write::RemoteWrite,
            scrape::{self, Destination, Target},
        },
        shape::keep::KeepList,
        sinks::vertex::{self, Forecast, Vertex as Sink},
        spool::{self, Spool},
    },
    telemetry::Telemetry,
};

/// How long a scrape may take at most; a shorter interval bounds it further.
const SCRAPE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
/// How long the spool may take to close when the gate stops.
const CLOSE_DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);

/// What of the data path lives as long as the process.
pub(super) struct DataPath {
    spool: Spool,
    ingest: ingest::Metrics,
    forecasts: vertex::Metrics,
    pub(super) predictions: Predictions,
}

/// Everything that a running pipeline was made from.
#[derive(Clone, PartialEq)]
pub(super) struct Plan {
    settings: DataSettings,
    targets: Vec<Target>,
    forecasts: Vec<Forecast>,
}

/// A running pipeline: the door for remote write, and tasks for the rest.
pub(super) type Pipeline = Reused<Plan, RemoteWrite>;

impl DataPath {
    /// Opens the spool.
    pub(super) async fn open(settings: &spool::Settings, telemetry: &Telemetry) -> Result<Self, spool::OpenError> {
        let settings = settings.clone();
        let metrics = spool::Metrics::register(telemetry);
        let opened = tokio::task::spawn_blocking(move || Spool::open(&settings, metrics)).await;
        let spool = opened.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))?;
        let ingest = ingest::Metrics::register(telemetry);
        let forecasts = vertex::Metrics::register(telemetry);
        Ok(Self { spool, ingest, forecasts, predictions: Predictions::new() })
    }

    /// Syncs what is queued and closes the store, so that the next start need not repair it. Later appends fail.
    pub(super) async fn close(&self) {
        match tokio::time::timeout(CLOSE_DEADLINE, self.spool.close()).await {
            Ok(()) => tracing::info!("the spool is closed"),
            Err(_) => {
                tracing::warn!(deadline = ?CLOSE_DEADLINE, "the spool did not close in time; the next start checks it")
            }
        }
    }

    /// The pipeline for `plan`: the running one if its plan is equal.
    pub(super) fn pipeline(&self, before: Option<&Arc<Pipeline>>, plan: Plan) -> Arc<Pipeline> {
        let keep = Arc::new(KeepList::new(plan.settings.keep.clone()));
        let destination = Destination { keep: keep.clone(), spool: self.spool.clone(), metrics: self.ingest.clone() };
        let sink =
            Sink::new(plan.forecasts.clone(), self.spool.clone(), self.predictions.clone(), self.forecasts.clone());
        let targets = plan.targets.clone();
        let make =
            |plan: &Plan| RemoteWrite::new(plan.settings.remote_write, keep, self.spool.clone(), self.ingest.clone());
        reuse(before, plan, make, |_| async move {
            // both end by being dropped with the pipeline: the spool knows what was delivered
            let never = CancellationToken::new();
            tokio::join!(scrape::run(targets, destination, never.clone()), sink.run(never));
        })
    }
}

impl Plan {
    pub(super) fn new(settings: DataSettings, exporters: &[Arc<Exporter>], vertex: Option<&Vertex>) -> Self {
        let targets = settings.scrapes.iter().filter_map(|scrape| target(scrape, &settings, exporters)).collect();
        let forecasts = settings.forecasts.iter().filter_map(|settings| forecast(settings, vertex?)).collect();
        Self { settings, targets, forecasts }
    }
}

fn target(scrape: &ScrapeSettings, settings: &DataSettings, exporters: &[Arc<Exporter>]) -> Option<Target> {
    let exporter = exporters.iter().find(|exporter| *exporter.name == *scrape.exporter)?;
    Some(Target {
        job: exporter.name.clone(),
        instance: exporter.upstream.authority().into(),
        upstream: exporter.upstream.clone(),
        credential: exporter.credential.clone(),
        path: scrape.path.as_deref().unwrap_or(&exporter.metrics_path).into(),
        interval: scrape.interval,
        timeout: scrape.interval.min(SCRAPE_DEADLINE),
        max_body: settings.remote_write.max_decoded,
    })
}

fn forecast(settings: &ForecastSettings, vertex: &Vertex) -> Option<Forecast> {
    let upstream: &Upstream = vertex.upstreams.get(settings.location.as_str())?;
    Some(Forecast {
        name: settings.name.as_str().into(),
        selector: settings.selector.clone(),
        endpoint: settings.endpoint.as_str().into(),
        upstream: upstream.clone(),
        credential: vertex.own.clone()?,
        step: settings.step,
        context: settings.context,
        min_context: settings.min_context,
        horizon: settings.horizon,
        interval: settings.interval,
        max_series: settings.max_series,
        timeout: vertex.timeout,
    })
}
