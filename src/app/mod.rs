//! The application: start, reload and drain of the gate and its background tasks.
//!
//! 1. *Start* ([`App::start`]): load the configuration, bind the sockets, open what lives as long as the process, build
//!    the gate (`build`), serve it.
//! 2. *Reload* (`reload`): load the configuration again, build a gate that reuses the parts whose settings are equal,
//!    serve it, close the parts that it did not reuse.
//! 3. *Drain* ([`App::stop`]): accept nothing new, let open requests end within `drain`, abort the rest, flush the
//!    audit log.
//!
//! Promises: a configuration with problems changes nothing. Every background task ends with the part that it works for.
//!
//! Each worker is a thread with a single-threaded runtime and listening sockets of its own, for requests; the caller's
//! runtime does everything else. `docs/performance.md` has the measurement.

mod admin;
mod authentication;
mod background;
mod build;
mod credentials;
mod data;
mod files;
mod issuers;
mod lookup;
mod reload;
mod replay;
mod reuse;
mod serving;
mod startup;
mod token_issuance;
mod upstreams;
mod worker;

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    background::Background,
    build::build,
    data::DataPath,
    serving::{Process, Shared},
    startup::FixedSettings,
    worker::{Shutdown, Worker},
};
pub use self::{
    lookup::look_up,
    replay::{ReplayError, ReplaySummary, replay},
    startup::StartError,
};
use crate::{
    client::Clients,
    config::{self, Config},
    gate::{audit::Log, credentials::CallerMetrics, grants::Grants, proxy::Metrics},
    telemetry::Telemetry,
};

/// The running program.
pub struct App {
    shared: Arc<Shared>,
    gate_addresses: Vec<(SocketAddr, bool)>,
    admin_address: SocketAddr,
    workers: Vec<Worker>,
    background: JoinSet<()>,
    shutdown: Shutdown,
    drain: Duration,
}

impl App {
    /// Loads the configuration and serves it. Call it on the runtime for background work.
    ///
    /// # Errors
    /// Every problem of the configuration, or the socket or file that cannot be used.
    pub async fn start(file: &Path) -> Result<Self, StartError> {
        let clients = Clients::default();
        let sighups = reload::sighups();
        let config = config::load(file, &clients)?;
        let fixed = FixedSettings::of(&config);
        let audit = Log::open(&config.audit.file)?;
        let sockets = fixed.bind()?;
        let process = open(&config, audit).await?;
        let serving = ArcSwap::from_pointee(build(config, &Background::default(), &process));
        let shared = Arc::new(Shared { file: file.to_owned(), clients, process, serving });
        register_ages(&shared);

        let shutdown = Shutdown::default();
        let stop = &shutdown.stop;
        let connections = Arc::new(Semaphore::new(fixed.max_connections));
        let workers = worker::start(sockets.gate, &shared, &connections, &shutdown).map_err(StartError::Worker)?;
        let mut background = JoinSet::new();
        background.spawn(admin::serve(sockets.admin, shared.clone(), stop.clone()));
        background.spawn(flush_audit(shared.clone(), stop.clone()));
        background.spawn(maintain_grants(shared.clone(), stop.clone()));
        background.spawn(reload::watch(shared.clone(), fixed.clone(), sighups, stop.clone()));
        for (address, tls) in &sockets.gate_addresses {
            tracing::info!(listener = "gate", %address, tls, "listening");
        }
        tracing::info!(listener = "admin", address = %sockets.admin_address, tls = false, "listening");
        Ok(Self {
            shared,
            gate_addresses: sockets.gate_addresses,
            admin_address: sockets.admin_address,
            workers,
            background,
            shutdown,
            drain: fixed.drain,
        })
    }

    /// The gate's addresses, and whether with TLS, in the configuration's order.
    #[must_use]
    pub fn gate_addresses(&self) -> &[(SocketAddr, bool)] {
        &self.gate_addresses
    }

    /// The address of the admin pages.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Stops accepting, lets open requests end within the configured drain, and flushes the audit log.
    pub async fn stop(mut self) {
        tracing::info!("stopping");
        self.shutdown.stop.cancel();
        let drained = async {
            for worker in &self.workers {
                worker.ended().await;
            }
            while self.background.join_next().await.is_some() {}
        };
        if tokio::time::timeout(self.drain, drained).await.is_err() {
            tracing::warn!(drain = ?self.drain, "requests that did not end in time are aborted");
            self.shutdown.abort.cancel();
            for worker in &self.workers {
                worker.ended().await;
            }
        }
        if let Some(data) = &self.shared.process.data {
            data.close().await;
        }
        self.shared.process.audit.flush();
    }
}

/// Opens the parts that live as long as the process.
async fn open(config: &Config, audit: Log) -> Result<Process, StartError> {
    let telemetry = Arc::new(Telemetry::new());
    let metrics = Arc::new(telemetry.register(Metrics::new));
    let caller_metrics = telemetry.register(CallerMetrics::register);
    let data = match &config.data {
        Some(data) => Some(DataPath::open(&data.spool, &telemetry).await?),
        None => None,
    };
    let grants = match config.grants.clone() {
        Some(settings) => Some(Arc::new(blocking(move || Grants::open(settings)).await?)),
        None => None,
    };
    Ok(Process { telemetry, metrics, caller_metrics, audit: Arc::new(audit), data, grants })
}

/// Runs blocking work on a thread of its own, and passes its panic on.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// Registers the ages of keys and credentials, which each exposition reads from the served parts.
fn register_ages(shared: &Arc<Shared>) {
    let telemetry = &shared.process.telemetry;
    let ages = telemetry.register(admin::Ages::register);
    // weak, because `shared` owns the telemetry that owns this hook
    let weak = Arc::downgrade(shared);
    telemetry.before_exposition(move || {
        if let Some(shared) = weak.upgrade() {
            ages.read(&shared.serving.load().background);
        }
    });
}

async fn flush_audit(shared: Arc<Shared>, stop: CancellationToken) {
    stop.run_until_cancelled(shared.process.audit.keep_flushing()).await;
}

async fn maintain_grants(shared: Arc<Shared>, stop: CancellationToken) {
    if let Some(grants) = &shared.process.grants {
        stop.run_until_cancelled(grants.keep(&shared.process.telemetry)).await;
    }
}
