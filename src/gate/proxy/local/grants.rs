//! The grants API: reads a grant command before policy decides on it, and executes it after the decision.
//!
//! Promises: a grant never changes without a permit for that grant. Its requester never approves it. A role that separation
//! of duty excludes is refused when the grant is requested and when it is approved; the decision on each request enforces
//! separation of duty again. A list shows the caller its own grants, and other principals' grants only if the caller may
//! approve or revoke them.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::gate::proxy::{
    authorize::{Permit, is_permitted},
    gate::Gate,
};
use crate::{
    clock,
    gate::{
        audit::{Record, RecordedGrant},
        grants::{Asker, Grant, GrantCommand, Grants, Scope, State},
        identity::AuthContext,
        policy::{GrantResource, Resource, is_role},
        routes::{Matched, Route},
    },
    http::{Body, content_type, is_media_type, read_bounded},
    principal::Principal,
    refusal::Refusal,
};

/// Largest request; one is a few hundred bytes.
const MAX_BODY: usize = 8 * 1024;
const BODY_DEADLINE: Duration = Duration::from_secs(10);
/// Longest reason, in bytes.
const MAX_REASON: usize = 500;
/// Most grants in one list.
const MAX_LISTED: usize = 1_000;
/// Most decisions about other principals' grants for one list.
const MAX_EVALUATED: usize = 2_000;

/// The body of a grant request.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantRequest {
    role: String,
    resource: String,
    /// A duration such as `2h`.
    r#for: String,
    reason: String,
}

/// The optional body of an approval.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct ApprovalRequest {
    /// A shorter duration than the request's.
    r#for: Option<String>,
}

/// Reads the grant that a command is for, so that policy can decide on it. Returns other routes unchanged.
pub(in crate::gate::proxy) async fn read_command<'r>(
    gate: &Gate,
    mut matched: Matched<'r>,
    principal: &Principal,
    context: AuthContext<'_>,
    body: Body,
    record: &mut Record,
) -> Result<(Matched<'r>, Body), Refusal> {
    let (Route::Grants(command), Some(grants)) = (&matched.route, &gate.grants) else { return Ok((matched, body)) };
    let (command, grant) = match command {
        GrantCommand::List { .. } => return Ok((matched, body)),
        GrantCommand::Request(_) => {
            let grant = new_grant(grants, json_body(context.headers, body).await?, principal, context.now)?;
            (GrantCommand::Request(Some(Box::new(grant.clone()))), Arc::new(grant))
        }
        GrantCommand::Approve(id, _) => {
            let ApprovalRequest { r#for } = json_body(context.headers, body).await?;
            let seconds = r#for.map(|text| seconds(&text)).transpose()?;
            (GrantCommand::Approve(*id, seconds), grants.find(*id)?)
        }
        GrantCommand::Deny(id) | GrantCommand::Revoke(id) => (command.clone(), grants.find(*id)?),
    };
    record.grant = Some(Box::new(recorded_grant(&grant)));
    let resource = resource(&grant);
    record.resource = Some(resource.id().clone());
    matched.resource = Cow::Owned(resource);
    matched.route = Route::Grants(command);
    Ok((matched, Body::Empty))
}

/// Executes a permitted command.
pub(in crate::gate::proxy) async fn execute(
    gate: &Gate,
    permit: &Permit<'_>,
    command: &GrantCommand,
    context: AuthContext<'_>,
    record: &mut Record,
) -> Result<Response<Body>, Refusal> {
    let grants = gate.grants.as_ref().ok_or_else(no_grant)?;
    let by = &permit.principal.name;
    let (status, grant) = match command {
        GrantCommand::List { pending_only } => return Ok(list(gate, grants, permit, context, *pending_only)),
        GrantCommand::Request(grant) => {
            let mut grant = grant.as_deref().cloned().ok_or_else(no_grant)?;
            // all roles, not only the one that is active for this request
            grant.asker.roles = gate.policy.all_held_roles(&permit.principal);
            check_role_not_held(&grant)?;
            check_separation(gate, grants, &grant, context.now)?;
            (StatusCode::CREATED, grants.ask(grant).await?)
        }
        GrantCommand::Approve(id, seconds) => {
            let step = |grant: &Grant| {
                let next = grant.approve(by, *seconds, clock::now())?;
                check_separation(gate, grants, grant, context.now)?;
                Ok(next)
            };
            (StatusCode::OK, grants.change(*id, step).await?)
        }
        GrantCommand::Deny(id) => (StatusCode::OK, grants.change(*id, |grant| grant.deny(by, clock::now())).await?),
        GrantCommand::Revoke(id) => (StatusCode::OK, grants.change(*id, |grant| grant.revoke(by, clock::now())).await?),
    };
    record.grant = Some(Box::new(recorded_grant(&grant)));
    Ok(json_response(status, &grant.view(clock::now())))
}

/// The requested grant, after every check that needs no policy.
fn new_grant(
    grants: &Grants,
    request: GrantRequest,
    principal: &Principal,
    now: clock::Timestamp,
) -> Result<Grant, Refusal> {
    let GrantRequest { role, resource, r#for, reason } = request;
    let wrong = |reason, text: String| Err(Refusal::malformed(reason, text));
    let no_scope = |no| Refusal::malformed("grant_resource", format!("`resource`: {no}"));
    if !is_role(&role) {
        return wrong("grant_role", "`role` must be the name of a role in roles.toml".to_owned());
    }
    let scope = Scope::parse(&resource).map_err(no_scope)?;
    let reason = reason.trim();
    if reason.is_empty() || reason.len() > MAX_REASON || reason.contains(char::is_control) {
        let text = format!(
            "`reason` must be one line of at most {MAX_REASON} bytes that explains the request to its approver"
        );
        return wrong("grant_reason", text);
    }
    let seconds = seconds(&r#for)?;
    let most = grants.settings.max.as_secs();
    if seconds > most {
        return wrong("grant_duration", format!("`for` may be at most {most} s"));
    }
    let Principal { name, issuer, subject, .. } = principal;
    Ok(Grant {
        id: Uuid::now_v7(),
        asker: Asker { name: name.clone(), issuer: issuer.clone(), subject: subject.clone(), roles: Arc::default() },
        role: role.into(),
        resource: scope,
        reason: reason.into(),
        asked_at: now,
        answer_by: clock::after(now, grants.settings.pending),
        seconds,
        approved: None,
        ended: None,
    })
}

/// Refuses a role that the requester already has.
fn check_role_not_held(grant: &Grant) -> Result<(), Refusal> {
    if grant.asker.roles.contains(&grant.role) {
        let text = format!("you already have the role `{}` without a grant", grant.role);
        return Err(Refusal::new(StatusCode::CONFLICT, "role_held", text));
    }
    Ok(())
}

/// Refuses a role that separation of duty excludes: because of a role that the requester had at the request, or of one
/// that it was granted or has requested on the same resource.
fn check_separation(gate: &Gate, grants: &Grants, grant: &Grant, now: clock::Timestamp) -> Result<(), Refusal> {
    let refuse = |other: &str, how: String| {
        let text = format!(
            "separation of duty: `{}` may not be combined with `{other}`, which {} {how}",
            grant.role, grant.asker.name
        );
        Err(Refusal::new(StatusCode::FORBIDDEN, "separation_of_duty", text))
    };
    if let Some(other) = gate.policy.conflicting_role(&grant.asker.roles, &grant.role) {
        return refuse(other, "has".into());
    }
    for beside in grants.beside(grant.id, &grant.asker.name, &grant.resource, now) {
        if gate.policy.conflicting_role(std::slice::from_ref(&beside.role), &grant.role).is_some() {
            return refuse(&beside.role, format!("has or requested with the grant {}", beside.id));
        }
    }
    Ok(())
}

fn list(
    gate: &Gate,
    grants: &Grants,
    permit: &Permit<'_>,
    context: AuthContext<'_>,
    pending_only: bool,
) -> Response<Body> {
    let mut evaluated = 0;
    let mut more = false;
    let mut listed = Vec::new();
    for grant in grants.newest_first() {
        if pending_only && grant.state(context.now) != State::Pending {
            continue;
        }
        let own = grant.asker.name == permit.principal.name;
        if listed.len() == MAX_LISTED || !own && evaluated == MAX_EVALUATED {
            more = true;
            break;
        }
        evaluated += usize::from(!own);
        if own || may_decide(gate, permit, context, &grant) {
            listed.push(grant.view(context.now));
        }
    }
    json_response(StatusCode::OK, &json!({ "grants": listed, "more": more }))
}

/// Whether the caller may approve or revoke another principal's grant.
fn may_decide(gate: &Gate, permit: &Permit<'_>, context: AuthContext<'_>, grant: &Grant) -> bool {
    let Some(grant_routes) = gate.routes.grants() else { return false };
    let resource = resource(grant);
    let action = if grant.state(context.now) == State::Pending { &grant_routes.approve } else { &grant_routes.revoke };
    is_permitted(gate, permit, context, action, &resource)
}

fn resource(grant: &Grant) -> Resource {
    Resource::Grant(Box::new(GrantResource {
        id: grant.id.to_string().into(),
        role: grant.role.clone(),
        resource: grant.resource.text().clone(),
        asker: grant.asker.name.clone(),
        issuer: grant.asker.issuer.clone(),
        subject: grant.asker.subject.clone(),
        seconds: grant.seconds,
    }))
}

fn recorded_grant(grant: &Grant) -> RecordedGrant {
    RecordedGrant {
        id: grant.id,
        asker: grant.asker.name.clone(),
        role: grant.role.clone(),
        resource: grant.resource.text().clone(),
        reason: grant.reason.clone(),
        seconds: grant.seconds,
        until: grant.approved.as_ref().map(|approval| approval.until),
    }
}

/// Whole seconds of a duration such as `90s`, `30m` or `2h`.
fn seconds(text: &str) -> Result<u64, Refusal> {
    let span = text.parse::<jiff::SignedDuration>().ok().and_then(|span| u64::try_from(span.as_secs()).ok());
    span.filter(|seconds| *seconds > 0)
        .ok_or_else(|| Refusal::malformed("grant_duration", "`for` must be a duration such as `90s`, `30m` or `2h`"))
}

/// A request's JSON body. The media type is required, because an HTML form of another site cannot send it (CSRF).
async fn json_body<T: DeserializeOwned>(headers: &HeaderMap, body: Body) -> Result<T, Refusal> {
    if !is_media_type(content_type(headers), "application/json") {
        let text = "send the request as `application/json`";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", text));
    }
    let body = read_bounded(body, MAX_BODY, BODY_DEADLINE).await?;
    let wrong = |e: serde_json::Error| {
        let text = "send `{\"role\": …, \"resource\": …, \"for\": \"2h\", \"reason\": …}` to request a grant, and `{}` or `{\"for\": \"1h\"}` \
                    to approve";
        Refusal::malformed("not_a_grant", text).with_detail(e)
    };
    serde_json::from_slice(&body).map_err(wrong)
}

fn json_response(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn no_grant() -> Refusal {
    Refusal::malformed("not_a_grant", "the request contains no grant")
}
