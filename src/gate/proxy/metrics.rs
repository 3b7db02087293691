//! Prometheus metrics of requests. Every label comes from a closed set.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

use crate::{
    clock,
    gate::{
        audit::{Decision, Record},
        identity::Authenticated,
    },
    refusal::Refusal,
};

/// Seconds, from a cached refusal to a slow model.
const BUCKETS: [f64; 13] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0, 120.0];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DecisionLabels {
    decision: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ShadowLabels {
    decision: &'static str,
    differs: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TokenLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: String,
    quantity: &'static str,
}

/// The gate's counters.
pub(crate) struct Metrics {
    requests: Family<RequestLabels, Counter>,
    seconds: Family<RouteLabels, Histogram>,
    bytes_out: Family<RouteLabels, Counter>,
    decisions: Family<DecisionLabels, Counter>,
    shadow: Family<ShadowLabels, Counter>,
    tokens: Family<TokenLabels, Counter>,
    limits: Family<LimitLabels, Counter>,
}

impl Metrics {
    /// Registers the counters.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let metrics = Self {
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            bytes_out: Family::default(),
            decisions: Family::default(),
            shadow: Family::default(),
            tokens: Family::default(),
            limits: Family::default(),
        };
        registry.register("requests", "Requests that are over, by route and status", metrics.requests.clone());
        registry.register(
            "request_duration_seconds",
            "From a request's head to its answer's last byte",
            metrics.seconds.clone(),
        );
        registry.register("response_bytes", "Bytes of response bodies sent to clients", metrics.bytes_out.clone());
        registry.register("decisions", "Requests let through or refused, by reason", metrics.decisions.clone());
        registry.register(
            "policy_shadow",
            "What the shadow policies would have decided, and whether that differs from what was decided",
            metrics.shadow.clone(),
        );
        registry.register(
            "tokens",
            "Bearer tokens looked at: verified now, known from before, or refused with a reason",
            metrics.tokens.clone(),
        );
        registry.register(
            "limit_refused",
            "Requests refused by a limit, by its name and what was exceeded",
            metrics.limits.clone(),
        );
        metrics
    }

    pub(super) fn token(&self, outcome: &Result<Authenticated, Refusal>) {
        let result = match outcome {
            Ok(Authenticated { fresh: true, .. }) => "verified",
            Ok(_) => "known",
            Err(refusal) => refusal.reason,
        };
        self.tokens.get_or_create(&TokenLabels { result }).inc();
    }

    pub(super) fn shadow(&self, decision: Decision, differs: bool) {
        let labels = ShadowLabels { decision: word(decision), differs: if differs { "true" } else { "false" } };
        self.shadow.get_or_create(&labels).inc();
    }

    pub(super) fn request(&self, record: &Record, bytes_out: u64) {
        let route = record.route.unwrap_or("none");
        let code = record.status.map_or(0, |s| s.as_u16());
        let decision = word(record.decision);
        self.requests.get_or_create(&RequestLabels { route, code }).inc();
        let took = clock::monotonic().duration_since(record.started).as_secs_f64();
        self.seconds.get_or_create(&RouteLabels { route }).observe(took);
        self.bytes_out.get_or_create(&RouteLabels { route }).inc_by(bytes_out);
        self.decisions.get_or_create(&DecisionLabels { decision, reason: record.reason.unwrap_or("") }).inc();
        let quantity = record.reason.and_then(|reason| reason.strip_prefix("limit_"));
        if let (Some(limit), Some(quantity)) = (&record.limit, quantity) {
            self.limits.get_or_create(&LimitLabels { limit: limit.to_string(), quantity }).inc();
        }
    }
}

fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Allow => "allow",
        Decision::Deny => "deny",
    }
}
