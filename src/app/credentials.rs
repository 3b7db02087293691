//! Downstream credentials and the tasks that refresh them: reused if name and origin are equal, else obtained anew.

use std::sync::Arc;

use super::reuse::{Reused, reuse};
use crate::{
    gate::credentials::{
        CallerCredentialOrigin, CallerCredentialRefresher, CallerMetrics, CredentialOrigin, CredentialRefresher,
    },
    secret::{CredentialSlot, CredentialSource},
    telemetry::Telemetry,
};

/// The refreshers of one configuration.
#[derive(Default)]
pub(super) struct CredentialRefreshers {
    /// Of the gate's own credentials.
    pub(super) gate: Vec<Arc<Reused<(String, CredentialOrigin), CredentialRefresher>>>,
    /// Of credentials that each caller has one of.
    pub(super) callers: Vec<Arc<Reused<(String, CallerCredentialOrigin), CallerCredentialRefresher>>>,
}

/// Collects the refreshers that upstreams need while they are built.
pub(super) struct CredentialBuilder<'a> {
    before: &'a CredentialRefreshers,
    metrics: &'a CallerMetrics,
    telemetry: &'a Arc<Telemetry>,
    refreshers: CredentialRefreshers,
}

impl<'a> CredentialBuilder<'a> {
    pub(super) fn new(
        before: &'a CredentialRefreshers,
        metrics: &'a CallerMetrics,
        telemetry: &'a Arc<Telemetry>,
    ) -> Self {
        Self { before, metrics, telemetry, refreshers: CredentialRefreshers::default() }
    }

    /// The refreshers of all credentials that were asked for.
    pub(super) fn finish(self) -> CredentialRefreshers {
        self.refreshers
    }

    /// A credential of the gate. The gate is not ready until it was tried once.
    pub(super) fn gate(&mut self, name: String, origin: CredentialOrigin) -> CredentialSlot {
        let make = |(name, origin): &(String, CredentialOrigin)| {
            let refresher = CredentialRefresher::new(name, origin.clone());
            self.telemetry.set_unhealthy(&refresher.component(), true, "it is being obtained");
            refresher
        };
        let telemetry = self.telemetry.clone();
        let task = |refresher: Arc<CredentialRefresher>| async move { refresher.run(&telemetry).await };
        let refresher = reuse(&self.before.gate, (name, origin), make, task);
        let slot = refresher.value.slot.clone();
        self.refreshers.gate.push(refresher);
        slot
    }

    /// A credential for each caller, obtained when a request first needs it.
    pub(super) fn per_caller(&mut self, name: String, origin: CallerCredentialOrigin) -> CredentialSource {
        let make = |(name, origin): &(String, CallerCredentialOrigin)| {
            CallerCredentialRefresher::new(name, origin.clone(), self.metrics.clone())
        };
        let telemetry = self.telemetry.clone();
        let refresher = reuse(&self.before.callers, (name, origin), make, |refresher| refresher.run(telemetry));
        let slots = refresher.value.slots.clone();
        self.refreshers.callers.push(refresher);
        CredentialSource::Caller(slots)
    }
}
