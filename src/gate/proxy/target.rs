//! Request target validation: path, query and authority in one canonical form. Pure.
//!
//! Promises: a [`Target`] has one reading, so that the path that is matched is the path that is forwarded. It has no dot
//! segments, no empty segments, no path parameters, and no escapes of characters that could change the structure or that
//! need no escape. Host and `:authority` name one server. No credential is in the query.

use http::{HeaderMap, Method, StatusCode, Uri, header::HOST};

use crate::refusal::Refusal;

/// A canonical target, borrowed from the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path, percent-escapes as sent.
    pub path: &'a str,
    /// Path and query, as sent and as forwarded.
    pub path_and_query: &'a str,
}

/// Longest path and query, in bytes. RFC 9110 section 4.1 recommends at least 8,000; the audit log stores names from it.
const MAX_TARGET: usize = 8 * 1024;

/// Query parameters that Google's front ends and RFC 6750 section 2.3 read a credential from, or that change what a
/// request means.
const REFUSED_PARAMETERS: [&str; 5] = ["access_token", "oauth_token", "bearer_token", "key", "callback"];

/// Google's system parameters (names that begin with `$`) that only format the response. All others are refused: `$key`,
/// `$userProject`, `$httpMethod`, `$ct` and similar ones replace headers that the gate removes.
const SYSTEM_PARAMETERS: [&str; 5] = ["$alt", "$fields", "$prettyprint", "$unique", "$.xgafv"];

impl<'a> Target<'a> {
    /// The query without its question mark. Empty if there is none.
    #[must_use]
    pub fn query(&self) -> &'a str {
        self.path_and_query.split_once('?').map_or("", |(_, query)| query)
    }

    /// Reads a request's target.
    ///
    /// # Errors
    /// 400 for a target that could be read in two ways; 414 for one longer than 8 KiB.
    pub fn parse(method: &Method, uri: &'a Uri, headers: &HeaderMap) -> Result<Self, Refusal> {
        if *method == Method::CONNECT {
            return Err(Refusal::malformed(
                "method_refused",
                "CONNECT is not supported: the gate is not a forward proxy",
            ));
        }
        authority(uri, headers)?;
        let path_and_query = uri.path_and_query().map_or("/", |p| p.as_str());
        if path_and_query.len() > MAX_TARGET {
            let text = "path and query are too long; the limit is 8 KiB";
            return Err(Refusal::new(StatusCode::URI_TOO_LONG, "target_too_long", text));
        }
        let path = uri.path();
        canonical(path)?;
        if let Some(query) = uri.query() {
            check_query(query)?;
        }
        Ok(Self { path, path_and_query })
    }
}

/// The one server that the request names (RFC 9112 section 3.2, RFC 9113 section 8.3.1).
pub(super) fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Result<&'a str, Refusal> {
    let mut hosts = headers.get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::malformed("two_hosts", "the request has several Host headers; send one"));
    }
    let host = host.map(|h| h.to_str()).transpose();
    let host = host.map_err(|_| Refusal::malformed("host", "the Host header is not ASCII"))?;
    let named = match (uri.authority(), host) {
        (Some(authority), Some(host)) if authority.as_str() != host => {
            return Err(Refusal::malformed("two_hosts", "the Host header and the request's authority differ"));
        }
        (Some(authority), _) => authority.as_str(),
        (None, Some(host)) => host,
        (None, None) => return Err(Refusal::malformed("host", "the request has no Host header")),
    };
    // user information is not allowed: RFC 9110 section 4.2.4, RFC 9113 section 8.3.1
    if named.is_empty() || !named.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b)) {
        return Err(Refusal::malformed("host", "the Host header or the request's authority is not a host and port"));
    }
    Ok(named)
}

/// Whether `path` has one reading only.
fn canonical(path: &str) -> Result<(), Refusal> {
    let bad = |what: &'static str| Err(Refusal::malformed("path_not_canonical", what));
    let Some(below) = path.strip_prefix('/') else { return bad("the path does not begin with a slash") };
    let mut bytes = below.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => match (bytes.next(), bytes.next()) {
                (Some(high), Some(low)) if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                    // slash, backslash, dot, colon, percent, semicolon and control bytes change what a path means
                    let escaped = hex(high) << 4 | hex(low);
                    if matches!(escaped, b'/' | b'\\' | b'.' | b':' | b'%' | b';' | 0..=0x1f | 0x7f) {
                        return bad(
                            "the path holds an escaped slash, backslash, dot, colon, semicolon, percent or control byte",
                        );
                    }
                    // RFC 3986 section 2.3: these mean the same escaped or not, so a name would have two spellings and
                    // a policy would know one
                    if escaped.is_ascii_alphanumeric() || matches!(escaped, b'-' | b'_' | b'~') {
                        return bad("the path holds an escaped letter, digit, hyphen, underscore or tilde");
                    }
                }
                _ => return bad("the path holds a percent sign that does not begin an escape"),
            },
            b';' => return bad("the path holds a semicolon"),
            b'\\' => return bad("the path holds a backslash"),
            0..=0x20 | 0x7f.. => return bad("the path holds a control byte or a byte that is not ASCII"),
            _ => {}
        }
    }
    let mut segments = below.split('/').peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => return bad("the path holds a dot segment"),
            "" if segments.peek().is_some() => return bad("the path holds an empty segment"),
            _ => {}
        }
    }
    Ok(())
}

fn hex(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20).wrapping_sub(b'a').wrapping_add(10),
    }
}

fn check_query(query: &str) -> Result<(), Refusal> {
    for (name, _) in url::form_urlencoded::parse(query.as_bytes()) {
        let folded = name.to_ascii_lowercase();
        let unknown_to_us = folded.starts_with('$') && !SYSTEM_PARAMETERS.contains(&&*folded);
        if unknown_to_us || REFUSED_PARAMETERS.contains(&&*folded) {
            let text = format!("the query parameter `{name}` is refused: the token goes in the Authorization header");
            return Err(Refusal::malformed("query_refused", text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, expected: Result<(), &str>) {
        let uri: Uri = path.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "gate.test".parse().unwrap());
        let target = Target::parse(&Method::GET, &uri, &headers);
        assert_eq!(target.map(|t| assert_eq!(t.path_and_query, path)).map_err(|r| r.reason), expected, "{path}");
    }

    #[test]
    fn a_path_with_a_second_reading_is_refused() {
        check("/exporters/node/metrics?a=b", Ok(()));
        check("/exporters/node/", Ok(()));
        check("/", Ok(()));
        check("/v1/models/m@2:predict?%24alt=json%3Benum-encoding%3Dint", Ok(()));
        for path in [
            "/a%2fb",
            "/a%2Fb",
            "/a%5cb",
            "/%2e%2e/b",
            "/a%3ab",
            "/a%00b",
            "/a%25b",
            "/a/../b",
            "/a/./b",
            "/a//b",
            "//a",
            "/a;b=c",
            "/a%3bb",
            "/a/..",
            "/a%zz",
            "/a%1",
            "/a%7f",
            "/%61",
            "/v1/projects/%70/locations/l/endpoints/1:predict",
            "/v1/projects/p/locations/l/endpoints/%31:predict",
            "/a%2Db",
            "/a%5fb",
            "/a%7eb",
        ] {
            check(path, Err("path_not_canonical"));
        }
        for query in [
            "/a?access_token=x",
            "/a?b=c&oauth_token=x",
            "/a?%61ccess_token=x",
            "/a?Access_Token=x",
            "/a?key=1",
            "/a?%24key=1",
            "/a?$userProject=other",
            "/a?$httpMethod=DELETE",
        ] {
            check(query, Err("query_refused"));
        }
    }

    #[test]
    fn a_target_is_bounded() {
        check(&format!("/{}", "a".repeat(MAX_TARGET - 1)), Ok(()));
        check(&format!("/{}", "a".repeat(MAX_TARGET)), Err("target_too_long"));
        check(&format!("/a?{}", "a".repeat(MAX_TARGET)), Err("target_too_long"));
    }

    #[test]
    fn two_hosts_are_refused() {
        let uri: Uri = "http://other.test/a".parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "gate.test".parse().unwrap());
        assert_eq!(Target::parse(&Method::GET, &uri, &headers).unwrap_err().reason, "two_hosts");
        let uri: Uri = "/a".parse().unwrap();
        headers.append(HOST, "gate.test".parse().unwrap());
        assert_eq!(Target::parse(&Method::GET, &uri, &headers).unwrap_err().reason, "two_hosts");
        assert_eq!(Target::parse(&Method::GET, &uri, &HeaderMap::new()).unwrap_err().reason, "host");
    }

    #[test]
    fn a_host_is_a_host_and_no_more() {
        let check = |host: &str, expected: Option<&str>| {
            let headers = HeaderMap::from_iter([(HOST, host.parse().unwrap())]);
            let uri = Uri::from_static("/a");
            assert_eq!(Target::parse(&Method::GET, &uri, &headers).err().map(|r| r.reason), expected, "{host}");
        };
        for host in ["gate.test", "gate.test:8443", "127.0.0.1:1", "[::1]:8443"] {
            check(host, None);
        }
        for host in ["", "user@gate.test", "gate.test/a", "a\"b", "a b", "a,b"] {
            check(host, Some("host"));
        }
        let uri = Uri::from_static("https://user:password@gate.test/a");
        assert_eq!(Target::parse(&Method::GET, &uri, &HeaderMap::new()).unwrap_err().reason, "host");
    }
}
