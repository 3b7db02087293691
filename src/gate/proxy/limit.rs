//! Rate limits and quotas of a request: when they are checked and charged, and the refusal for an exceeded one.
//!
//! Promises: a request that policy denies is not charged; a request that a limit refuses is not forwarded. On metric
//! routes the refusal is 503, because Prometheus drops samples permanently on 429.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use super::{authorize::Permit, gate::Gate};
use crate::{
    gate::{
        audit::{Decision, Record},
        limits::{Exceeded, RateLimitHeaders, RequestUsage, Reservation},
        routes::{Group, Route, RouteMatch},
    },
    http::Body,
    principal::Principal,
    refusal::{ExceededLimit, Refusal},
};

/// What a request costs, as far as its body shows before it is forwarded.
pub(super) struct RequestCost {
    /// The body's length in bytes.
    pub(super) size: Option<u64>,
    /// The instances in a prediction request.
    pub(super) instances: Option<u64>,
}

/// Refuses a principal that has exhausted its own limits before the body is read, so that a flood costs no reading.
/// Charges nothing.
pub(super) fn check_before_body(
    gate: &Gate,
    principal: &Principal,
    matched: &RouteMatch<'_>,
    body: &Body,
    reply: &mut HeaderMap,
) -> Result<(), Refusal> {
    if matches!(body, Body::Empty) {
        return Ok(());
    }
    let (exporter, inference) = match matched {
        RouteMatch::Matched(matched) => (exporter(&matched.route), is_inference(&matched.route)),
        // the instances are in the message, which is not read yet
        RouteMatch::Rpc(_) => (None, false),
    };
    let route = matched.kind();
    let instances = inference.then_some(1);
    let action = matched.action();
    let principal = &principal.name;
    let usage = RequestUsage { principal, roles: &[], route, exporter, action, bytes: None, instances };
    let mut fields = RateLimitHeaders::default();
    let checked = gate.limits.check_principal(&usage, &mut fields);
    fields.append_to(reply);
    checked.map_err(|exceeded| refusal(exceeded, route))
}

/// Charges a permitted request to all matching limits; if one refuses it, none is charged. The `RateLimit` headers go into
/// `reply` in both cases.
pub(super) fn charge(
    gate: &Gate,
    permit: &Permit<'_>,
    cost: &RequestCost,
    record: &mut Record,
    reply: &mut HeaderMap,
) -> Result<Reservation, Refusal> {
    let Permit { principal, roles, action, route, .. } = permit;
    // an inference request without countable instances counts as one
    let instances = is_inference(route).then(|| cost.instances.unwrap_or(1));
    let kind = route.kind();
    let exporter = exporter(route);
    let usage =
        RequestUsage { principal: &principal.name, roles, route: kind, exporter, action, bytes: cost.size, instances };
    let mut fields = RateLimitHeaders::default();
    let reservation = gate.limits.reserve(&usage, &mut fields);
    fields.append_to(reply);
    reservation.map_err(|exceeded| {
        record.decision = Decision::Deny;
        refusal(exceeded, kind)
    })
}

fn exporter<'a>(route: &Route<'a>) -> Option<&'a Arc<str>> {
    match route {
        Route::Exporter { exporter, .. } => Some(&exporter.name),
        _ => None,
    }
}

/// Whether the route runs inference on a model.
fn is_inference(route: &Route<'_>) -> bool {
    matches!(route, Route::Vertex { group: Group::Infer, .. })
}

fn refusal(exceeded: Exceeded, route: &str) -> Refusal {
    let Exceeded { limit, policy, reason, wait, text } = exceeded;
    let status = match (wait, route) {
        // waiting does not help: 413 (RFC 9110 section 15.5.14), which no client retries
        (None, _) => StatusCode::PAYLOAD_TOO_LARGE,
        (Some(_), "write" | "exporter" | "predictions") => StatusCode::SERVICE_UNAVAILABLE,
        (Some(_), _) => StatusCode::TOO_MANY_REQUESTS,
    };
    Refusal {
        retry_after: wait,
        limit: Some(Box::new(ExceededLimit { limit, policy })),
        ..Refusal::new(status, reason, text)
    }
}
