//! The upstreams of routes with their credentials: exporters and Vertex.

use std::{collections::HashMap, sync::Arc};

use super::credentials::CredentialBuilder;
use crate::{
    config::{ExporterSettings, VertexSettings},
    gate::{
        credentials::{CallerCredentialOrigin, CredentialOrigin, SubjectTokenSigner},
        policy::Resource,
        routes::{Exporter, Group, Vertex},
    },
    secret::CredentialSource,
};

/// The principal as which the gate requests its own forecasts.
const FORECAST: &str = "wicketgate:forecast";

pub(super) fn exporter(settings: ExporterSettings, credentials: &mut CredentialBuilder<'_>) -> Arc<Exporter> {
    let ExporterSettings { name, upstream, metrics_path, labels, credential, timeout, options, scripts } = settings;
    let credential = credential.map(|origin| credentials.gate(format!("exporter/{name}"), origin));
    let name: Arc<str> = name.into();
    let resource = Resource::Exporter(name.clone());
    Arc::new(Exporter { name, resource, upstream, credential, timeout, metrics_path, labels, options, scripts })
}

/// Vertex, with one credential for each group of methods: the gate's, or one for each caller if `[google]` says
/// `subject = "caller"`. `forecasts` then adds one with which the gate requests its own predictions.
pub(super) fn vertex(
    settings: VertexSettings,
    credentials: &mut CredentialBuilder<'_>,
    signer: Option<&SubjectTokenSigner>,
    forecasts: bool,
) -> Vertex {
    let mut sources = HashMap::new();
    let mut own = None;
    for (group, origin) in settings.credentials {
        let name = format!("google/{}", group.name());
        let source = match per_caller(&origin, group, signer) {
            Some(origin) => {
                if group == Group::Infer && forecasts {
                    let origin = CredentialOrigin::GoogleAs { principal: FORECAST, origin: origin.clone() };
                    own = Some(credentials.gate("google/forecast".to_owned(), origin));
                }
                credentials.per_caller(name, origin)
            }
            None => {
                let slot = credentials.gate(name, origin);
                if group == Group::Infer {
                    own = Some(slot.clone());
                }
                CredentialSource::Gate(slot)
            }
        };
        sources.insert(group, source);
    }
    let upstreams = settings.upstreams.into_iter().map(|(location, upstream)| (location.into(), upstream)).collect();
    let dedicated = settings.dedicated.into_iter().map(|one| (one.endpoint.clone(), one)).collect();
    let projects = settings.projects.map(|projects| projects.into_iter().map(Into::into).collect());
    Vertex {
        projects,
        upstreams,
        credentials: sources,
        own,
        timeout: settings.timeout,
        options: settings.options,
        dedicated,
    }
}

/// The origin of a credential for each caller; `None` if the gate has one for all of them.
fn per_caller(
    origin: &CredentialOrigin,
    group: Group,
    signer: Option<&SubjectTokenSigner>,
) -> Option<CallerCredentialOrigin> {
    match (origin, signer) {
        (CredentialOrigin::Google { google, account }, Some(signer)) if google.is_per_caller() => {
            let google = google.clone();
            let account = account.clone();
            let signer = signer.clone();
            Some(CallerCredentialOrigin { google, account, group: group.name(), signer })
        }
        _ => None,
    }
}
