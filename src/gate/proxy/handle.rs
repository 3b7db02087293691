//! The story of a request.

use std::sync::{Arc, atomic::AtomicU64};

use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{
    answer::Answer,
    audited_body::AuditedBody,
    authorize::{authorize, require_bound_token},
    error_response::{ErrorFormat, error_response},
    forward::{UpstreamRequest, forward, serve_local},
    gate::Gate,
    guardrails::{Guardrails, RequestFacts},
    headers::{active_role, check_header_size, set_request_id, strip_request_headers},
    identity_headers::add_identity_headers,
    limit::{self, RequestCost},
    local::{grants, home, sd},
    open::OpenPage,
    request_body::{RequestBody, RequestHead},
    target::{Target, authority},
};
use crate::{
    client::Worker,
    clock::{self, Timestamp},
    gate::{
        audit::{Decision, Record},
        identity::AuthContext,
        listen::ParseFailure,
        policy::RequestContext,
        routes::Route,
    },
    http::Body,
    peer::Peer,
    refusal::Refusal,
};

/// Answers one request, whatever becomes of it, and sees that its record is closed when the last byte has left.
pub(crate) async fn handle(
    gate: &Gate,
    worker: Worker,
    peer: &Peer,
    request: Request<Incoming>,
) -> Response<AuditedBody> {
    let now = clock::now();
    let record = Record::open(now, clock::monotonic(), peer.address, request.method().clone(), request.uri().path());
    let mut audited = AuditedBody::open(record, gate);
    let format = ErrorFormat::of(&request);
    let mut reply = HeaderMap::new();
    let answer = story(gate, worker, peer, request, now, &mut audited, &mut reply).await;
    if answer.is_err() {
        audited.settle_refused();
    }
    let record = &mut audited.record;
    let mut answer = answer.unwrap_or_else(|refusal| error_response(refusal, gate, record, &format).into());
    for (name, value) in &reply {
        answer.response.headers_mut().append(name, value.clone());
    }
    set_request_id(answer.response.headers_mut(), record.id);
    audited.into_response(answer, now)
}

/// Writes the record of a request that could not even be read; the client has had its answer.
pub(crate) fn record_parse_failure(gate: &Gate, peer: &Peer, what: ParseFailure) {
    let mut record = Record::open(clock::now(), clock::monotonic(), peer.address, Method::default(), "");
    (record.status, record.reason) = match what {
        ParseFailure::TooLarge => (Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE), Some("headers_too_large")),
        ParseFailure::Malformed => (Some(StatusCode::BAD_REQUEST), Some("not_http")),
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
    audited: &mut AuditedBody,
    reply: &mut HeaderMap,
) -> Result<Answer, Refusal> {
    let AuditedBody { record, reservation, .. } = audited;
    let (http::request::Parts { method, uri, version, mut headers, .. }, body) = request.into_parts();
    let body = count_body(body, record);
    check_header_size(&headers)?;
    let target = Target::parse(&method, &uri, &headers)?;
    let context = AuthContext { peer, method: &method, path: target.path, headers: &headers, now };
    if let Some(page) = OpenPage::find(gate, &method, target.path) {
        return Ok(page.answer(gate, context, target, body, record, reply).await?.into());
    }

    let route = gate.routes.find(&method, target.path, target.path_and_query)?;
    record.route = Some(route.kind());
    record.action = Some(route.action().clone());
    record.resource = route.resource().map(|resource| resource.id().clone());

    let authenticated = gate.identity.authenticate(context, reply).await;
    gate.metrics.token(&authenticated);
    let principal = authenticated?.principal;
    record.principal = Some(principal.name.clone());
    record.issuer = Some(principal.issuer.clone());
    require_bound_token(&principal, route.options())?;

    limit::check_before_body(gate, &principal, &route, &body, reply)?;
    let head = RequestHead { version, headers: context.headers, query: target.query(), caller: &principal.name };
    let RequestBody { found, body, size, named, instances, message, violation } =
        RequestBody::read(route, head, body).await?;
    let (found, body) = grants::read_command(gate, found, &principal, context, body, record).await?;
    record.action = Some(found.action.clone());
    record.resource = Some(found.resource.id().clone());
    let request_context = RequestContext { size, names: named.as_ref(), ..RequestContext::new(peer, &method, now) };
    let permit = authorize(gate, principal, active_role(&headers)?, found, request_context, record)?;
    let facts = RequestFacts { size, instances, message: message.as_ref(), query: target.query() };
    let guardrails = Guardrails::apply(&permit, &facts).inspect_err(|_| record.decision = Decision::Deny)?;
    drop(message);
    *reservation = limit::charge(gate, &permit, &RequestCost { size, instances }, record, reply)?;
    let written = gate.audit.permit(record).inspect_err(|_| record.decision = Decision::Deny)?;

    let answer = match &permit.route {
        Route::Exporter { .. } | Route::Vertex { .. } => {
            strip_request_headers(&mut headers, record.id);
            guardrails.rewrite_request(&mut headers);
            add_identity_headers(gate.token_issuer.as_ref(), &permit, &mut headers, now)?;
            let upstream_request = UpstreamRequest {
                worker,
                method,
                path_and_query: target.path_and_query,
                headers,
                body,
                now,
                violation,
            };
            guardrails.filter_response(forward(&permit, &written, upstream_request, record).await?)?
        }
        Route::Service { .. } => {
            guardrails.rewrite_request(&mut headers);
            guardrails.filter_response(
                serve_local(&permit, &written, &guardrails, method, &uri, headers, body).await?.into(),
            )?
        }
        Route::Discover { .. } => sd::list(gate, &permit, context, authority(&uri, context.headers)?).into(),
        Route::Home => home::page(gate, &permit, context).into(),
        Route::Grants(command) => grants::execute(gate, &permit, command, context, record).await?.into(),
    };
    Ok(answer.with_stream_end(&permit, peer))
}

/// The request's body, counted for the record.
fn count_body(body: Incoming, record: &mut Record) -> Body {
    if hyper::body::Body::is_end_stream(&body) {
        return Body::Empty;
    }
    let count = Arc::new(AtomicU64::new(0));
    record.bytes_in = Some(count.clone());
    Body::Counted(body, count)
}
