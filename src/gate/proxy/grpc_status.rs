//! gRPC status codes and trailers of a refusal.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::refusal::Refusal;

const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// gRPC over HTTP/2, "Percent-Encoded": everything but printable ASCII, and the percent sign.
const MESSAGE_ESCAPES: &AsciiSet = &CONTROLS.add(b'%');

/// The `google.rpc.Code` of an HTTP status, as gRPC's number and as REST's name.
pub(super) fn canonical_code(status: StatusCode) -> (u8, &'static str) {
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

/// The trailers that end a gRPC call with this refusal.
pub(super) fn trailers(refusal: &Refusal) -> HeaderMap {
    // over REST the path does not exist; over gRPC the method is not implemented
    let status = match refusal.reason {
        "unknown_method" | "unknown_route" => StatusCode::NOT_IMPLEMENTED,
        _ => refusal.status,
    };
    let (code, _) = canonical_code(status);
    let text = utf8_percent_encode(&refusal.text, MESSAGE_ESCAPES).to_string();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    trailers.extend(HeaderValue::from_str(&text).ok().map(|text| (GRPC_MESSAGE, text)));
    trailers
}

/// The `grpc-status` of these trailers. `None` if they have none.
pub(super) fn grpc_status(trailers: &HeaderMap) -> Option<u16> {
    trailers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_a_grpc_status_with_a_percent_encoded_message() {
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
