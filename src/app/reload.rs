//! Reload: a new configuration replaces the served one as a whole, or not at all.
//!
//! Promises: a configuration with problems changes nothing; `/readyz` warns of it and
//! `wicketgate_config_last_reload_successful` is 0. The new gate is served before parts of the old one are closed.

use std::sync::Arc;

use prometheus_client::{metrics::gauge::Gauge, registry::Registry};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{build::build, files, serving::Shared, startup::FixedSettings};
use crate::{clock, config};

const COMPONENT: &str = "configuration";

/// Installs the SIGHUP handler. Call it before the configuration is read: SIGHUP ends a process without a handler.
pub(super) fn sighups() -> Option<Signal> {
    let failed = |error| tracing::warn!(%error, "SIGHUP cannot be handled; change a file to reload the configuration");
    signal(SignalKind::hangup()).map_err(failed).ok()
}

/// Reloads on SIGHUP and when a file of the configuration changes, until `stop`.
pub(super) async fn watch(
    shared: Arc<Shared>,
    fixed: FixedSettings,
    mut sighups: Option<Signal>,
    stop: CancellationToken,
) {
    let telemetry = &shared.process.telemetry;
    let metrics = telemetry.register(ReloadMetrics::register);
    metrics.succeeded();
    let mut last = files::as_read(&shared).await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = async { sighups.as_mut()?.recv().await } => {}
            () = files::changed(&shared, &mut last) => {}
        }
        match reload(&shared, &fixed) {
            Ok(()) => {
                last = files::as_read(&shared).await;
                telemetry.set_healthy(COMPONENT);
                metrics.succeeded();
                tracing::info!("the configuration was reloaded");
            }
            Err(problems) => {
                // the refused files are read again only after another change
                last = files::current(&shared).await;
                metrics.failed();
                tracing::error!(problems, "the new configuration is refused; the old one is still served");
                telemetry.set_unhealthy(COMPONENT, false, format!("the new one is refused: {problems}"));
            }
        }
    }
}

fn reload(shared: &Shared, fixed: &FixedSettings) -> Result<(), String> {
    let config = config::load(&shared.file, &shared.clients).map_err(|problems| problems.to_string())?;
    if FixedSettings::of(&config) != *fixed {
        return Err(
            "addresses, `tls = false`, workers, max_connections, drain, the audit file, the spool and [grants] \
                    can only be changed with a restart"
                .into(),
        );
    }
    let before = shared.serving.load();
    let next = Arc::new(build(config, &before.background, &shared.process));
    shared.serving.store(next.clone());
    before.background.retire(&next.background);
    // a component that is gone must not stay unhealthy
    let remaining = next.background.components();
    let gone = before.background.components().into_iter().filter(|component| !remaining.contains(component));
    gone.for_each(|component| shared.process.telemetry.set_healthy(&component));
    Ok(())
}

struct ReloadMetrics {
    successful: Gauge,
    succeeded_at: Gauge,
}

impl ReloadMetrics {
    fn register(registry: &mut Registry) -> Self {
        let metrics = Self { successful: Gauge::default(), succeeded_at: Gauge::default() };
        registry.register(
            "config_last_reload_successful",
            "Whether the configuration that was read last is the one that is served",
            metrics.successful.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration that is served was read",
            metrics.succeeded_at.clone(),
        );
        metrics
    }

    fn succeeded(&self) {
        self.successful.set(1);
        self.succeeded_at.set(clock::now().as_second());
    }

    fn failed(&self) {
        self.successful.set(0);
    }
}
