//! From a configuration to a gate: the one function that start and reload share.

use std::sync::Arc;

use super::{
    Serving,
    data::{DataPath, Pipeline},
    issue::Issuing,
    reuse::{Kept, keep},
    upstreams::{Keepers, exporter, vertex},
};
use crate::{
    client::Client,
    clock,
    config::Config,
    gate::{
        audit::Log,
        credentials::{
            CallerCredentialOrigin, CallerCredentialRefresher, CallerMetrics, CredentialOrigin, CredentialRefresher,
        },
        grants::Grants,
        identity::{
            self, Authenticators, Identity, Issuer,
            dpop::Dpop,
            session::{self, SessionState, Sessions},
        },
        limits::Limits,
        listen,
        proxy::{Gate, Metrics, TokenBindings},
        routes::{Routes, TokenBinding},
        signing::{self, Signing},
    },
    http::LocalService,
    secret::CredentialSlot,
    telemetry::Telemetry,
};

/// The long-lived parts of one configuration.
pub(super) struct Parts {
    identity: Arc<Identity>,
    issuers: Vec<Arc<Kept<Asked, Issuer>>>,
    issuing: Option<Issuing>,
    session_state: Option<Arc<SessionState>>,
    pub(super) keepers: Vec<Arc<Kept<(String, CredentialOrigin), CredentialRefresher>>>,
    pub(super) callers: Vec<Arc<Kept<(String, CallerCredentialOrigin), CallerCredentialRefresher>>>,
    pub(super) caller_metrics: CallerMetrics,
    pipeline: Option<Arc<Pipeline>>,
    limits: Limits,
}

/// What an issuer is asked, and by which client: it is another one when the CA file holds something else, and keys that
/// came by the old one's trust are fetched again.
struct Asked(identity::Settings, Arc<Client>);

impl PartialEq for Asked {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0 && Arc::ptr_eq(&self.1, &other.1)
    }
}

impl Parts {
    pub(super) fn signing(&self) -> Option<&Signing> {
        self.issuing.as_ref().map(|issuing| &*issuing.signing.value)
    }

    pub(super) fn issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.iter().map(|kept| &*kept.value)
    }

    /// Ends what stands on parts that `next` did not carry over: their keys and sessions count no longer, and open
    /// streams end. `next` is served already.
    pub(super) fn retire(&self, next: &Self) {
        let gone = self.issuers.iter().filter(|old| !next.issuers.iter().any(|kept| Arc::ptr_eq(old, kept)));
        gone.for_each(|issuer| issuer.value.close());
        if let Some(issuing) = &self.issuing
            && !Issuing::same_belief(Some(issuing), next.issuing.as_ref())
        {
            issuing.self_issued.value.close();
        }
        if let Some(sessions) = self.identity.sessions() {
            sessions.retire(next.identity.sessions().map(|next| &**next));
        }
    }

    /// What readiness calls each of them.
    pub(super) fn names(&self) -> Vec<String> {
        let issuers = self.issuers().flat_map(Issuer::components);
        let signing = self.issuing.iter().map(|_| signing::COMPONENT.to_owned());
        let callers = self.callers.iter().map(|kept| kept.value.component());
        issuers.chain(signing).chain(callers).chain(self.keepers.iter().map(|kept| kept.value.component())).collect()
    }

    /// Names of credentials that each caller has its own of, and of how many callers.
    pub(super) fn caller_counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.callers.iter().map(|kept| (&**kept.value.slots.name(), kept.value.slots.callers()))
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
    grants: Option<&Arc<Grants>>,
) -> Serving {
    config.warnings.iter().for_each(|warning| tracing::warn!(%warning, "the configuration is served, but look at it"));
    let names = config.issuers.iter().map(|(settings, _)| settings.name.as_str().into()).collect();
    let issuing_before = before.and_then(|parts| parts.issuing.as_ref());
    let issuing = config.issue.map(|settings| Issuing::new(settings, names, issuing_before, telemetry));
    let signer = issuing.as_ref().map(Issuing::signer);

    let mut keepers = Keepers::new(before, telemetry);
    let exporters: Vec<_> = config.exporters.into_iter().map(|settings| exporter(settings, &mut keepers)).collect();
    let forecasts = config.data.as_ref().is_some_and(|data| !data.forecasts.is_empty());
    let vertex = config.vertex.map(|settings| vertex(settings, &mut keepers, signer.as_ref(), forecasts));
    let Keepers { now: keepers, callers, caller_metrics, .. } = keepers;
    let running = before.and_then(|parts| parts.pipeline.as_ref());
    let pipeline =
        data.zip(config.data).map(|(data, settings)| data.pipeline(running, settings, &exporters, vertex.as_ref()));

    let known = before.map(|parts| parts.issuers.as_slice()).unwrap_or_default();
    let starts = before.is_none();
    let issuers: Vec<_> = config
        .issuers
        .into_iter()
        .map(|(settings, client)| {
            let telemetry = telemetry.clone();
            let pending = telemetry.clone();
            let make = |Asked(settings, client): &Asked| {
                let issuer = Issuer::new(settings.clone(), client.clone());
                // a gate that serves already goes on serving: one more issuer is not everybody's trouble
                pending.set_unhealthy(&issuer.component(), starts, "its keys are being fetched");
                issuer
            };
            keep(known, Asked(settings, client), make, |issuer| async move { issuer.run(&telemetry).await })
        })
        .collect();
    // tokens and opened cookies stay remembered as long as the issuers and the settings of every way in are the same
    let known_identity = before.map(|parts| &*parts.identity);
    let dpop = Dpop::new(config.dpop, config.gate.url.as_deref(), known_identity.map(Identity::dpop), clock::now());
    let same = issuers.len() == known.len()
        && issuers.iter().zip(known).all(|(a, b)| Arc::ptr_eq(a, b))
        && known_identity.is_some_and(|known| known.certificates() == config.certificates && *known.dpop() == dpop)
        && Issuing::same_belief(issuing.as_ref(), issuing_before);
    let same_sessions =
        |parts: &&Parts| parts.identity.sessions().map(|sessions| sessions.settings()) == config.sessions.as_ref();
    let kept = before
        .filter(|_| same)
        .filter(same_sessions)
        .map(|parts| (parts.identity.clone(), parts.session_state.clone()));
    let (identity, session_state) = kept.unwrap_or_else(|| {
        let issuers: Vec<Arc<Issuer>> = issuers.iter().map(|kept| kept.value.clone()).collect();
        let before = before.and_then(|parts| parts.session_state.clone());
        let (sessions, session_state) = sessions(config.sessions, &issuers, before, telemetry).unzip();
        let self_issued = issuing.as_ref().map(|issuing| issuing.self_issued.value.clone());
        (
            Arc::new(Identity::new(Authenticators {
                issuers,
                certificates: config.certificates,
                dpop,
                self_issued,
                sessions,
            })),
            session_state,
        )
    });
    let certificates =
        config.listeners.iter().any(|listener| listener.tls.as_ref().is_some_and(listen::Tls::asks_for_certificates));
    let limits = Limits::new(config.limits, before.map(|parts| &parts.limits));
    let routes = Routes::new(
        exporters,
        vertex,
        pipeline.as_ref().map(|pipeline| pipeline.value.clone() as Arc<dyn LocalService>),
        data.map(|data| Arc::new(data.predictions.clone()) as Arc<dyn LocalService>),
        config.local,
    );
    let gate = Gate {
        bindings: TokenBindings {
            dpop: identity.dpop().is_configured(),
            certificates,
            required: config.gate.token_binding == TokenBinding::Required,
        },
        url: config.gate.url,
        routes: if grants.is_some() { routes.with_grants() } else { routes },
        identity: identity.clone(),
        token_issuer: issuing.as_ref().map(Issuing::token_issuer),
        policy: config.policy,
        limits: limits.clone(),
        grants: grants.cloned(),
        audit: audit.clone(),
        metrics: metrics.clone(),
    };
    let tls = config.listeners.into_iter().map(|listener| listener.tls).collect();
    Serving {
        gate,
        tls,
        files: config.files,
        read_at: config.read_at,
        parts: Parts { identity, issuers, issuing, session_state, keepers, callers, caller_metrics, pipeline, limits },
    }
}

/// How people come in. The session state from before a reload is kept.
fn sessions(
    settings: Option<session::Settings>,
    issuers: &[Arc<Issuer>],
    before: Option<Arc<SessionState>>,
    telemetry: &Telemetry,
) -> Option<(Arc<Sessions>, Arc<SessionState>)> {
    const COMPONENT: &str = "sessions";
    let settings = settings?;
    if settings.keys.is_empty() {
        let remedy = "write `keys` under [sessions], so that a restart or another gate signs nobody out";
        tracing::warn!(remedy, "sessions are sealed with a key of this process and end with it");
    }
    let revocations = settings.revocations.as_deref();
    let state = match before {
        Some(state) => {
            state.set_revocation_file(revocations, clock::now());
            Ok(state)
        }
        None => SessionState::open(revocations, clock::now()).map(Arc::new),
    };
    let made = state.and_then(|state| Ok((Arc::new(Sessions::new(settings, issuers, state.clone())?), state)));
    match made {
        Ok(made) => {
            telemetry.set_healthy(COMPONENT);
            Some(made)
        }
        Err(error) => {
            tracing::error!(%error, "nobody can sign in");
            telemetry.set_unhealthy(COMPONENT, true, format!("nobody can sign in: {error}"));
            None
        }
    }
}
