//! The build of a gate from a configuration: the one function that start and reload share.
//!
//! Promises: every part follows one rule. A part whose settings equal those in `before` is reused with its tasks and
//! its state; any other is made anew. Must never fail and never block: the configuration holds built values already.

use std::sync::Arc;

use super::{
    authentication::{Authentication, AuthenticationSettings},
    background::Background,
    credentials::CredentialBuilder,
    data::Plan,
    issuers::issuers,
    serving::{Process, Serving},
    token_issuance::TokenIssuance,
    upstreams::{exporter, vertex},
};
use crate::{
    config::Config,
    gate::{
        limits::Limits,
        listen::Tls,
        proxy::{Gate, TokenBindings},
        routes::{Routes, TokenBinding},
    },
    http::LocalService,
};

/// Builds a gate, and reuses what is equal in `before`; at a start `before` has no parts.
pub(super) fn build(config: Config, before: &Background, process: &Process) -> Serving {
    config.warnings.iter().for_each(|warning| tracing::warn!(%warning, "the configuration has a probable mistake"));
    let telemetry = &process.telemetry;
    let is_start = before.authentication.is_none();

    // the gate as an issuer of tokens
    let names = config.issuers.iter().map(|(settings, _)| settings.name.as_str().into()).collect();
    let issuance = before.token_issuance.as_ref();
    let token_issuance = config.issue.map(|settings| TokenIssuance::new(settings, names, issuance, telemetry));

    // upstreams and their credentials
    let signer = token_issuance.as_ref().map(TokenIssuance::signer);
    let mut credentials = CredentialBuilder::new(&before.credentials, &process.caller_metrics, telemetry);
    let exporters: Vec<_> = config.exporters.into_iter().map(|settings| exporter(settings, &mut credentials)).collect();
    let forecasts = config.data.as_ref().is_some_and(|data| !data.forecasts.is_empty());
    let vertex = config.vertex.map(|settings| vertex(settings, &mut credentials, signer.as_ref(), forecasts));
    let credentials = credentials.finish();

    // the data path
    let plan = config.data.map(|settings| Plan::new(settings, &exporters, vertex.as_ref()));
    let pipeline = process.data.as_ref().zip(plan).map(|(data, plan)| data.pipeline(before.pipeline.as_ref(), plan));

    // authentication
    let issuers = issuers(config.issuers, &before.issuers, is_start, telemetry);
    let settings = AuthenticationSettings {
        issuers: issuers.iter().map(|issuer| issuer.value.clone()).collect(),
        self_issued: token_issuance.as_ref().map(|issuance| issuance.self_issued.value.clone()),
        certificates: config.certificates,
        dpop: config.dpop,
        url: config.gate.url.as_deref(),
        sessions: config.sessions,
    };
    let authentication = Authentication::new(settings, before.authentication.as_ref(), telemetry);
    let bindings = TokenBindings {
        dpop: authentication.identity.dpop().is_configured(),
        certificates: config.listeners.iter().any(|l| l.tls.as_ref().is_some_and(Tls::requests_certificates)),
        required: config.gate.token_binding == TokenBinding::Required,
    };

    // routes and limits
    let routes = Routes::new(
        exporters,
        vertex,
        pipeline.as_ref().map(|pipeline| pipeline.value.clone() as Arc<dyn LocalService>),
        process.data.as_ref().map(|data| Arc::new(data.predictions.clone()) as Arc<dyn LocalService>),
        config.local,
    );
    let limits = Limits::new(config.limits, before.limits.as_ref());

    Serving {
        gate: Gate {
            bindings,
            url: config.gate.url,
            routes: if process.grants.is_some() { routes.with_grants() } else { routes },
            identity: authentication.identity.clone(),
            token_issuer: token_issuance.as_ref().map(TokenIssuance::token_issuer),
            policy: config.policy,
            limits: limits.clone(),
            grants: process.grants.clone(),
            audit: process.audit.clone(),
            metrics: process.metrics.clone(),
        },
        tls: config.listeners.into_iter().map(|listener| listener.tls).collect(),
        files: config.files,
        read_at: config.read_at,
        background: Background {
            issuers,
            token_issuance,
            authentication: Some(authentication),
            credentials,
            pipeline,
            limits: Some(limits),
        },
    }
}
