//! Where limits stand in the story, and how a request that exceeds one is turned away.
//!
//! Promises: nothing is counted for a request that policy denies, and nothing is forwarded for one that a limit refuses.
//! On the paths of metrics the refusal is 503, since Prometheus drops samples for good on 429.

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

/// What is known of a request's body before it is forwarded.
pub(super) struct RequestCost {
    /// Its length in bytes.
    pub(super) size: Option<u64>,
    /// The instances that it asks a model about.
    pub(super) instances: Option<u64>,
}

/// Before a body is read: turns away whoever has used up what is their own, so that a flood costs no reading. Takes
/// nothing.
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
        // what it asks is in its message
        RouteMatch::Rpc(_) => (None, false),
    };
    let (route, instances) = (matched.kind(), inference.then_some(1));
    let (principal, action) = (&principal.name, matched.action());
    let usage = RequestUsage { principal, roles: &[], route, exporter, action, bytes: None, instances };
    let mut fields = RateLimitHeaders::default();
    let checked = gate.limits.check_principal(&usage, &mut fields);
    fields.append_to(reply);
    checked.map_err(|exceeded| refusal(exceeded, route))
}

/// Takes what a permitted request needs of every limit that it is for. `reply` is told how they stand, whatever becomes of
/// the request.
pub(super) fn charge(
    gate: &Gate,
    permit: &Permit<'_>,
    cost: &RequestCost,
    record: &mut Record,
    reply: &mut HeaderMap,
) -> Result<Reservation, Refusal> {
    let Permit { principal, roles, action, route, .. } = permit;
    // what asks a model without instances that can be counted is one
    let instances = is_inference(route).then(|| cost.instances.unwrap_or(1));
    let (kind, exporter) = (route.kind(), exporter(route));
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

/// Whether a model is asked.
fn is_inference(route: &Route<'_>) -> bool {
    matches!(route, Route::Vertex { group: Group::Infer, .. })
}

fn refusal(exceeded: Exceeded, route: &str) -> Refusal {
    let Exceeded { limit, policy, reason, wait, text } = exceeded;
    let status = match (wait, route) {
        // no waiting helps: RFC 9110 section 15.5.14, and no client tries 413 again
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
