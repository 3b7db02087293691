//! Header filtering between client and upstream.
//!
//! Promises: no header in which a client claims an identity or describes its connection reaches an upstream, in whatever
//! spelling; the caller's `Authorization` and `Cookie` are never forwarded.

use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{CONNECTION, CONTENT_SECURITY_POLICY, Entry, SET_COOKIE, TE, X_CONTENT_TYPE_OPTIONS},
};
use uuid::Uuid;

use crate::{
    gate::{identity::session::cookie, listen::MAX_HEAD, policy::is_role},
    refusal::Refusal,
};

/// The request id, for client and upstream.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The one role that the caller activates for this request. It is not forwarded, like every `x-wicketgate-` header.
const ROLE: HeaderName = HeaderName::from_static("x-wicketgate-role");

/// Headers that end at each hop (RFC 9110 section 7.6.1).
const HOP_BY_HOP: [&str; 8] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"];

/// Headers that claim an identity, describe the connection, or change how Google reads the request. A client's values are
/// never forwarded.
const IDENTITY_HEADERS: [&str; 24] = [
    "api-key",
    "authorization",
    "cf-connecting-ip",
    "client-cert",
    "client-cert-chain",
    "cookie",
    "dpop",
    "forwarded",
    "proxy-authenticate",
    "proxy-authorization",
    "true-client-ip",
    "via",
    "x-api-key",
    "x-cluster-client-ip",
    "x-goog-api-key",
    "x-goog-authenticated-user-email",
    "x-goog-authenticated-user-id",
    "x-goog-fieldmask",
    "x-goog-request-params",
    "x-goog-user-project",
    "x-method-override",
    "x-real-ip",
    "x-serverless-authorization",
    "x-vertex-ai-endpoint-id",
];

/// Prefixes of header names that are never forwarded either.
const IDENTITY_HEADER_PREFIXES: [&str; 19] = [
    "impersonate-",
    "remote-",
    "ssl-client-",
    "x-amzn-oidc-",
    "x-auth",
    "x-client-",
    "x-envoy-",
    "x-forwarded",
    "x-goog-iam-",
    "x-goog-iap-",
    "x-http-method",
    "x-original-",
    "x-remote-",
    "x-request-id",
    "x-rewrite-",
    "x-ssl-",
    "x-user",
    "x-webauth-",
    "x-wicketgate-",
];

/// Response headers that apply to the gate's origin, so that an upstream may not set them. Alternative services (RFC 7838)
/// would redirect the gate's clients. A challenge (RFC 9110 section 11.6.1) would make a browser prompt for a password in
/// the gate's name. The others set rules for the whole origin (Clear Site Data, RFC 6797, Network Error Logging, Reporting,
/// Service Workers).
const ORIGIN_HEADERS: [&str; 9] = [
    "alt-svc",
    "clear-site-data",
    "nel",
    "proxy-authenticate",
    "report-to",
    "reporting-endpoints",
    "service-worker-allowed",
    "strict-transport-security",
    "www-authenticate",
];

/// Refuses headers that are larger than [`MAX_HEAD`] (431, RFC 6585 section 5).
pub(super) fn check_header_size(headers: &HeaderMap) -> Result<(), Refusal> {
    let size: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > MAX_HEAD {
        let text = "the request headers are too large; the limit is 32 KiB";
        return Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", text));
    }
    Ok(())
}

/// The role that the caller activates. `None` if the header is absent. Policy decides whether the caller has that role.
pub(super) fn active_role(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let mut values = headers.get_all(ROLE).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let role = value.to_str().ok().filter(|role| is_role(role));
    if role.is_none() || values.next().is_some() {
        let text =
            "send `X-Wicketgate-Role` once, with one role: at most 128 of the characters `a-z A-Z 0-9 . _ : / -`";
        return Err(Refusal::malformed("role_header", text));
    }
    Ok(role)
}

/// Removes the request headers that may not be forwarded, and sets the request id.
pub(super) fn strip_request_headers(headers: &mut HeaderMap, id: Uuid) {
    strip(headers, |name| {
        if name.contains('_') { is_identity_header(&name.replace('_', "-")) } else { is_identity_header(name) }
    });
    set_request_id(headers, id);
}

/// Removes the response headers that an upstream may not set. A cookie with one of the gate's names would start a session
/// of the upstream's choice, or end one.
pub(super) fn strip_response_headers(headers: &mut HeaderMap) {
    strip(headers, |name| ORIGIN_HEADERS.contains(&name));
    if let Entry::Occupied(set) = headers.entry(SET_COOKIE)
        && set.iter().any(|value| cookie::is_ours(value.as_bytes()))
    {
        let theirs: Vec<HeaderValue> = set.iter().filter(|v| !cookie::is_ours(v.as_bytes())).cloned().collect();
        set.remove();
        for value in theirs {
            headers.append(SET_COOKIE, value);
        }
    }
}

/// Adds `Content-Security-Policy: sandbox`, so that a browser runs no scripts of an upstream's page and gives it an opaque
/// origin (HTML section 7.5). The page shares the gate's origin, where a script could act as the user. Policies that the
/// upstream set stay.
pub(super) fn sandbox(headers: &mut HeaderMap) {
    headers.append(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
}

/// Sets the request id header.
pub(super) fn set_request_id(headers: &mut HeaderMap, id: Uuid) {
    let mut text = Uuid::encode_buffer();
    if let Ok(value) = HeaderValue::from_str(id.hyphenated().encode_lower(&mut text)) {
        headers.insert(REQUEST_ID, value);
    }
}

/// Removes hop-by-hop headers, and the headers for which `also` is true.
fn strip(headers: &mut HeaderMap, also: impl Fn(&str) -> bool) {
    // RFC 9110 section 7.6.1: headers that `Connection` lists are hop-by-hop
    if headers.contains_key(CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| name.trim().parse().ok())
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    let trailers = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    let gone: Vec<HeaderName> =
        headers.keys().filter(|name| is_hop_by_hop(name.as_str()) || also(name.as_str())).cloned().collect();
    for name in gone {
        headers.remove(name);
    }
    if trailers {
        // the one value that RFC 9113 section 8.2.2 permits
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

fn is_hop_by_hop(name: &str) -> bool {
    HOP_BY_HOP.contains(&name)
}

fn is_identity_header(name: &str) -> bool {
    IDENTITY_HEADERS.contains(&name) || IDENTITY_HEADER_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, passes: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("forged"));
        strip_request_headers(&mut headers, Uuid::nil());
        assert_eq!(headers.values().any(|v| v == "forged"), passes, "{name}");
    }

    #[test]
    fn no_spelling_of_an_identity_header_crosses() {
        for name in ["accept", "accept-encoding", "x-prometheus-scrape-timeout-seconds", "user-agent", "content-type"] {
            check(name, true);
        }
        for name in [
            "authorization",
            "cookie",
            "X-Wicketgate-Role",
            "x_wicketgate_role",
            "X-Forwarded-For",
            "x-forwarded_for",
            "x_forwarded_user",
            "forwarded",
            "via",
            "X-Request-Id",
            "remote_user",
            "x-http-method-override",
            "transfer-encoding",
            "upgrade",
            "proxy-authorization",
            "x-goog-api-key",
            "x-goog-user-project",
            "x-goog-request-params",
            "X-Goog-FieldMask",
            "X-Goog-Iam-Authorization-Token",
            "x-vertex-ai-endpoint-id",
            "x-forwarded",
            "X-Original-URL",
            "x-remote-user",
            "x_webauth_user",
            "x-user",
            "impersonate-user",
            "x-amzn-oidc-data",
            "x-serverless-authorization",
            "DPoP",
            "Client-Cert",
            "client_cert_chain",
        ] {
            check(name, false);
        }
    }

    #[test]
    fn what_is_about_the_hop_ends_here() {
        let mut headers = HeaderMap::new();
        headers.insert(CONNECTION, HeaderValue::from_static("close, x-secret"));
        headers.insert("x-secret", HeaderValue::from_static("1"));
        strip_response_headers(&mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn no_upstream_speaks_for_the_gates_origin() {
        for (name, value) in [
            ("alt-svc", "h3=\":443\""),
            ("Clear-Site-Data", "\"cookies\""),
            ("NEL", "{}"),
            ("Report-To", "{}"),
            ("Reporting-Endpoints", "a=\"https://a.test\""),
            ("Service-Worker-Allowed", "/"),
            ("Strict-Transport-Security", "max-age=0"),
            ("WWW-Authenticate", "Basic realm=\"wicketgate\""),
            ("Proxy-Authenticate", "Basic"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(name.parse::<HeaderName>().unwrap(), HeaderValue::from_static(value));
            strip_response_headers(&mut headers);
            assert!(headers.is_empty(), "{name}");
        }
    }

    #[test]
    fn an_upstream_sets_its_own_cookies_and_none_of_the_gates() {
        let mut headers = HeaderMap::new();
        for value in ["a=1", "__Host-wicketgate-session=1.x; Path=/; Secure", "b=2"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(value));
        }
        strip_response_headers(&mut headers);
        assert_eq!(headers.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), ["a=1", "b=2"]);
    }
}
