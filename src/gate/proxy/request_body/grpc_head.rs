//! gRPC request headers: content type, timeout, HTTP version.

use std::time::Duration;

use http::{HeaderMap, StatusCode, Version, header::CONTENT_TYPE};

use super::body::RequestHead;
use crate::{
    http::{content_type, is_media_type},
    refusal::Refusal,
};

/// Refuses a head that is not gRPC over HTTP/2.
pub(super) fn check_grpc_head(head: RequestHead<'_>) -> Result<(), Refusal> {
    if head.version != Version::HTTP_2 {
        let text = "gRPC needs HTTP/2; negotiate it by ALPN on a TLS listener of the gate";
        return Err(Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "rpc_needs_http2", text));
    }
    if !is_grpc(head.headers) {
        let text = "send `content-type: application/grpc`: this path is a gRPC method";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_grpc", text));
    }
    grpc_timeout(head.headers).map(drop)
}

/// Whether these are the headers of a gRPC call with protobuf messages.
pub(in crate::gate::proxy) fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = content_type(headers);
    let protobuf = is_media_type(kind, "application/grpc") || is_media_type(kind, "application/grpc+proto");
    protobuf && headers.get_all(CONTENT_TYPE).iter().count() == 1
}

/// The caller's deadline (gRPC over HTTP/2, "Timeout": at most eight digits and a unit). `Duration::MAX` if there is none.
pub(in crate::gate::proxy) fn grpc_timeout(headers: &HeaderMap) -> Result<Duration, Refusal> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(Duration::MAX) };
    let malformed = || Refusal::malformed("rpc_timeout", "`grpc-timeout` is at most eight digits and one of HMSmun");
    let text = value.to_str().map_err(|_| malformed())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(malformed)?;
    let number = digits.parse::<u32>().ok().filter(|_| digits.len() <= 8 && !digits.starts_with('+'));
    let number = number.ok_or_else(malformed)?;
    Ok(match unit {
        "H" => Duration::from_secs(3600) * number,
        "M" => Duration::from_secs(60) * number,
        "S" => Duration::from_secs(1) * number,
        "m" => Duration::from_millis(1) * number,
        "u" => Duration::from_micros(1) * number,
        "n" => Duration::from_nanos(1) * number,
        _ => return Err(malformed()),
    })
}
