//! From a configuration to a gate: the one function that start and reload share.

use std::{collections::HashMap, sync::Arc};

use super::{
    Serving,
    data::{DataPath, Pipeline},
    kept::{Kept, keep},
};
use crate::{
    audit::Log,
    client::Client,
    config::{Config, ExporterSettings, IssueSettings, VertexSettings},
    credentials::{Keeper, Origin},
    http::LocalService,
    identity::{self, Identity, Issuer, Own, Ways, dpop::Dpop},
    listen,
    proxy::{Bindings, Gate, Issue, Metrics},
    routes::{Exporter, Group, Routes, TokenBinding, Vertex},
    secret::CredentialSlot,
    signing::{self, Signing},
    telemetry::Telemetry,
};

/// The long-lived parts of one configuration.
pub(super) struct Parts {
    identity: Arc<Identity>,
    issuers: Vec<Arc<Kept<Asked, Issuer>>>,
    signing: Option<Arc<Kept<signing::Settings, Signing>>>,
    own: Option<Arc<Kept<OwnSettings, Own>>>,
    keepers: Vec<Arc<Kept<(String, Origin), Keeper>>>,
    pipeline: Option<Arc<Pipeline>>,
}

/// What an issuer is asked, and by which client: it is another one when the CA file holds something else, and keys that
/// came by the old one's trust are fetched again.
struct Asked(identity::Settings, Arc<Client>);

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 && Arc::ptr_eq(&self.1, &other.1)
    }
}

/// What the gate's own tokens are believed by.
#[derive(PartialEq)]
struct OwnSettings {
    url: String,
    audience: String,
    issuers: Vec<Arc<str>>,
    keys: signing::Settings,
}

impl Parts {
    pub(super) fn signing(&self) -> Option<&Signing> {
        self.signing.as_ref().map(|kept| &*kept.value)
    }

    pub(super) fn issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.iter().map(|kept| &*kept.value)
    }

    /// What readiness calls each of them.
    pub(super) fn names(&self) -> Vec<String> {
        let issuers = self.issuers().map(Issuer::part);
        let signing = self.signing.iter().map(|_| signing::PART.to_owned());
        issuers.chain(signing).chain(self.keepers.iter().map(|kept| kept.value.part())).collect()
    }

    pub(super) fn credential_slots(&self) -> impl Iterator<Item = &CredentialSlot> {
        self.keepers.iter().map(|kept| &kept.value.slot)
    }
}

/// Builds a gate, carrying over from `before` what did not change.
pub(super) fn build(
    config: Config,
    before: Option<&Parts>,
    telemetry: &Arc<Telemetry>,
    metrics: &Arc<Metrics>,
    audit: &Arc<Log>,
    data: Option<&DataPath>,
) -> Serving {
    let mut keepers = Keepers { before, now: Vec::new(), telemetry };
    let exporters: Vec<_> = config.exporters.into_iter().map(|settings| exporter(settings, &mut keepers)).collect();
    let vertex = config.vertex.map(|settings| vertex(settings, &mut keepers));
    let keepers = keepers.now;
    let running = before.and_then(|parts| parts.pipeline.as_ref());
    let pipeline =
        data.zip(config.data).map(|(data, settings)| data.pipeline(running, settings, &exporters, vertex.as_ref()));

    let known = before.map(|parts| parts.issuers.as_slice()).unwrap_or_default();
    let issuers: Vec<_> = config
        .issuers
        .into_iter()
        .map(|(settings, client)| {
            let telemetry = telemetry.clone();
            let pending = telemetry.clone();
            let make = |Asked(settings, client): &Asked| {
                let issuer = Issuer::new(settings.clone(), client.clone());
                pending.trouble(&issuer.part(), true, "its keys are being fetched");
                issuer
            };
            keep(known, Asked(settings, client), make, |issuer| async move { issuer.keep_fresh(&telemetry).await })
        })
        .collect();
    let signing = config.issue.as_ref().map(|issue| signing_keys(issue, before, telemetry));
    let own = config.issue.as_ref().zip(signing.as_ref());
    let own = own.map(|(issue, signing)| own_tokens(issue, &signing.value, &issuers, before));
    // tokens stay remembered as long as the issuers are the same
    let known_identity = before.map(|parts| &*parts.identity);
    let dpop = Dpop::new(config.dpop, config.gate.url.as_deref(), known_identity.map(Identity::dpop));
    let same = issuers.len() == known.len()
        && issuers.iter().zip(known).all(|(a, b)| Arc::ptr_eq(a, b))
        && known_identity.is_some_and(|known| known.certificates() == config.certificates && *known.dpop() == dpop)
        && same_own(own.as_ref(), before.and_then(|parts| parts.own.as_ref()));
    let identity = before.filter(|_| same).map(|parts| parts.identity.clone()).unwrap_or_else(|| {
        Arc::new(Identity::new(Ways {
            issuers: issuers.iter().map(|kept| kept.value.clone()).collect(),
            certificates: config.certificates,
            dpop,
            own: own.as_ref().map(|kept| kept.value.clone()),
        }))
    });
    let issue = config.issue.zip(signing.as_ref());
    let issue = issue.map(|(issue, keys)| Issue::new(&issue.url, &issue.audiences, issue.lifetime, keys.value.clone()));

    let certificates =
        config.listeners.iter().any(|listener| listener.tls.as_ref().is_some_and(listen::Tls::asks_for_certificates));
    let gate = Gate {
        bindings: Bindings {
            dpop: identity.dpop().is_possible(),
            certificates,
            required: config.gate.token_binding == TokenBinding::Required,
        },
        url: config.gate.url,
        routes: Routes::new(
            exporters,
            vertex,
            pipeline.as_ref().map(|pipeline| pipeline.value.clone() as Arc<dyn LocalService>),
            data.map(|data| Arc::new(data.predictions.clone()) as Arc<dyn LocalService>),
            config.local,
        ),
        identity: identity.clone(),
        issue,
        policy: config.policy,
        audit: audit.clone(),
        metrics: metrics.clone(),
    };
    let tls = config.listeners.into_iter().map(|listener| listener.tls).collect();
    Serving {
        gate,
        tls,
        files: config.files,
        read_at: config.read_at,
        parts: Parts { identity, issuers, signing, own, keepers, pipeline },
    }
}

/// The gate's own keys, and the task that makes and rotates them.
fn signing_keys(
    issue: &IssueSettings,
    before: Option<&Parts>,
    telemetry: &Arc<Telemetry>,
) -> Arc<Kept<signing::Settings, Signing>> {
    let known: Vec<_> = before.and_then(|parts| parts.signing.clone()).into_iter().collect();
    let (telemetry, pending) = (telemetry.clone(), telemetry.clone());
    let make = |settings: &signing::Settings| {
        pending.trouble(signing::PART, true, "they are being read");
        Signing::new(settings.clone())
    };
    keep(&known, issue.keys.clone(), make, |signing| async move { signing.keep(&telemetry).await })
}

/// The gate's belief in its own tokens, of principals of these issuers.
fn own_tokens(
    issue: &IssueSettings,
    signing: &Arc<Signing>,
    issuers: &[Arc<Kept<Asked, Issuer>>],
    before: Option<&Parts>,
) -> Arc<Kept<OwnSettings, Own>> {
    let known: Vec<_> = before.and_then(|parts| parts.own.clone()).into_iter().collect();
    let settings = OwnSettings {
        url: issue.url.clone(),
        audience: issue.audiences.first().cloned().unwrap_or_default(),
        issuers: issuers.iter().map(|kept| kept.value.name.clone()).collect(),
        keys: issue.keys.clone(),
    };
    let make = |s: &OwnSettings| Own::new(&s.url, &s.audience, s.issuers.clone(), signing.clone());
    keep(&known, settings, make, |own| async move { own.follow().await })
}

fn same_own(now: Option<&Arc<Kept<OwnSettings, Own>>>, before: Option<&Arc<Kept<OwnSettings, Own>>>) -> bool {
    match (now, before) {
        (Some(now), Some(before)) => Arc::ptr_eq(now, before),
        (None, None) => true,
        _ => false,
    }
}

/// The keepers that the new configuration needs.
struct Keepers<'a> {
    before: Option<&'a Parts>,
    now: Vec<Arc<Kept<(String, Origin), Keeper>>>,
    telemetry: &'a Arc<Telemetry>,
}

impl Keepers<'_> {
    fn slot(&mut self, name: String, origin: Origin) -> CredentialSlot {
        let known = self.before.map(|parts| parts.keepers.as_slice()).unwrap_or_default();
        let telemetry = self.telemetry.clone();
        let pending = self.telemetry.clone();
        let make = |(name, origin): &(String, Origin)| {
            let keeper = Keeper::new(name, origin.clone());
            // until it was tried once; what fails then is a warning
            pending.trouble(&keeper.part(), true, "it is being obtained");
            keeper
        };
        let kept = keep(known, (name, origin), make, |keeper| async move { keeper.keep(&telemetry).await });
        let slot = kept.value.slot.clone();
        self.now.push(kept);
        slot
    }
}

fn exporter(settings: ExporterSettings, keepers: &mut Keepers<'_>) -> Arc<Exporter> {
    let ExporterSettings { name, upstream, metrics_path, labels, credential, timeout, terms } = settings;
    let credential = credential.map(|origin| keepers.slot(format!("exporter/{name}"), origin));
    let name: Arc<str> = name.into();
    let resource = crate::policy::Resource::Exporter(name.clone());
    Arc::new(Exporter { name, resource, upstream, credential, timeout, metrics_path, labels, terms })
}

fn vertex(settings: VertexSettings, keepers: &mut Keepers<'_>) -> Vertex {
    let slot = |(group, origin): (Group, Origin)| (group, keepers.slot(format!("google/{}", group.name()), origin));
    let credentials: HashMap<Group, _> = settings.credentials.into_iter().map(slot).collect();
    let upstreams = settings.upstreams.into_iter().map(|(location, upstream)| (location.into(), upstream)).collect();
    Vertex { upstreams, credentials, timeout: settings.timeout, terms: settings.terms }
}
