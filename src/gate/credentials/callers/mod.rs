//! Keeps a Google credential for each caller: the gate signs a token whose subject is the caller's one name, and
//! Google's audit log then holds that name.
//!
//! Promises: obtained when a caller first needs it, renewed before its end while it is used, forgotten when it is not;
//! the last good one serves until its own expiry. Requests to Google are bounded, and one caller's failure is no
//! other's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
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

use super::{CredentialError, Fresh, Google, RETRY_FIRST, RETRY_MOST, place};
use crate::{
    clock,
    gate::signing::Signing,
    secret::{CallerSlots, Secret, Wanted},
    telemetry::{Telemetry, chain},
};

/// Exchanges under way at once, for each name.
const AT_ONCE: usize = 16;
/// How long a subject token lives; it is used at once.
const LIFETIME: Duration = Duration::from_secs(300);
/// Google refuses a token that was issued in its future, by however little.
const ISSUED_BEFORE: Duration = Duration::from_secs(10);
/// Google's bound on `google.subject`, in bytes.
const MAX_SUBJECT: usize = 127;

/// The gate, as who signs subject tokens.
#[derive(Clone)]
pub struct Minter {
    /// `iss`.
    pub url: String,
    /// Its keys.
    pub signing: Arc<Signing>,
}

impl PartialEq for Minter {
    fn eq(&self, other: &Self) -> bool {
        self.url == other.url && Arc::ptr_eq(&self.signing, &other.signing)
    }
}

impl Eq for Minter {}

impl Minter {
    /// A subject token of this principal, for whoever trusts `audience`. `group` is the group of methods that it is
    /// for, so that Google can be told to keep them apart as well.
    pub(super) fn mint(&self, principal: &str, audience: &str, group: &str) -> Result<Secret, CredentialError> {
        if principal.len() > MAX_SUBJECT {
            return Err(CredentialError::Subject(principal.len()));
        }
        let now = clock::now();
        let issued = now.as_second() - ISSUED_BEFORE.as_secs().cast_signed();
        let claims = serde_json::json!({
            "iss": self.url,
            "sub": principal,
            "aud": audience,
            "iat": issued,
            "nbf": issued,
            "exp": clock::after(now, LIFETIME).as_second(),
            "jti": uuid::Uuid::now_v7(),
            "group": group,
        });
        let signed = self.signing.sign("JWT", &claims.to_string()).map_err(|_| CredentialError::NoKey)?;
        signed.map(Secret::new).ok_or(CredentialError::NoKey)
    }
}

/// What callers' credentials are obtained from.
#[derive(Clone, PartialEq, Eq)]
pub struct CallerOrigin {
    /// Google, as this gate asks it.
    pub google: Arc<Google>,
    /// The service account that every caller of this group acts through.
    pub account: String,
    /// The group of methods.
    pub group: &'static str,
    /// Who signs.
    pub minter: Minter,
}

impl CallerOrigin {
    pub(super) async fn obtain(&self, principal: &str) -> Result<Fresh, CredentialError> {
        self.google.access_token_as(&self.minter, principal, self.group, &self.account).await
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    credential: String,
    result: &'static str,
}

/// What is counted of all of them; no label names a caller.
#[derive(Clone, Default)]
pub(crate) struct CallerMetrics {
    exchanges: Family<Labels, Counter>,
}

impl CallerMetrics {
    /// Registers the counters.
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Credentials of callers that were obtained, or could not be";
        registry.register("caller_credential_exchanges", help, metrics.exchanges.clone());
        metrics
    }
}

/// Keeps the credentials of all callers of one group.
pub(crate) struct CallerKeeper {
    /// Where requests find them.
    pub slots: CallerSlots,
    origin: CallerOrigin,
    wanted: Mutex<mpsc::Receiver<Wanted>>,
    at_once: Semaphore,
    failing: AtomicUsize,
    metrics: CallerMetrics,
}

impl CallerKeeper {
    /// Has nobody's yet; [`CallerKeeper::keep`] obtains what requests want.
    #[must_use]
    pub(crate) fn new(name: &str, origin: CallerOrigin, metrics: CallerMetrics) -> Self {
        let (slots, wanted) = CallerSlots::new(name);
        let (wanted, at_once, failing) = (Mutex::new(wanted), Semaphore::new(AT_ONCE), AtomicUsize::new(0));
        Self { slots, origin, wanted, at_once, failing, metrics }
    }

    /// What readiness calls it.
    #[must_use]
    pub(crate) fn part(&self) -> String {
        format!("credential {} of callers", self.slots.name())
    }

    /// Obtains and renews for as long as it is polled.
    pub(crate) async fn keep(self: Arc<Self>, telemetry: Arc<Telemetry>) {
        let mut wanted = self.wanted.lock().await;
        let mut callers = JoinSet::new();
        loop {
            tokio::select! {
                next = wanted.recv() => {
                    let Some(next) = next else { return };
                    callers.spawn(self.clone().keep_one(next, telemetry.clone()));
                }
                Some(_) = callers.join_next() => {}
            }
        }
    }

    /// One caller's credential, until it is no longer used or was pushed out.
    async fn keep_one(self: Arc<Self>, wanted: Wanted, telemetry: Arc<Telemetry>) {
        let gone = wanted.gone.clone();
        let mut trouble = Trouble { of: &self, telemetry: &telemetry, told: false };
        let work = async {
            let mut retry = RETRY_FIRST;
            loop {
                let Ok(turn) = self.at_once.acquire().await else { return };
                let outcome = self.origin.obtain(&wanted.principal).await;
                drop(turn);
                let Some(slot) = wanted.slot() else { return };
                let well = outcome.is_ok();
                let wait = match outcome {
                    Ok(fresh) => {
                        trouble.over();
                        retry = RETRY_FIRST;
                        place(&slot, fresh)
                    }
                    Err(error) => {
                        trouble.tell(&wanted.principal, &chain(&error));
                        let wait = retry;
                        retry = (retry * 2).min(RETRY_MOST);
                        wait
                    }
                };
                let result = if well { "obtained" } else { "failed" };
                let labels = Labels { credential: self.slots.name().to_string(), result };
                self.metrics.exchanges.get_or_create(&labels).inc();
                drop(slot);
                wanted.settle(well);
                tokio::time::sleep(wait).await;
                if !wanted.still_used() {
                    return;
                }
            }
        };
        gone.run_until_cancelled(work).await;
    }
}

/// Keeps readiness true: a warning while at least one caller's credential cannot be obtained.
struct Trouble<'a> {
    of: &'a CallerKeeper,
    telemetry: &'a Telemetry,
    told: bool,
}

impl Trouble<'_> {
    fn tell(&mut self, principal: &str, error: &str) {
        tracing::warn!(credential = %self.of.slots.name(), principal, error, "a caller's cannot be obtained");
        if !std::mem::replace(&mut self.told, true) {
            self.of.failing.fetch_add(1, Ordering::Relaxed);
        }
        self.telemetry.trouble(&self.of.part(), false, format!("it cannot be obtained: {error}"));
    }

    fn over(&mut self) {
        if std::mem::replace(&mut self.told, false) && self.of.failing.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.telemetry.well(&self.of.part());
        }
    }
}

impl Drop for Trouble<'_> {
    fn drop(&mut self) {
        self.over();
    }
}

#[cfg(test)]
mod tests;
