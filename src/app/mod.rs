//! Puts the parts together: start, reload, drain.
//!
//! Promises: start and reload build a gate by the same function; a gate that cannot be built changes nothing, and shows
//! in readiness and in `wicketgate_config_last_reload_successful`. What lives longer than one configuration (key sets,
//! credential keepers, connections) is carried over where its settings did not change. Every background task ends with
//! what it works for.
//!
//! The runtime's shape: one single-threaded runtime for each worker, with listening sockets of its own, for requests;
//! the caller's runtime for everything else. `docs/performance.md` has the measurement.

mod admin;
mod build;
mod data;
mod issue;
mod lookup;
mod reload;
mod replay;
mod reuse;
mod upstreams;
mod worker;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{build::Parts, data::DataPath, worker::Worker};
pub use self::{
    lookup::look_up,
    replay::{ReplayError, Replayed, replay},
};
use crate::{
    client::Clients,
    clock,
    config::{self, Config, Problems},
    gate::{
        audit::{AuditError, Log},
        grants::{self, Grants},
        listen,
        proxy::{Gate, Metrics},
    },
    pipeline::spool,
    telemetry::Telemetry,
};

/// Why the program cannot start.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] Problems),
    #[error(transparent)]
    Audit(#[from] AuditError),
    #[error("cannot listen on `{0}`: {1}")]
    Bind(SocketAddr, std::io::Error),
    #[error("cannot use the spool")]
    Spool(#[from] spool::OpenError),
    #[error(transparent)]
    Grants(#[from] grants::OpenError),
    #[error("cannot start a worker")]
    Worker(#[source] std::io::Error),
}

/// What is served now: a gate, the TLS settings of its listeners in order, and the long-lived parts of both.
struct Serving {
    gate: Gate,
    tls: Vec<Option<listen::Tls>>,
    parts: Parts,
    files: Vec<PathBuf>,
    read_at: clock::Timestamp,
}

/// What start and reload share.
struct Shared {
    file: PathBuf,
    clients: Clients,
    telemetry: Arc<Telemetry>,
    metrics: Arc<Metrics>,
    audit: Arc<Log>,
    data: Option<DataPath>,
    grants: Option<Arc<Grants>>,
    serving: ArcSwap<Serving>,
}

/// The running program.
pub struct App {
    shared: Arc<Shared>,
    gate_addresses: Vec<(SocketAddr, bool)>,
    admin_address: SocketAddr,
    workers: Vec<Worker>,
    background: JoinSet<()>,
    stop: CancellationToken,
    cut: CancellationToken,
    drain: Duration,
}

impl App {
    /// Loads the configuration and serves it. Call it on the runtime for background work.
    ///
    /// # Errors
    /// Every problem of the configuration, or the socket or file that cannot be used.
    pub async fn start(file: &Path) -> Result<Self, StartError> {
        let clients = Clients::default();
        let hangups = reload::hangups();
        let config = config::load(file, &clients)?;
        let telemetry = Arc::new(Telemetry::new());
        let metrics = Arc::new(telemetry.register(Metrics::new));
        let audit = Arc::new(Log::open(&config.audit.file)?);
        let settings = Startup::of(&config);
        let sockets = settings.bind()?;
        let (gate_addresses, admin_address) = (sockets.gate_addresses(&settings)?, sockets.admin_address()?);

        let data = match &config.data {
            Some(data) => Some(DataPath::open(&data.spool, &telemetry).await?),
            None => None,
        };
        let grants = match settings.grants.clone() {
            Some(settings) => Some(Arc::new(blocking(move || Grants::open(settings)).await?)),
            None => None,
        };
        let serving = build::build(config, None, &telemetry, &metrics, &audit, data.as_ref(), grants.as_ref());
        let serving = ArcSwap::from_pointee(serving);
        let shared =
            Arc::new(Shared { file: file.to_owned(), clients, telemetry, metrics, audit, data, grants, serving });
        read_ages(&shared);
        let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
        let slots = Arc::new(Semaphore::new(settings.max_connections));
        let workers = worker::start(sockets.gate, &shared, &slots, &stop, &cut).map_err(StartError::Worker)?;
        let mut background = JoinSet::new();
        background.spawn(admin::serve(sockets.admin, shared.clone(), stop.clone()));
        background.spawn(flush(shared.clone(), stop.clone()));
        background.spawn(keep_grants(shared.clone(), stop.clone()));
        background.spawn(reload::watch(shared.clone(), settings.clone(), hangups, stop.clone()));
        for (address, tls) in &gate_addresses {
            tracing::info!(listener = "gate", %address, tls, "listening");
        }
        tracing::info!(listener = "admin", address = %admin_address, tls = false, "listening");
        Ok(Self { shared, gate_addresses, admin_address, workers, background, stop, cut, drain: settings.drain })
    }

    /// Where the gate listens, and whether with TLS, in the configuration's order.
    #[must_use]
    pub fn gate_addresses(&self) -> &[(SocketAddr, bool)] {
        &self.gate_addresses
    }

    /// Where the admin pages are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Stops accepting, lets open requests end within the configured drain, and writes out what is left.
    pub async fn stop(mut self) {
        tracing::info!("stopping");
        self.stop.cancel();
        let drained = async {
            for worker in &self.workers {
                worker.ended().await;
            }
            while self.background.join_next().await.is_some() {}
        };
        if tokio::time::timeout(self.drain, drained).await.is_err() {
            tracing::warn!(drain = ?self.drain, "some requests did not end in time and are cut");
            self.cut.cancel();
            for worker in &self.workers {
                worker.ended().await;
            }
        }
        self.shared.audit.flush();
    }
}

/// Has ages of keys and credentials read off what is served at each exposition.
fn read_ages(shared: &Arc<Shared>) {
    let ages = shared.telemetry.register(admin::Ages::register);
    // the telemetry is part of what is shared, so it must not keep that alive
    let shared_weakly = Arc::downgrade(shared);
    shared.telemetry.before_exposition(move || {
        if let Some(shared) = shared_weakly.upgrade() {
            ages.read(&shared.serving.load().parts);
        }
    });
}

async fn flush(shared: Arc<Shared>, stop: CancellationToken) {
    tokio::select! {
        () = shared.audit.keep_flushing() => {}
        () = stop.cancelled() => {}
    }
}

async fn keep_grants(shared: Arc<Shared>, stop: CancellationToken) {
    if let Some(grants) = &shared.grants {
        stop.run_until_cancelled(grants.keep(&shared.telemetry)).await;
    }
}

/// Runs what blocks beside the runtime, and panics as it does.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic.into_panic()))
}

/// What is fixed for as long as the process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Startup {
    listeners: Vec<(SocketAddr, bool)>,
    admin: SocketAddr,
    audit: PathBuf,
    spool: Option<spool::Settings>,
    grants: Option<grants::Settings>,
    workers: usize,
    max_connections: usize,
    drain: Duration,
}

/// Bound sockets: for each worker one for each listener.
struct Sockets {
    gate: Vec<Vec<std::net::TcpListener>>,
    admin: std::net::TcpListener,
}

impl Startup {
    fn of(config: &Config) -> Self {
        Self {
            listeners: config.listeners.iter().map(|l| (l.address, l.tls.is_some())).collect(),
            admin: config.admin,
            audit: config.audit.file.clone(),
            spool: config.data.as_ref().map(|data| data.spool.clone()),
            grants: config.grants.clone(),
            workers: config.gate.workers,
            max_connections: config.gate.max_connections,
            drain: config.gate.drain,
        }
    }

    fn bind(&self) -> Result<Sockets, StartError> {
        let failed = |address| move |e| StartError::Bind(address, e);
        let mut gate: Vec<Vec<std::net::TcpListener>> = (0..self.workers).map(|_| Vec::new()).collect();
        for &(address, _) in &self.listeners {
            if listen::is_taken(address) {
                return Err(StartError::Bind(address, std::io::ErrorKind::AddrInUse.into()));
            }
            let mut shared = address;
            for sockets in &mut gate {
                let socket = listen::bind(shared).map_err(failed(address))?;
                // port 0 is any free port, but the same one for every worker
                shared = socket.local_addr().map_err(failed(address))?;
                sockets.push(socket);
            }
        }
        let admin = std::net::TcpListener::bind(self.admin).map_err(failed(self.admin))?;
        admin.set_nonblocking(true).map_err(failed(self.admin))?;
        Ok(Sockets { gate, admin })
    }
}

impl Sockets {
    fn gate_addresses(&self, settings: &Startup) -> Result<Vec<(SocketAddr, bool)>, StartError> {
        let first = self.gate.first().map(Vec::as_slice).unwrap_or_default();
        let bound = first.iter().zip(&settings.listeners);
        bound.map(|(s, &(a, tls))| Ok((s.local_addr().map_err(|e| StartError::Bind(a, e))?, tls))).collect()
    }

    fn admin_address(&self) -> Result<SocketAddr, StartError> {
        self.admin.local_addr().map_err(|e| StartError::Bind(SocketAddr::from(([127, 0, 0, 1], 0)), e))
    }
}
