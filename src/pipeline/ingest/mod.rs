//! The doors by which samples enter: remote write, and the gate's own scrapes.
//!
//! Promises: what is acknowledged is in the spool, synced, or was left out by the keep-list; and whatever is not
//! stored is counted with its reason. The caller's name goes with every batch. It must never answer 429 or 401 for
//! its own trouble: Prometheus throws samples away on those, and keeps them on 503.
//!
//! How the counters add up: `accepted` counts the samples whose sender was told that they arrived. Of these,
//! `dropped{reason="not_kept"}` matched no keep rule, and the rest are in the spool. Every other `reason` counts what
//! was not accepted.

pub(crate) mod remote_write;
pub(crate) mod scrape;
mod wire;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};

use crate::telemetry::Telemetry;

/// Why something was not stored or not accepted; a closed set.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Counters of both doors; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    accepted: Counter,
    dropped: Family<Reason, Counter>,
    batches: Counter,
    refused: Family<Reason, Counter>,
    scrapes_failed: Family<Reason, Counter>,
}

impl Metrics {
    /// Registers `wicketgate_ingest_*`.
    #[must_use]
    pub(crate) fn register(telemetry: &Telemetry) -> Self {
        let metrics = Self::default();
        telemetry.register(|registry| {
            let help = "Samples whose sender was told that they arrived";
            registry.register("ingest_samples_accepted", help, metrics.accepted.clone());
            let help = "Samples not stored; those with the reason not_kept are among the accepted";
            registry.register("ingest_samples_dropped", help, metrics.dropped.clone());
            registry.register("ingest_batches", "Batches stored in the spool", metrics.batches.clone());
            let help = "Remote write requests refused whole";
            registry.register("ingest_requests_refused", help, metrics.refused.clone());
            let help = "The gate's own scrapes that failed";
            registry.register("ingest_scrapes_failed", help, metrics.scrapes_failed.clone());
        });
        metrics
    }

    fn drop_samples(&self, reason: &'static str, count: u64) {
        if count > 0 {
            self.dropped.get_or_create(&Reason { reason }).inc_by(count);
        }
    }
}
