//! The refresher of per-caller Google credentials: the gate signs a subject token with the caller's principal name, so
//! that Google's audit log holds that name.
//!
//! Promises: a credential is obtained when a caller first needs it, renewed before its expiry while it is used, and
//! evicted when it is not. While renewals fail, the last credential serves until its own expiry. Concurrent requests to
//! Google are bounded, and the failure for one caller affects no other.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use tokio::{
    sync::{Mutex, Semaphore, mpsc},
    task::JoinSet,
};

use super::{
    google::Google,
    obtained::{CredentialError, NewCredential, RETRY_MAX, RETRY_MIN},
    subject_token::SubjectTokenSigner,
};
use crate::{
    backoff::Backoff,
    secret::{CallerSlots, RefreshTask},
    telemetry::{Telemetry, chain},
};

/// Token exchanges that run at once, for each credential name.
const MAX_EXCHANGES: usize = 16;

/// How callers' credentials of one group of methods are obtained.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CallerCredentialOrigin {
    /// The client of Google's token services.
    pub google: Arc<Google>,
    /// The service account that every caller of this group impersonates.
    pub account: String,
    /// The group of methods.
    pub group: &'static str,
    /// The signer of subject tokens.
    pub signer: SubjectTokenSigner,
}

impl CallerCredentialOrigin {
    pub(super) async fn obtain(&self, principal: &str) -> Result<NewCredential, CredentialError> {
        self.google.access_token_as(&self.signer, principal, self.group, &self.account).await
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    credential: String,
    result: &'static str,
}

/// Counters of all callers together; no label names a caller.
#[derive(Clone, Default)]
pub(crate) struct CallerMetrics {
    exchanges: Family<Labels, Counter>,
}

impl CallerMetrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Attempts to obtain a credential of a caller, by result";
        registry.register("caller_credential_exchanges", help, metrics.exchanges.clone());
        metrics
    }
}

/// Obtains and renews the credentials of all callers of one group.
pub(crate) struct CallerCredentialRefresher {
    /// Where requests read them.
    pub slots: CallerSlots,
    origin: CallerCredentialOrigin,
    tasks: Mutex<mpsc::Receiver<RefreshTask>>,
    exchanges: Semaphore,
    /// Callers whose last attempt failed.
    failing: AtomicUsize,
    metrics: CallerMetrics,
}

impl CallerCredentialRefresher {
    /// A refresher without callers; [`CallerCredentialRefresher::run`] obtains what requests need.
    #[must_use]
    pub(crate) fn new(name: &str, origin: CallerCredentialOrigin, metrics: CallerMetrics) -> Self {
        let (slots, tasks) = CallerSlots::new(name);
        let exchanges = Semaphore::new(MAX_EXCHANGES);
        Self { slots, origin, tasks: Mutex::new(tasks), exchanges, failing: AtomicUsize::new(0), metrics }
    }

    /// Its component name in readiness reports.
    #[must_use]
    pub(crate) fn component(&self) -> String {
        format!("credential {} of callers", self.slots.name())
    }

    /// Obtains and renews for as long as it is polled.
    pub(crate) async fn run(self: Arc<Self>, telemetry: Arc<Telemetry>) {
        let mut tasks = self.tasks.lock().await;
        let mut callers = JoinSet::new();
        loop {
            tokio::select! {
                task = tasks.recv() => {
                    let Some(task) = task else { return };
                    callers.spawn(self.clone().refresh(task, telemetry.clone()));
                }
                Some(_) = callers.join_next() => {}
            }
        }
    }

    /// Obtains and renews the credential of one caller, until it is unused or evicted.
    async fn refresh(self: Arc<Self>, task: RefreshTask, telemetry: Arc<Telemetry>) {
        let cancelled = task.cancelled.clone();
        let mut warning = FailureWarning { refresher: &self, telemetry: &telemetry, counted: false };
        let work = async {
            let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
            loop {
                let Ok(permit) = self.exchanges.acquire().await else { return };
                let outcome = self.origin.obtain(&task.principal).await;
                drop(permit);
                let Some(slot) = task.slot() else { return };
                let succeeded = outcome.is_ok();
                let wait = match outcome {
                    Ok(credential) => {
                        warning.clear();
                        backoff.reset();
                        credential.store(&slot)
                    }
                    Err(error) => {
                        warning.set(&task.principal, &chain(&error));
                        backoff.next_delay()
                    }
                };
                let result = if succeeded { "obtained" } else { "failed" };
                let labels = Labels { credential: self.slots.name().to_string(), result };
                self.metrics.exchanges.get_or_create(&labels).inc();
                drop(slot);
                task.finish_attempt(succeeded);
                tokio::time::sleep(wait).await;
                if !task.still_used() {
                    return;
                }
            }
        };
        cancelled.run_until_cancelled(work).await;
    }
}

/// One caller's part in the readiness warning, which stands while the last attempt of at least one caller failed.
struct FailureWarning<'a> {
    refresher: &'a CallerCredentialRefresher,
    telemetry: &'a Telemetry,
    /// Whether this caller is counted in `failing`.
    counted: bool,
}

impl FailureWarning<'_> {
    fn set(&mut self, principal: &str, error: &str) {
        let credential = self.refresher.slots.name();
        tracing::warn!(%credential, principal, error, "the credential of a caller cannot be obtained");
        if !std::mem::replace(&mut self.counted, true) {
            self.refresher.failing.fetch_add(1, Ordering::Relaxed);
        }
        let text = format!("it cannot be obtained: {error}");
        self.telemetry.set_unhealthy(&self.refresher.component(), false, text);
    }

    fn clear(&mut self) {
        if std::mem::replace(&mut self.counted, false) && self.refresher.failing.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.telemetry.set_healthy(&self.refresher.component());
        }
    }
}

impl Drop for FailureWarning<'_> {
    fn drop(&mut self) {
        self.clear();
    }
}
