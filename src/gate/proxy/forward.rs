//! Sending a permitted request on.

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
        audit::Record,
        routes::{Group, Route},
    },
    http::Body,
    principal::Caller,
    refusal::Refusal,
    secret::Credential,
    telemetry::chain,
};

/// Tells a dedicated host which endpoint is meant.
const ENDPOINT_ID: HeaderName = HeaderName::from_static("x-vertex-ai-endpoint-id");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// Tells Google's front ends where a gRPC call goes (AIP-4222).
const REQUEST_PARAMS: HeaderName = HeaderName::from_static("x-goog-request-params");

/// What remains of the client's request after `headers::strip_request_headers`, and where it is sent from.
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
            // what the caller said of both is gone by now (`headers::strip_request_headers`)
            to.extend(endpoint_id.map(|id| (ENDPOINT_ID, id.clone())));
            to.extend(params.clone().map(|params| (REQUEST_PARAMS, params)));
            rpc = params.is_some();
            // so that the record can hold the version that answered
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
        // nobody asked it to: `upgrade` is not passed on
        let text = "the upstream wants to speak another protocol";
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

/// Hands the request to the part of the gate that answers it.
pub(super) async fn serve_local(
    permit: &Permit<'_>,
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
    let (principal, roles) = (permit.principal.name.clone(), permit.roles.clone());
    let caller = Caller { principal, roles, write_rules: guardrails.write_rules() };
    service.serve(caller, request).await
}

/// Puts the credential on the request in place of whatever stood there, or refuses: never a bare request.
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

/// Waits for a message of the caller's that it must not send; for ever where it may send what it wants.
async fn violated(violation: Option<&StreamViolation>) -> Refusal {
    match violation {
        Some(violation) => violation.wait().await,
        None => std::future::pending().await,
    }
}

fn no_credential(name: &str) -> Refusal {
    let text = "the gate has no valid credential for this upstream at the moment; try again later";
    Refusal::unavailable("no_credential", text).with_detail(format!("credential {name}"))
}

fn no_upstream() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "wrong_route", "internal error: the matched route has no upstream")
}

/// 504 when the upstream was too slow, 502 otherwise; its own words stay in the log. A body of the client's that broke
/// off looks the same from here.
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
