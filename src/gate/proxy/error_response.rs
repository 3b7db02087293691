//! The one place that says no: refusals become responses here and nowhere else.

use http::{
    HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Version,
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
};

use super::{
    Gate,
    open::{RESOURCE_METADATA, login::see_other},
    pages::{self, Navigation},
    request_body::is_grpc,
};
use crate::{
    gate::{audit::Record, identity::dpop::proof::ALGORITHMS},
    http::Body,
    refusal::Refusal,
};

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// How whoever asks reads a no.
pub(super) enum Manner {
    /// A program, over HTTP.
    Program,
    /// A person in front of a browser.
    Person(Navigation),
    /// A gRPC client.
    Grpc,
}

impl Manner {
    pub(super) fn of<B>(request: &Request<B>) -> Self {
        if request.version() == Version::HTTP_2 && is_grpc(request.headers()) {
            return Self::Grpc;
        }
        Navigation::of(request).map_or(Self::Program, Self::Person)
    }
}

/// The refusal's response: `application/problem+json` (RFC 9457) with the stable word and the request's id besides. The
/// record's decision stays what policy decided: an upstream that is away does not turn an allowed request into a denied
/// one.
///
/// A person gets a page instead, and where nothing but a login is missing, the way there; a gRPC client a status.
pub(super) fn refuse(refusal: Refusal, gate: &Gate, record: &mut Record, manner: &Manner) -> Response<Body> {
    record.reason = Some(refusal.reason);
    record.limit = refusal.limit.as_ref().map(|violated| violated.limit.clone());
    if let Some(detail) = &refusal.detail {
        record.keep_detail(detail);
    }
    let mut response = match manner {
        Manner::Person(navigation) if asks_for_login(&refusal) && gate.identity.sessions().is_some() => {
            return see_other(&navigation.to_login());
        }
        Manner::Person(_) => pages::refusal(&refusal, record),
        Manner::Grpc => only_trailers(&refusal),
        Manner::Program => problem(&refusal, record),
    };
    let to = response.headers_mut();
    to.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(wait) = refusal.retry_after {
        to.insert(RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
    }
    // RFC 9110 section 15.5.6: a 405 MUST say which methods there are
    to.extend(refusal.allow.map(|methods| (ALLOW, HeaderValue::from_static(methods))));
    if refusal.status == StatusCode::UNAUTHORIZED {
        let challenges = challenges(&refusal, gate);
        to.extend(challenges.iter().filter_map(|text| Some((WWW_AUTHENTICATE, HeaderValue::from_str(text).ok()?))));
    }
    response
}

/// The problem type of limits (draft-ietf-httpapi-ratelimit-headers-11 section 5.1).
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// Whether a login is all that is missing: a token that is not good is for whoever sent it to look at.
fn asks_for_login(refusal: &Refusal) -> bool {
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
    let of_vertex = record.route == Some("vertex")
        || matches!(refusal.reason, "unknown_method" | "unknown_location" | "unknown_project");
    if let (true, Some(members)) = (of_vertex, problem.as_object_mut()) {
        members.insert("error".into(), google_error(refusal));
        // RFC 9457 section 3.1.2 lets it be left out, and google-genai takes it for the word of the status in `error`
        members.remove("status");
    }
    let mut response = Response::new(Body::from(problem.to_string()));
    *response.status_mut() = refusal.status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// The refusal as Google's client libraries read one (AIP-193); what they cannot read they show as "unknown error".
fn google_error(refusal: &Refusal) -> serde_json::Value {
    let (_, status) = canonical_code(refusal.status);
    serde_json::json!({ "code": refusal.status.as_u16(), "message": refusal.text, "status": status })
}

/// The code of google.rpc.Code that a status is; gRPC has the numbers, REST the words.
fn canonical_code(status: StatusCode) -> (u8, &'static str) {
    match status {
        StatusCode::BAD_REQUEST
        | StatusCode::URI_TOO_LONG
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::LENGTH_REQUIRED => (3, "INVALID_ARGUMENT"),
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => (4, "DEADLINE_EXCEEDED"),
        StatusCode::NOT_FOUND => (5, "NOT_FOUND"),
        StatusCode::FORBIDDEN => (7, "PERMISSION_DENIED"),
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            (8, "RESOURCE_EXHAUSTED")
        }
        StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED => (12, "UNIMPLEMENTED"),
        StatusCode::INTERNAL_SERVER_ERROR => (13, "INTERNAL"),
        StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY => (14, "UNAVAILABLE"),
        StatusCode::UNAUTHORIZED => (16, "UNAUTHENTICATED"),
        _ => (2, "UNKNOWN"),
    }
}

/// The refusal as a gRPC client reads one: a head that is the trailers too (gRPC over HTTP/2, "Trailers-Only").
fn only_trailers(refusal: &Refusal) -> Response<Body> {
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = trailers(refusal);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// What ends a gRPC call.
pub(super) fn trailers(refusal: &Refusal) -> HeaderMap {
    // for REST the path is not there, for gRPC it is a method
    let status = match refusal.reason {
        "unknown_method" | "unknown_route" => StatusCode::NOT_IMPLEMENTED,
        _ => refusal.status,
    };
    let (code, _) = canonical_code(status);
    // "Percent-Encoded": what is not printable ASCII, and the percent sign
    let mut text = String::with_capacity(refusal.text.len());
    for byte in refusal.text.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    trailers.extend(HeaderValue::from_str(&text).ok().map(|text| (GRPC_MESSAGE, text)));
    trailers
}

/// How to come again: a challenge for each way to send a token. RFC 6750 section 3: no error code where there was no
/// token; RFC 9728 section 5.1 says where to learn more; RFC 9449 section 7.1: the algorithms of proofs, and an error
/// of its own for a proof.
fn challenges(refusal: &Refusal, gate: &Gate) -> Vec<String> {
    let of_proof = refusal.reason.starts_with("dpop_");
    let error = match refusal.reason {
        "dpop_nonce" => Some("use_dpop_nonce"),
        reason if is_about_no_token(reason) => None,
        _ if of_proof => Some("invalid_dpop_proof"),
        _ => Some("invalid_token"),
    };
    // the text is this program's own, without quotes or backslashes
    let text = refusal.text.replace('`', "'");
    let error = error.map(|error| format!("error=\"{error}\", error_description=\"{text}\""));
    let url = gate.url.as_ref();
    let metadata = url.map(|url| format!("resource_metadata=\"{}{RESOURCE_METADATA}\"", url.trim_end_matches('/')));
    let challenge = |scheme: &str, parameters: &[Option<&String>]| {
        let parameters: Vec<&str> = parameters.iter().copied().flatten().map(String::as_str).collect();
        format!("{scheme} {}", parameters.join(", "))
    };
    let (realm, error) = (String::from("realm=\"wicketgate\""), error.as_ref());
    let mut challenges = vec![challenge("Bearer", &[Some(&realm), error.filter(|_| !of_proof), metadata.as_ref()])];
    if gate.bindings.dpop {
        let algorithms = format!("algs=\"{}\"", ALGORITHMS.map(|(name, _)| name).join(" "));
        challenges.push(challenge("DPoP", &[Some(&realm), error, Some(&algorithms), metadata.as_ref()]));
    }
    challenges
}

/// Whether the refusal is for want of a token that could be wrong.
fn is_about_no_token(reason: &str) -> bool {
    matches!(reason, "no_token" | "unsupported_scheme")
        || reason.starts_with("certificate_")
        || reason.starts_with("session_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grpc_client_is_told_in_its_own_words() {
        let check = |status: u16, reason, text: &'static str, expected: (&str, &str)| {
            let refusal = Refusal::new(StatusCode::from_u16(status).unwrap(), reason, text);
            let trailers = trailers(&refusal);
            assert_eq!(
                (trailers["grpc-status"].to_str().unwrap(), trailers["grpc-message"].to_str().unwrap()),
                expected,
                "{status}"
            );
        };
        check(400, "a", "no", ("3", "no"));
        check(401, "a", "50% é\n", ("16", "50%25 %C3%A9%0A"));
        check(403, "a", "", ("7", ""));
        check(404, "unknown_location", "", ("5", ""));
        check(404, "unknown_method", "", ("12", ""));
        check(408, "a", "", ("4", ""));
        check(413, "a", "", ("8", ""));
        check(429, "a", "", ("8", ""));
        check(500, "a", "", ("13", ""));
        check(501, "a", "", ("12", ""));
        check(502, "a", "", ("14", ""));
        check(503, "a", "", ("14", ""));
        check(504, "a", "", ("4", ""));
        check(418, "a", "", ("2", ""));
    }
}
