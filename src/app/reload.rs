//! A new configuration takes the old one's place whole, or not at all.

use std::{os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration};

use prometheus_client::metrics::gauge::Gauge;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{Shared, Startup, build};
use crate::{clock, config};

/// Looking costs a few microseconds. Being told by the kernel would cost more: it tells of each audit line too when the
/// log lies beside the configuration, which was a fifth of the CPU time of a request.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Hears SIGHUP from here on. Call it before the configuration is read: SIGHUP ends a program that does not listen for
/// it.
pub(super) fn hangups() -> Option<Signal> {
    let unheard = |error| tracing::warn!(%error, "SIGHUP cannot be heard; reload by changing a file");
    signal(SignalKind::hangup()).map_err(unheard).ok()
}

/// Reloads on SIGHUP and when a file of the configuration changes, until `stop`.
pub(super) async fn watch(
    shared: Arc<Shared>,
    settings: Startup,
    mut hangups: Option<Signal>,
    stop: CancellationToken,
) {
    let (successful, at) = shared.telemetry.register(|registry| {
        let (successful, at) = (Gauge::<i64>::default(), Gauge::<i64>::default());
        registry.register(
            "config_last_reload_successful",
            "Whether the configuration that was read last is the one that is served",
            successful.clone(),
        );
        registry.register(
            "config_last_reload_success_timestamp_seconds",
            "When the configuration that is served was read",
            at.clone(),
        );
        (successful, at)
    });
    successful.set(1);
    at.set(clock::now().as_second());

    let mut seen = as_served(&shared).await;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = async { hangups.as_mut()?.recv().await } => {}
            () = changed(&shared, &mut seen) => {}
        }
        match reload(&shared, &settings) {
            Ok(()) => {
                seen = as_served(&shared).await;
                shared.telemetry.set_healthy("configuration");
                successful.set(1);
                at.set(clock::now().as_second());
                tracing::info!("the configuration was reloaded");
            }
            Err(problems) => {
                // what was refused need not be looked at again until it changes
                seen = look(&shared).await;
                successful.set(0);
                tracing::error!(problems, "the new configuration is refused; the old one stays");
                shared.telemetry.set_unhealthy("configuration", false, format!("the new one is refused: {problems}"));
            }
        }
    }
}

fn reload(shared: &Shared, settings: &Startup) -> Result<(), String> {
    let config = config::load(&shared.file, &shared.clients).map_err(|problems| problems.to_string())?;
    let wanted = Startup::of(&config);
    if wanted != *settings {
        return Err("addresses, `tls = false`, workers, max_connections, drain, the audit file, the spool and [grants] change only \
                    with a restart"
            .into());
    }
    let before = shared.serving.load();
    let next = build::build(
        config,
        Some(&before.parts),
        &shared.telemetry,
        &shared.metrics,
        &shared.audit,
        shared.data.as_ref(),
        shared.grants.as_ref(),
    );
    let (gone, stays) = (before.parts.names(), next.parts.names());
    let next = Arc::new(next);
    shared.serving.store(next.clone());
    before.parts.retire(&next.parts);
    // the trouble of what is no longer there is nobody's
    gone.iter().filter(|part| !stays.contains(part)).for_each(|part| shared.telemetry.set_healthy(part));
    Ok(())
}

/// Waits until the configuration's files differ from what was `seen` and have stayed so for a moment: editors and
/// Kubernetes change them in several steps, which count as one.
async fn changed(shared: &Arc<Shared>, seen: &mut Appearance) {
    let mut before = seen.clone();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let now = look(shared).await;
        if now != *seen && now == before {
            *seen = now;
            return;
        }
        before = now;
    }
}

/// What tells one state of the files from another: for each its length, its time of change in nanoseconds, its inode.
type Appearance = Vec<(PathBuf, Option<(u64, i128, u64)>)>;

/// The kernel stamps files with a clock that may lag by one tick.
const TICK: Duration = Duration::from_millis(10);

/// How the files looked when what is served was read; nothing where one has changed since, so that the next look
/// differs.
async fn as_served(shared: &Arc<Shared>) -> Appearance {
    let read_at = shared.serving.load().read_at.as_nanosecond() - TICK.as_nanos().cast_signed();
    let seen = look(shared).await;
    if seen.iter().any(|(_, told)| told.is_some_and(|(_, changed, _)| changed >= read_at)) { Vec::new() } else { seen }
}

/// How the files look now.
async fn look(shared: &Arc<Shared>) -> Appearance {
    let shared = shared.clone();
    let looked = tokio::task::spawn_blocking(move || {
        let serving = shared.serving.load();
        let mut paths: Vec<PathBuf> = serving.files.clone();
        for folder in serving.files.iter().filter(|path| path.is_dir()) {
            paths.extend(std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        paths.sort();
        let appearance = |path: PathBuf| {
            let metadata = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file);
            let told = metadata.map(|m| {
                let changed = i128::from(m.mtime()) * 1_000_000_000 + i128::from(m.mtime_nsec());
                (m.len(), changed, m.ino())
            });
            (path, told)
        };
        paths.into_iter().map(appearance).collect()
    });
    // it cannot panic; if it were cut off at a stop, nothing has changed
    looked.await.unwrap_or_default()
}
