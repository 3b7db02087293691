//! A new configuration takes the old one's place whole, or not at all.

use std::{path::Path, sync::Arc, time::Duration};

use notify::{RecursiveMode, Watcher};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};
use tokio_util::sync::CancellationToken;

use super::{Shared, Startup, build};
use crate::{clock, config, telemetry::chain};

/// Editors and `kubectl` change a file in several steps; they count as one.
const SETTLE: Duration = Duration::from_millis(200);

/// Reloads on SIGHUP and when a file of the configuration changes, until `stop`.
pub(super) async fn watch(shared: Arc<Shared>, settings: Startup, stop: CancellationToken) {
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

    let (changed, mut changes) = mpsc::channel(1);
    let _watcher = watch_files(&shared.file, changed).map_err(|error| {
        tracing::warn!(%error, "files cannot be watched; reload with SIGHUP");
    });
    let mut hangup = signal(SignalKind::hangup()).ok();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(()) = changes.recv() => {}
            Some(()) = async { hangup.as_mut()?.recv().await } => {}
        }
        // let the writer finish, then take what it did as one change
        tokio::time::sleep(SETTLE).await;
        while changes.try_recv().is_ok() {}
        match reload(&shared, &settings) {
            Ok(()) => {
                shared.telemetry.well("configuration");
                successful.set(1);
                at.set(clock::now().as_second());
                tracing::info!("the configuration was reloaded");
            }
            Err(problems) => {
                successful.set(0);
                tracing::error!(problems, "the new configuration is refused; the old one stays");
                shared.telemetry.trouble("configuration", false, format!("the new one is refused: {problems}"));
            }
        }
    }
}

fn reload(shared: &Shared, settings: &Startup) -> Result<(), String> {
    let config = config::load(&shared.file, &shared.clients).map_err(|problems| problems.to_string())?;
    let wanted = Startup::of(&config);
    if wanted != *settings {
        return Err("addresses, `tls = false`, workers, max_connections, drain, the audit file and the spool change only with a restart"
            .into());
    }
    let before = shared.serving.load();
    let next = build::build(config, Some(&before.parts), &shared.telemetry, &shared.metrics, &shared.audit, shared.data.as_ref());
    shared.serving.store(Arc::new(next));
    Ok(())
}

/// Watches the configuration's folder and the policies in it. Folders, because editors and Kubernetes replace files.
fn watch_files(file: &Path, changed: mpsc::Sender<()>) -> Result<notify::RecommendedWatcher, notify::Error> {
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let matters = |path: &std::path::PathBuf| {
            let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
            // the data that a gate writes beside its configuration must not reload it
            matches!(extension, "toml" | "cedar" | "cedarschema" | "pem" | "crt" | "key") || path.ends_with("..data")
        };
        match event {
            Ok(event) if !event.kind.is_access() && event.paths.iter().any(matters) => {
                // a change that is not taken yet is as good as this one
                let _ = changed.try_send(());
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(error = chain(&error), "a change of a file may have been missed"),
        }
    })?;
    let folder = file.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
    watcher.watch(folder, RecursiveMode::NonRecursive)?;
    for entry in std::fs::read_dir(folder)?.flatten() {
        if entry.path().is_dir() && entry.file_name() != "spool" {
            watcher.watch(&entry.path(), RecursiveMode::NonRecursive)?;
        }
    }
    Ok(watcher)
}
