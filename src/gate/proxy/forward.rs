//! Forwarding: sends a permitted request to its upstream with the route's credential.
//!
//! Promises: nothing is sent without a [`Permit`]; a route with a credential never forwards a request without it; an
//! upstream's own error text never reaches the client.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT_ENCODING, AUTHORIZATION},
};

use super::{
    answer::Answer,
    authorize::Permit,
    guardrails::Guardrails,
    headers::{sandbox, strip_response_headers},
    request_body::{StreamViolation, grpc_timeout},
    response_usage::ResponseUsage,
};
use crate::{
    client::{ClientError, Upstream, Worker},
    clock::Timestamp,
    gate::{
        audit::{PermitWritten, Record},
        routes::{Group, Route},
    },
    http::Body,
    principal::Caller,
    refusal::Refusal,
    secret::Credential,
    telemetry::chain,
};

/// The endpoint that a request to a dedicated host is for.
const ENDPOINT_ID: HeaderName = HeaderName::from_static("x-vertex-ai-endpoint-id");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Routing parameters of a gRPC call for Google's front ends (AIP-4222).
const REQUEST_PARAMS: HeaderName = HeaderName::from_static("x-goog-request-params");

/// The client's request after `headers::strip_request_headers`, and the worker whose connections send it.
pub(super) struct UpstreamRequest<'a> {
    pub(super) worker: Worker,
    pub(super) method: Method,
    pub(super) path_and_query: &'a str,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) now: Timestamp,
    pub(super) violation: Option<Arc<StreamViolation>>,
}

/// Sends the request to the permit's upstream with the route's credential, and streams the answer back.
pub(super) async fn forward(
    permit: &Permit<'_>,
    _written: &PermitWritten,
    request: UpstreamRequest<'_>,
    record: &mut Record,
) -> Result<Answer, Refusal> {
    let UpstreamRequest { worker, method, path_and_query, headers: mut to, body, now, violation } = request;
    let mut rpc = false;
    let (upstream, path, timeout): (&Upstream, _, _) = match &permit.route {
        Route::Exporter { exporter, path } => {
            if let Some(slot) = &exporter.credential {
                attach_credential(slot.name(), slot.usable(now), &mut to, record)?;
            }
            (&exporter.upstream, *path, exporter.timeout)
        }
        Route::Vertex { upstream, credential, group, timeout, params, endpoint_id, .. } => {
            let source = credential.ok_or_else(|| no_credential(group.name()))?;
            attach_credential(source.name(), source.usable(&permit.principal.name, now).await, &mut to, record)?;
            // `headers::strip_request_headers` removed the caller's own values of both
            to.extend(endpoint_id.map(|id| (ENDPOINT_ID, id.clone())));
            to.extend(params.clone().map(|params| (REQUEST_PARAMS, params)));
            rpc = params.is_some();
            // the model version is read from the response, which must not be compressed
            if *group == Group::Infer {
                let accepted = if rpc { GRPC_ACCEPT_ENCODING } else { ACCEPT_ENCODING };
                to.insert(accepted, HeaderValue::from_static("identity"));
            }
            let timeout = if rpc { (*timeout).min(grpc_timeout(&to)?) } else { *timeout };
            (*upstream, path_and_query, timeout)
        }
        Route::Discover { .. } | Route::Home | Route::Grants(_) | Route::Service { .. } => {
            return Err(no_upstream());
        }
    };
    let sent = async {
        if rpc {
            upstream.call(worker, path, to, body, timeout).await
        } else {
            upstream.send(worker, method, path, to, body, timeout).await
        }
    };
    let answer = tokio::select! {
        biased;
        why = violated(violation.as_deref()) => return Err(why),
        answer = sent => answer,
    };
    let mut response = answer.map_err(|e| unreachable_upstream(&e))?.map(Body::Stream);
    if response.status().is_informational() {
        // the gate never forwards `upgrade`
        let text = "the upstream switched protocols without a request to do so";
        return Err(Refusal::new(StatusCode::BAD_GATEWAY, "upstream_switched", text));
    }
    let response_usage = match &permit.route {
        Route::Vertex { group: Group::Infer, payload, .. } => {
            ResponseUsage::for_response(&permit.action, *payload, response.headers())
        }
        _ => ResponseUsage::None,
    };
    strip_response_headers(response.headers_mut());
    if let Route::Exporter { exporter, .. } = &permit.route
        && !exporter.scripts
    {
        sandbox(response.headers_mut());
    }
    if matches!(permit.route, Route::Vertex { .. })
        && let Some(model) = response.headers().get("x-vertex-ai-deployed-model-id").and_then(|v| v.to_str().ok())
    {
        record.model = Some(crate::gate::audit::cut(model));
    }
    Ok(Answer { response_usage, violation, ..Answer::from(response) })
}

/// Passes the request to the local service of its route.
pub(super) async fn serve_local(
    permit: &Permit<'_>,
    _written: &PermitWritten,
    guardrails: &Guardrails,
    method: Method,
    uri: &Uri,
    headers: HeaderMap,
    body: Body,
) -> Result<Response<Body>, Refusal> {
    let Route::Service { service, .. } = &permit.route else { return Err(no_upstream()) };
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = uri.clone();
    *request.headers_mut() = headers;
    let principal = permit.principal.name.clone();
    let roles = permit.roles.clone();
    let caller = Caller { principal, roles, write_rules: guardrails.write_rules() };
    service.serve(caller, request).await
}

/// Sets `Authorization` to the credential. Refuses if there is none: no request is sent without it.
fn attach_credential(
    name: &Arc<str>,
    usable: Option<Arc<Credential>>,
    to: &mut HeaderMap,
    record: &mut Record,
) -> Result<(), Refusal> {
    record.credential = Some(name.clone());
    let credential = usable.ok_or_else(|| no_credential(name))?;
    record.credential_generation = Some(credential.generation);
    to.insert(AUTHORIZATION, credential.authorization.clone());
    Ok(())
}

/// Waits for a message that the caller may not send. Never completes if messages are not checked.
async fn violated(violation: Option<&StreamViolation>) -> Refusal {
    match violation {
        Some(violation) => violation.wait().await,
        None => std::future::pending().await,
    }
}

fn no_credential(name: &str) -> Refusal {
    let text = "the gate has no valid credential for this upstream now; try again later";
    Refusal::unavailable("no_credential", text).with_detail(format!("credential {name}"))
}

fn no_upstream() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "wrong_route", "internal error: the matched route has no upstream")
}

/// 504 if the upstream missed the deadline, 502 otherwise. The upstream's error text goes to the log only. A client's
/// request body that ends early cannot be distinguished from an upstream failure here.
fn unreachable_upstream(error: &ClientError) -> Refusal {
    let refusal = match error {
        ClientError::Deadline(_) => {
            Refusal::new(StatusCode::GATEWAY_TIMEOUT, "upstream_timeout", "the upstream did not answer in time")
        }
        ClientError::Connect(_) => {
            Refusal::new(StatusCode::BAD_GATEWAY, "upstream_unreachable", "the upstream cannot be reached")
        }
        _ => Refusal::new(StatusCode::BAD_GATEWAY, "upstream_failed", "the upstream broke off"),
    };
    refusal.with_detail(chain(error))
}
