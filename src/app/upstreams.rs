//! Composes what is asked upstream, and with whose credentials: exporters and Vertex, each with the keepers that it needs.

use std::{collections::HashMap, sync::Arc};

use super::{
    build::Parts,
    reuse::{Kept, keep},
};
use crate::{
    config::{ExporterSettings, VertexSettings},
    gate::{
        credentials::{
            CallerCredentialOrigin, CallerCredentialRefresher, CallerMetrics, CredentialOrigin, CredentialRefresher,
            SubjectTokenSigner,
        },
        policy::Resource,
        routes::{Exporter, Group, Vertex},
    },
    secret::{CredentialSlot, CredentialSource},
    telemetry::Telemetry,
};

/// The gate's own name for the predictions that it asks for on nobody's behalf.
const FORECAST: &str = "wicketgate:forecast";

/// The keepers that the new configuration needs.
pub(super) struct Keepers<'a> {
    before: Option<&'a Parts>,
    pub(super) now: Vec<Arc<Kept<(String, CredentialOrigin), CredentialRefresher>>>,
    pub(super) callers: Vec<Arc<Kept<(String, CallerCredentialOrigin), CallerCredentialRefresher>>>,
    pub(super) caller_metrics: CallerMetrics,
    telemetry: &'a Arc<Telemetry>,
}

impl<'a> Keepers<'a> {
    pub(super) fn new(before: Option<&'a Parts>, telemetry: &'a Arc<Telemetry>) -> Self {
        let counted = before.map(|parts| parts.caller_metrics.clone());
        let caller_metrics = counted.unwrap_or_else(|| telemetry.register(CallerMetrics::register));
        Self { before, now: Vec::new(), callers: Vec::new(), caller_metrics, telemetry }
    }

    /// A slot for each caller.
    fn callers(&mut self, name: String, origin: CallerCredentialOrigin) -> CredentialSource {
        let known = self.before.map(|parts| parts.callers.as_slice()).unwrap_or_default();
        let (telemetry, metrics) = (self.telemetry.clone(), self.caller_metrics.clone());
        let make = |(name, origin): &(String, CallerCredentialOrigin)| {
            CallerCredentialRefresher::new(name, origin.clone(), metrics)
        };
        let kept = keep(known, (name, origin), make, |keeper| keeper.run(telemetry));
        let shown = CredentialSource::Caller(kept.value.slots.clone());
        self.callers.push(kept);
        shown
    }

    fn slot(&mut self, name: String, origin: CredentialOrigin) -> CredentialSlot {
        let known = self.before.map(|parts| parts.keepers.as_slice()).unwrap_or_default();
        let telemetry = self.telemetry.clone();
        let pending = self.telemetry.clone();
        let make = |(name, origin): &(String, CredentialOrigin)| {
            let keeper = CredentialRefresher::new(name, origin.clone());
            // until it was tried once; what fails then is a warning
            pending.set_unhealthy(&keeper.component(), true, "it is being obtained");
            keeper
        };
        let kept = keep(known, (name, origin), make, |keeper| async move { keeper.run(&telemetry).await });
        let slot = kept.value.slot.clone();
        self.now.push(kept);
        slot
    }
}

pub(super) fn exporter(settings: ExporterSettings, keepers: &mut Keepers<'_>) -> Arc<Exporter> {
    let ExporterSettings { name, upstream, metrics_path, labels, credential, timeout, options, scripts } = settings;
    let credential = credential.map(|origin| keepers.slot(format!("exporter/{name}"), origin));
    let name: Arc<str> = name.into();
    let resource = Resource::Exporter(name.clone());
    Arc::new(Exporter { name, resource, upstream, credential, timeout, metrics_path, labels, options, scripts })
}

/// Google is asked as the gate, or as each caller; then the gate's own predictions (`forecasts`) are a caller's too.
pub(super) fn vertex(
    settings: VertexSettings,
    keepers: &mut Keepers<'_>,
    signer: Option<&SubjectTokenSigner>,
    forecasts: bool,
) -> Vertex {
    let mut credentials = HashMap::new();
    let mut own = None;
    for (group, origin) in settings.credentials {
        let name = format!("google/{}", group.name());
        let for_callers = match (&origin, signer) {
            (CredentialOrigin::Google { google, account }, Some(signer)) if google.is_per_caller() => {
                let (google, account, signer) = (google.clone(), account.clone(), signer.clone());
                Some(CallerCredentialOrigin { google, account, group: group.name(), signer })
            }
            _ => None,
        };
        let shown = match for_callers {
            Some(origin) => {
                if group == Group::Infer && forecasts {
                    let origin = CredentialOrigin::GoogleAs { principal: FORECAST, origin: origin.clone() };
                    own = Some(keepers.slot("google/forecast".to_owned(), origin));
                }
                keepers.callers(name, origin)
            }
            None => {
                let slot = keepers.slot(name, origin);
                if group == Group::Infer {
                    own = Some(slot.clone());
                }
                CredentialSource::Gate(slot)
            }
        };
        credentials.insert(group, shown);
    }
    let upstreams = settings.upstreams.into_iter().map(|(location, upstream)| (location.into(), upstream)).collect();
    let dedicated = settings.dedicated.into_iter().map(|own| (own.endpoint.clone(), own)).collect();
    let projects = settings.projects.map(|projects| projects.into_iter().map(Into::into).collect());
    Vertex { projects, upstreams, credentials, own, timeout: settings.timeout, options: settings.options, dedicated }
}
