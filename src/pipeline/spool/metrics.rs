//! Metrics of the spool, `wicketgate_spool_*`.

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use crate::telemetry::Telemetry;

/// The spool's own metrics.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics {
    pub(super) batches: Gauge,
    pub(super) bytes: Gauge,
    pub(super) commits: Counter,
    pub(super) failures: Counter,
    pub(super) expired: Counter,
    pub(super) broken: Counter,
}

impl Metrics {
    /// Registers `wicketgate_spool_*`.
    #[must_use]
    pub(crate) fn register(telemetry: &Telemetry) -> Self {
        let metrics = Self::default();
        telemetry.register(|registry| {
            registry.register("spool_batches", "Batches on disk, delivered or not", metrics.batches.clone());
            registry.register("spool_bytes", "What they take on disk", metrics.bytes.clone());
            registry.register("spool_commits", "Synced groups of appends", metrics.commits.clone());
            registry.register("spool_failures", "Groups the disk or the store refused", metrics.failures.clone());
            let help = "Samples deleted undelivered because every window had passed them";
            registry.register("spool_samples_expired", help, metrics.expired.clone());
            registry.register("spool_batches_broken", "Stored batches that cannot be read", metrics.broken.clone());
        });
        metrics
    }
}
