//! The story of a request.

use std::sync::{Arc, atomic::AtomicU64};

use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{
    Gate, Target,
    ask::ask,
    assertion::introduce,
    content::{Content, Head},
    forward::{Errand, deliver, forward},
    grants::{self, held},
    guard::{Asked, Guard},
    headers::{active_role, bounded, for_upstream, set_request_id},
    home,
    limit::{self, Known},
    open_page::OpenPage,
    recorded::{Answer, Recorded},
    refuse::{Manner, bound, denied, refuse},
    sd,
    target::authority,
};
use crate::{
    audit::{Decision, Record},
    client::Worker,
    clock::{self, Timestamp},
    grants::Held,
    http::Body,
    identity::Asking,
    listen::Unreadable,
    peer::Peer,
    policy::{Circumstances, Obligation, Question, Resource},
    principal::Principal,
    refusal::Refusal,
    routes::{Found, Route},
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

/// Answers one request, whatever becomes of it, and sees that its record is closed when the last byte has left.
pub async fn handle(gate: &Gate, worker: Worker, peer: &Peer, request: Request<Incoming>) -> Response<Recorded> {
    let now = clock::now();
    let record = Record::open(now, clock::monotonic(), peer.address, request.method().clone(), request.uri().path());
    let mut recorded = Recorded::open(record, gate);
    let manner = Manner::of(&request);
    let mut reply = HeaderMap::new();
    let answer = story(gate, worker, peer, request, now, &mut recorded, &mut reply).await;
    if answer.is_err() {
        recorded.refused();
    }
    let record = &mut recorded.record;
    let mut answer = answer.unwrap_or_else(|refusal| refuse(refusal, gate, record, &manner).into());
    for (name, value) in &reply {
        answer.response.headers_mut().append(name, value.clone());
    }
    set_request_id(answer.response.headers_mut(), record.id);
    recorded.answer(answer, now)
}

/// Writes the record of a request that could not even be read; the client has had its answer.
pub fn unreadable(gate: &Gate, peer: &Peer, what: Unreadable) {
    let mut record = Record::open(clock::now(), clock::monotonic(), peer.address, Method::default(), "");
    (record.status, record.reason) = match what {
        Unreadable::TooLarge => (Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), Some("headers_too_large")),
        Unreadable::Malformed => (Some(StatusCode::BAD_REQUEST), Some("not_http")),
    };
    gate.audit.close(&record, 0);
    gate.metrics.request(&record, 0);
}

/// The story. What may only happen after a check takes the check's result.
async fn story(
    gate: &Gate,
    worker: Worker,
    peer: &Peer,
    request: Request<Incoming>,
    now: Timestamp,
    recorded: &mut Recorded,
    reply: &mut HeaderMap,
) -> Result<Answer, Refusal> {
    let Recorded { record, spent, .. } = recorded;
    let (http::request::Parts { method, uri, version, mut headers, .. }, body) = request.into_parts();
    let body = counted(body, record);
    bounded(&headers)?;
    let target = Target::parse(&method, &uri, &headers)?;
    let asking = Asking { peer, method: &method, path: target.path, headers: &headers, now };
    if let Some(page) = OpenPage::find(gate, &method, target.path) {
        return Ok(page.answer(gate, asking, target, body, record, reply).await?.into());
    }

    let way = gate.routes.find(&method, target.path, target.path_and_query)?;
    record.route = Some(way.kind());
    record.action = Some(way.action().clone());
    record.resource = way.resource().map(|resource| resource.id().clone());

    let authenticated = gate.identity.authenticate(asking, reply).await;
    gate.metrics.token(&authenticated);
    let principal = authenticated?.principal;
    record.principal = Some(principal.name.clone());
    record.issuer = Some(principal.issuer.clone());
    bound(&principal, way.terms())?;

    limit::look(gate, &principal, &way, &body, reply)?;
    let head = Head { version, headers: asking.headers, query: target.query(), caller: &principal.name };
    let Content { found, body, size, named, instances, message, foul } = Content::read(way, head, body).await?;
    let (found, body) = grants::about(gate, found, &principal, asking, body, record).await?;
    record.action = Some(found.action.clone());
    record.resource = Some(found.resource.id().clone());
    let circumstances = Circumstances { size, named: named.as_ref(), ..Circumstances::new(peer, &method, now) };
    let permit = authorize(gate, principal, active_role(&headers)?, found, circumstances, record)?;
    let asked = Asked { size, instances, message: message.as_ref(), query: target.query() };
    let guard = Guard::hold(&permit, &asked).inspect_err(|_| record.decision = Decision::Deny)?;
    drop(message);
    *spent = limit::spend(gate, &permit, &Known { size, instances }, record, reply)?;
    gate.audit.permit(record).inspect_err(|_| record.decision = Decision::Deny)?;

    let answer = match &permit.route {
        Route::Exporter { .. } | Route::Vertex { .. } => {
            for_upstream(&mut headers, record.id);
            guard.ask(&mut headers);
            introduce(gate.issue.as_ref(), &permit, &mut headers, now)?;
            let errand = Errand { worker, method, path_and_query: target.path_and_query, headers, body, now, foul };
            guard.show(forward(&permit, errand, record).await?)?
        }
        Route::Service { .. } => {
            guard.ask(&mut headers);
            guard.show(deliver(&permit, &guard, method, &uri, headers, body).await?.into())?
        }
        Route::Discover { .. } => sd::list(gate, &permit, asking, authority(&uri, asking.headers)?).into(),
        Route::Home => home::page(gate, &permit, asking).into(),
        Route::Grants(wish) => grants::fulfil(gate, &permit, wish, asking, record).await?.into(),
    };
    Ok(answer.bounded(&permit, peer))
}

/// Asks policy. Deny is the answer to every doubt.
fn authorize<'r>(
    gate: &Gate,
    principal: Arc<Principal>,
    active: Option<&str>,
    found: Found<'r>,
    circumstances: Circumstances<'_>,
    record: &mut Record,
) -> Result<Permit<'r>, Refusal> {
    let resource: &Resource = &found.resource;
    let held = held(gate, &principal, resource, circumstances.now);
    if !held.grants.is_empty() {
        record.grants = Some(held.grants.iter().map(|grant| grant.id).collect());
    }
    let (action, granted) = (found.action, held.roles.as_slice());
    let question = Question { principal: &principal, granted, active, action, resource, circumstances };
    let ruling = ask(gate, question, record);
    if !ruling.allowed {
        return Err(denied(&ruling, found.action, resource));
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
        route: found.route,
        obligations,
        _made_by_authorize: (),
    })
}

/// The request's body, counted for the record.
fn counted(body: Incoming, record: &mut Record) -> Body {
    if hyper::body::Body::is_end_stream(&body) {
        return Body::Empty;
    }
    let count = Arc::new(AtomicU64::new(0));
    record.bytes_in = Some(count.clone());
    Body::Counted(body, count)
}

/// Asks policy a question besides the request's own, for lists that show only what the caller may use.
pub(super) fn may(
    gate: &Gate,
    permit: &Permit<'_>,
    asking: Asking<'_>,
    action: &Arc<str>,
    resource: &Resource,
) -> bool {
    let Ok(active) = active_role(asking.headers) else { return false };
    let circumstances = Circumstances::new(asking.peer, &Method::GET, asking.now);
    let held = held(gate, &permit.principal, resource, asking.now);
    let (principal, granted) = (&permit.principal, held.roles.as_slice());
    let question = Question { principal, granted, active, action, resource, circumstances };
    gate.policy.rule(question).allowed
}
