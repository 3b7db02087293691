//! Authorization: policy is asked about a request, the record keeps question and answer, and a `Permit` is made.
//!
//! Promises: this module alone makes a [`Permit`], and only if policy allowed the request; every doubt denies. The record
//! holds everything that policy was given except claims, so that the same question can be asked again. The shadow policies
//! get the same question; their answer reaches the record and a metric only.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::{gate::Gate, headers::active_role};
use crate::{
    clock::Timestamp,
    gate::{
        audit::{Decision, Record, RecordedBodyNames, RecordedContext, cut},
        grants::Held,
        identity::AuthContext,
        policy::{AccessRequest, BodyNames, Denial, Obligation, PolicyDecision, RequestContext, Resource},
        routes::{Matched, Route, RouteOptions, TokenBinding},
    },
    principal::Principal,
    refusal::Refusal,
};

/// Leave to act: made by [`authorize`] alone, and only when policy allowed it.
pub(super) struct Permit<'r> {
    pub(super) principal: Arc<Principal>,
    pub(super) roles: Arc<[Arc<str>]>,
    pub(super) action: Arc<str>,
    /// What it stands on besides the principal's own roles; it ends with them.
    pub(super) held: Held,
    pub(super) route: Route<'r>,
    /// What policy obliges the gate to when it lets this pass.
    pub(super) obligations: Arc<[Arc<Obligation>]>,
    /// Keeps the struct from being made elsewhere.
    _made_by_authorize: (),
}

/// Refuses a token that whoever has it may use, where the route takes none such.
pub(super) fn bound(principal: &Principal, options: RouteOptions) -> Result<(), Refusal> {
    if options.token_binding == TokenBinding::Optional || principal.confirmation.is_some() {
        return Ok(());
    }
    let text = "this takes only what is bound to its sender: a token bound to a client certificate (RFC 8705) or to a DPoP key \
                (RFC 9449), or a client certificate alone; ask your identity provider for such a token";
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "token_not_bound", text))
}

/// Asks policy. Deny is the answer to every doubt.
pub(super) fn authorize<'r>(
    gate: &Gate,
    principal: Arc<Principal>,
    active: Option<&str>,
    matched: Matched<'r>,
    request_context: RequestContext<'_>,
    record: &mut Record,
) -> Result<Permit<'r>, Refusal> {
    let resource: &Resource = &matched.resource;
    let held = held(gate, &principal, resource, request_context.now);
    if !held.grants.is_empty() {
        record.grants = Some(held.grants.iter().map(|grant| grant.id).collect());
    }
    let (action, granted) = (matched.action, held.roles.as_slice());
    let question = AccessRequest {
        principal: &principal,
        granted_roles: granted,
        active_role: active,
        action,
        resource,
        context: request_context,
    };
    let ruling = ask(gate, question, record);
    if !ruling.allowed {
        return Err(denied(&ruling, matched.action, resource));
    }
    record.decision = Decision::Allow;
    let obligations = ruling.obligations.clone();
    if !obligations.is_empty() {
        record.obligations = Some(obligations.iter().map(|obligation| obligation.name.clone()).collect());
    }
    Ok(Permit {
        principal,
        roles: ruling.roles.clone(),
        action: action.clone(),
        held,
        route: matched.route,
        obligations,
        _made_by_authorize: (),
    })
}

/// Asks policy a question besides the request's own, for lists that show only what the caller may use.
pub(super) fn may(
    gate: &Gate,
    permit: &Permit<'_>,
    context: AuthContext<'_>,
    action: &Arc<str>,
    resource: &Resource,
) -> bool {
    let Ok(active) = active_role(context.headers) else { return false };
    let request_context = RequestContext::new(context.peer, &Method::GET, context.now);
    let held = held(gate, &permit.principal, resource, context.now);
    let (principal, granted) = (&permit.principal, held.roles.as_slice());
    let question = AccessRequest {
        principal,
        granted_roles: granted,
        active_role: active,
        action,
        resource,
        context: request_context,
    };
    gate.policy.decide(question).allowed
}

/// What the principal is granted on this resource.
fn held(gate: &Gate, principal: &Principal, resource: &Resource, now: Timestamp) -> Held {
    gate.grants.as_ref().map(|grants| grants.held(&principal.name, resource, now)).unwrap_or_default()
}

/// Asks policy.
pub(super) fn ask(gate: &Gate, question: AccessRequest<'_>, record: &mut Record) -> Arc<PolicyDecision> {
    let ruling = gate.policy.decide(question);
    record.roles = Some(ruling.roles.clone());
    record.policies = Some(ruling.policies.clone());
    record.active_role = question.active_role.map(Into::into);
    record.held_roles =
        question.active_role.map(|_| gate.policy.held_roles(question.principal, question.granted_roles));
    let told = question.context;
    record.context = Some(RecordedContext::new(told.tls, told.size, told.certificate, told.names.map(names)));
    shadow(gate, question, &ruling, record);
    ruling
}

fn shadow(gate: &Gate, question: AccessRequest<'_>, enforced: &PolicyDecision, record: &mut Record) {
    let Some(shadowed) = gate.policy.shadow(question, enforced) else { return };
    let ruling = shadowed.ruling;
    let decision = if ruling.allowed { Decision::Allow } else { Decision::Deny };
    gate.metrics.shadow(decision, shadowed.differs);
    record.shadow_decision = Some(decision);
    if shadowed.differs {
        record.shadow_policies = Some(ruling.policies.clone());
        record.shadow_roles = Some(&ruling.roles).filter(|roles| **roles != enforced.roles).cloned();
    }
    if let Some(Denial::Error(error)) = &ruling.denial {
        record.shadow_error = Some(cut(error));
    }
}

fn names(named: &BodyNames) -> RecordedBodyNames {
    RecordedBodyNames {
        resources: named.resources.iter().map(|resource| (*resource.name).into()).collect(),
        buckets: named.buckets.iter().cloned().collect(),
        service_accounts: named.service_accounts.iter().cloned().collect(),
    }
}

/// The refusal that a ruling means.
pub(super) fn denied(ruling: &PolicyDecision, action: &Arc<str>, resource: &Resource) -> Refusal {
    let reason = ruling.denial.as_ref().unwrap_or(&Denial::NotPermitted).reason();
    let forbidden = |text: String| Refusal::new(StatusCode::FORBIDDEN, reason, text);
    let asked = format!("`{action}` on `{}`", resource.id());
    match &ruling.denial {
        Some(Denial::Separation(rules)) => forbidden(
            "you would hold roles that are kept apart; bring a token with one of them, or have one taken away".into(),
        )
        .with_detail(rules),
        Some(Denial::RoleNotActivated(roles)) => {
            let (first, all) = (roles.first().map_or("", |role| role), roles.join(", "));
            let text = format!(
                "you hold roles of which one may be active at a time ({all}); say which with the header \
                 `X-Wicketgate-Role: {first}`"
            );
            forbidden(text)
        }
        Some(Denial::RoleNotHeld(role)) => {
            let text = format!("you do not hold the role `{role}` that the header `X-Wicketgate-Role` would activate");
            forbidden(text)
        }
        Some(Denial::Forbidden) => forbidden(format!("a policy forbids you {asked}")),
        Some(Denial::Error(error)) => {
            forbidden("policy could not be evaluated, so this is denied".into()).with_detail(error)
        }
        Some(Denial::NotPermitted) | None => {
            let roles = match &*ruling.roles {
                [] => "none of your claims earns a role here".to_owned(),
                roles => format!("your roles ({}) do not allow it", roles.join(", ")),
            };
            forbidden(format!("you may not do {asked}: {roles}"))
        }
    }
}
