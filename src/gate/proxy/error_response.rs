//! Error responses: the only place that turns a refusal into a response.
//!
//! Promises: every format carries the same text; the response never holds `Refusal::detail`, which is for the audit log.

use http::{
    HeaderValue, Request, Response, StatusCode, Version,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{
    gate::Gate,
    grpc_status::{canonical_code, trailers},
    open::paths::RESOURCE_METADATA,
    pages::{self, Navigation},
    request_body::is_grpc,
};
use crate::{
    gate::{audit::Record, identity::dpop::proof::ALGORITHMS},
    http::Body,
    refusal::Refusal,
};

/// The error format that the client can read.
pub(super) enum ErrorFormat {
    /// `application/problem+json` (RFC 9457).
    Problem,
    /// An HTML page, for a browser navigation.
    Page(Navigation),
    /// gRPC status trailers.
    Grpc,
}

impl ErrorFormat {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        if request.version() == Version::HTTP_2 && is_grpc(request.headers()) {
            return Self::Grpc;
        }
        Navigation::of(request).map_or(Self::Problem, Self::Page)
    }
}

/// Renders the refusal in the client's format and writes its reason to the record. Problem documents also carry the
/// stable reason and the request id. A browser that only needs to log in is redirected to the login.
///
/// The record's decision stays what policy decided: an unreachable upstream does not turn an allowed request into a
/// denied one.
pub(super) fn error_response(
    refusal: Refusal,
    gate: &Gate,
    record: &mut Record,
    format: &ErrorFormat,
) -> Response<Body> {
    record.reason = Some(refusal.reason);
    record.limit = refusal.limit.as_ref().map(|violated| violated.limit.clone());
    if let Some(detail) = &refusal.detail {
        record.keep_detail(detail);
    }
    let mut response = match format {
        ErrorFormat::Page(navigation) if needs_login(&refusal) && gate.identity.sessions().is_some() => {
            return pages::see_other(&navigation.to_login());
        }
        ErrorFormat::Page(_) => pages::refusal(&refusal, record),
        ErrorFormat::Grpc => grpc_response(&refusal),
        ErrorFormat::Problem => problem(&refusal, record),
    };
    let to = response.headers_mut();
    to.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(wait) = refusal.retry_after {
        to.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    // RFC 9110 section 15.5.6: a 405 MUST list the allowed methods
    to.extend(refusal.allow.map(|methods| (ALLOW, HeaderValue::from_static(methods))));
    if refusal.status == StatusCode::UNAUTHORIZED {
        let challenges = challenges(&refusal, gate);
        to.extend(challenges.iter().filter_map(|text| Some((WWW_AUTHENTICATE, HeaderValue::from_str(text).ok()?))));
    }
    response
}

/// The problem type of limits (draft-ietf-httpapi-ratelimit-headers-11 section 5.1).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// Whether a login would resolve the refusal. An invalid token is an error that its sender must see.
fn needs_login(refusal: &Refusal) -> bool {
    matches!(refusal.reason, "no_token" | "session_invalid" | "session_ended")
}

fn problem(refusal: &Refusal, record: &Record) -> Response<Body> {
    let mut problem = serde_json::json!({
        "type": "about:blank",
        "title": refusal.status.canonical_reason().unwrap_or("refused"),
        "status": refusal.status.as_u16(),
        "detail": refusal.text,
        "reason": refusal.reason,
        "request_id": record.id,
    });
    if let (Some(violated), Some(members)) = (&refusal.limit, problem.as_object_mut()) {
        members.insert("type".into(), QUOTA_EXCEEDED.into());
        members.insert("violated-policies".into(), serde_json::json!([violated.policy]));
    }
    let is_vertex = record.route == Some("vertex")
        || matches!(refusal.reason, "unknown_method" | "unknown_location" | "unknown_project");
    if let (true, Some(members)) = (is_vertex, problem.as_object_mut()) {
        members.insert("error".into(), google_error(refusal));
        // RFC 9457 section 3.1.2 makes it optional, and google-genai mistakes it for `error.status`
        members.remove("status");
    }
    let mut response = Response::new(Body::from(problem.to_string()));
    *response.status_mut() = refusal.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// The refusal as an AIP-193 error. Google's client libraries show anything else as "unknown error".
fn google_error(refusal: &Refusal) -> serde_json::Value {
    let (_, status) = canonical_code(refusal.status);
    serde_json::json!({ "code": refusal.status.as_u16(), "message": refusal.text, "status": status })
}

/// The refusal as a gRPC "Trailers-Only" response (gRPC over HTTP/2).
fn grpc_response(refusal: &Refusal) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = trailers(refusal);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// One `WWW-Authenticate` challenge for each token scheme. RFC 6750 section 3: no error code if the request had no token.
/// RFC 9728 section 5.1: `resource_metadata`. RFC 9449 section 7.1: `algs`, and an error code of its own for a proof.
fn challenges(refusal: &Refusal, gate: &Gate) -> Vec<String> {
    let is_dpop = refusal.reason.starts_with("dpop_");
    let error = match refusal.reason {
        "dpop_nonce" => Some("use_dpop_nonce"),
        reason if has_no_token(reason) => None,
        _ if is_dpop => Some("invalid_dpop_proof"),
        _ => Some("invalid_token"),
    };
    // refusal texts hold no quotes or backslashes
    let text = refusal.text.replace('`', "'");
    let error = error.map(|error| format!("error=\"{error}\", error_description=\"{text}\""));
    let url = gate.url.as_ref();
    let metadata = url.map(|url| format!("resource_metadata=\"{}{RESOURCE_METADATA}\"", url.trim_end_matches('/')));
    let challenge = |scheme: &str, parameters: &[Option<&String>]| {
        let parameters: Vec<&str> = parameters.iter().copied().flatten().map(String::as_str).collect();
        format!("{scheme} {}", parameters.join(", "))
    };
    let realm = String::from("realm=\"wicketgate\"");
    let error = error.as_ref();
    let mut challenges = vec![challenge("Bearer", &[Some(&realm), error.filter(|_| !is_dpop), metadata.as_ref()])];
    if gate.bindings.dpop {
        let algorithms = format!("algs=\"{}\"", ALGORITHMS.map(|(name, _)| name).join(" "));
        challenges.push(challenge("DPoP", &[Some(&realm), error, Some(&algorithms), metadata.as_ref()]));
    }
    challenges
}

/// Whether the request had no token that could be invalid.
fn has_no_token(reason: &str) -> bool {
    matches!(reason, "no_token" | "unsupported_scheme")
        || reason.starts_with("certificate_")
        || reason.starts_with("session_")
}
