//! Authorization: asks policy about a request, records the decision, and makes the [`Permit`].
//!
//! Promises: this module alone makes a [`Permit`], and only if policy allowed the request; every doubt denies. The record
//! holds everything that policy was given except claims, so that `policy replay` can repeat the decision. The shadow
//! policies get the same request; their decision reaches the record and a metric only.

use std::sync::Arc;

use http::{Method, StatusCode};

use super::{gate::Gate, headers::active_role};
use crate::{
    clock::Timestamp,
    gate::{
        audit::{Decision, Record, RecordedBodyNames, RecordedContext, cut},
        grants::GrantedRoles,
        identity::AuthContext,
        policy::{AccessRequest, BodyNames, Denial, Obligation, PolicyDecision, RequestContext, Resource},
        routes::{Matched, Route, RouteOptions, TokenBinding},
    },
    principal::Principal,
    refusal::Refusal,
};

/// The permission to serve one request. Only [`authorize`] makes one, and only if policy allowed the request.
pub(super) struct Permit<'r> {
    pub(super) principal: Arc<Principal>,
    pub(super) roles: Arc<[Arc<str>]>,
    pub(super) action: Arc<str>,
    /// The grants that the decision used besides the principal's own roles. The permit ends with them.
    pub(super) grants: GrantedRoles,
    pub(super) route: Route<'r>,
    /// The obligations that the matching policies attach to the permission.
    pub(super) obligations: Arc<[Arc<Obligation>]>,
    /// Private, so that no other module can construct a permit.
    _made_by_authorize: (),
}

/// Refuses a plain bearer token if the route requires a bound one.
pub(super) fn require_bound_token(principal: &Principal, options: RouteOptions) -> Result<(), Refusal> {
    if options.token_binding == TokenBinding::Optional || principal.confirmation.is_some() {
        return Ok(());
    }
    let text = "this route requires a token that is bound to a client certificate (RFC 8705) or to a DPoP key (RFC 9449), or a \
                client certificate alone; request such a token from your identity provider";
    Err(Refusal::new(StatusCode::UNAUTHORIZED, "token_not_bound", text))
}

/// Decides on the request by policy and records the decision. Every doubt denies.
pub(super) fn authorize<'r>(
    gate: &Gate,
    principal: Arc<Principal>,
    active: Option<&str>,
    matched: Matched<'r>,
    request_context: RequestContext<'_>,
    record: &mut Record,
) -> Result<Permit<'r>, Refusal> {
    let resource: &Resource = &matched.resource;
    let grants = active_grants(gate, &principal, resource, request_context.now);
    if !grants.grants.is_empty() {
        record.grants = Some(grants.grants.iter().map(|grant| grant.id).collect());
    }
    let action = matched.action;
    let access_request = AccessRequest {
        principal: &principal,
        granted_roles: &grants.roles,
        active_role: active,
        action,
        resource,
        context: request_context,
    };
    let decision = decide_and_record(gate, access_request, record);
    if !decision.allowed {
        return Err(denial_refusal(&decision, matched.action, resource));
    }
    record.decision = Decision::Allow;
    let obligations = decision.obligations.clone();
    if !obligations.is_empty() {
        record.obligations = Some(obligations.iter().map(|obligation| obligation.name.clone()).collect());
    }
    Ok(Permit {
        principal,
        roles: decision.roles.clone(),
        action: action.clone(),
        grants,
        route: matched.route,
        obligations,
        _made_by_authorize: (),
    })
}

/// Whether policy would permit this action too. Lists use it to show only what the caller may use; nothing is recorded.
pub(super) fn is_permitted(
    gate: &Gate,
    permit: &Permit<'_>,
    context: AuthContext<'_>,
    action: &Arc<str>,
    resource: &Resource,
) -> bool {
    let Ok(active) = active_role(context.headers) else { return false };
    let request_context = RequestContext::new(context.peer, &Method::GET, context.now);
    let grants = active_grants(gate, &permit.principal, resource, context.now);
    let access_request = AccessRequest {
        principal: &permit.principal,
        granted_roles: &grants.roles,
        active_role: active,
        action,
        resource,
        context: request_context,
    };
    gate.policy.decide(access_request).allowed
}

/// The principal's active grants on this resource.
fn active_grants(gate: &Gate, principal: &Principal, resource: &Resource, now: Timestamp) -> GrantedRoles {
    gate.grants.as_ref().map(|grants| grants.active_grants(&principal.name, resource, now)).unwrap_or_default()
}

/// Decides by policy, and writes the decision and the shadow decision to the record.
pub(super) fn decide_and_record(
    gate: &Gate,
    access_request: AccessRequest<'_>,
    record: &mut Record,
) -> Arc<PolicyDecision> {
    let decision = gate.policy.decide(access_request);
    record.roles = Some(decision.roles.clone());
    record.policies = Some(decision.policies.clone());
    record.active_role = access_request.active_role.map(Into::into);
    record.held_roles = access_request
        .active_role
        .map(|_| gate.policy.held_roles(access_request.principal, access_request.granted_roles));
    let RequestContext { tls, size, certificate, names, .. } = access_request.context;
    record.context = Some(RecordedContext::new(tls, size, certificate, names.map(recorded_names)));
    record_shadow(gate, access_request, &decision, record);
    decision
}

fn record_shadow(gate: &Gate, access_request: AccessRequest<'_>, enforced: &PolicyDecision, record: &mut Record) {
    let Some(shadow) = gate.policy.shadow(access_request, enforced) else { return };
    let outcome = if shadow.decision.allowed { Decision::Allow } else { Decision::Deny };
    gate.metrics.shadow(outcome, shadow.differs);
    record.shadow_decision = Some(outcome);
    if shadow.differs {
        record.shadow_policies = Some(shadow.decision.policies.clone());
        record.shadow_roles = Some(&shadow.decision.roles).filter(|roles| **roles != enforced.roles).cloned();
    }
    if let Some(Denial::Error(error)) = &shadow.decision.denial {
        record.shadow_error = Some(cut(error));
    }
}

fn recorded_names(named: &BodyNames) -> RecordedBodyNames {
    RecordedBodyNames {
        resources: named.resources.iter().map(|resource| (*resource.name).into()).collect(),
        buckets: named.buckets.iter().cloned().collect(),
        service_accounts: named.service_accounts.iter().cloned().collect(),
    }
}

/// The refusal for a decision that denies.
pub(super) fn denial_refusal(decision: &PolicyDecision, action: &Arc<str>, resource: &Resource) -> Refusal {
    let reason = decision.denial.as_ref().unwrap_or(&Denial::NotPermitted).reason();
    let forbidden = |text: String| Refusal::new(StatusCode::FORBIDDEN, reason, text);
    let attempt = format!("`{action}` on `{}`", resource.id());
    match &decision.denial {
        Some(Denial::Separation([one, other], rules)) => {
            let text = format!(
                "separation of duty: your roles `{one}` and `{other}` may not be combined; use a token that carries only one \
                 of them"
            );
            forbidden(text).with_detail(rules)
        }
        Some(Denial::RoleNotActivated(roles)) => {
            let first = roles.first().map_or("", |role| role);
            let all = roles.join(", ");
            let text = format!(
                "only one of your roles {all} may be active at a time; name it in the header `X-Wicketgate-Role: {first}`"
            );
            forbidden(text)
        }
        Some(Denial::RoleNotHeld(role)) => {
            let text = format!("the header `X-Wicketgate-Role` names the role `{role}`, which you do not have");
            forbidden(text)
        }
        Some(Denial::Forbidden) => forbidden(format!("a policy forbids {attempt}")),
        Some(Denial::Error(error)) => {
            forbidden("the request is denied because a policy could not be evaluated".into()).with_detail(error)
        }
        Some(Denial::NotPermitted) | None => {
            let roles = match &*decision.roles {
                [] => "none of your claims matches a role".to_owned(),
                roles => format!("your roles ({}) do not allow it", roles.join(", ")),
            };
            forbidden(format!("no policy permits {attempt}: {roles}"))
        }
    }
}
