//! What a record keeps of what policy was told, so that the same can be asked again.
//!
//! Promises: bounded. The names of a certificate and those of a body have 4 KiB each, as they are written; more than that
//! is left out whole and marked, so that nobody takes a part for all of it.

use serde::{Deserialize, Serialize};

use crate::peer::Certificate;

/// Most bytes that the names of one kind take in a line.
const NAMES_LIMIT: usize = 4096;

/// What policy was told of a request besides what its record holds anyway.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedContext {
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// Bytes of the request's body, where that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// The names of the client's certificate, where it showed one that is trusted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<RecordedCertificate>,
    /// What the body names, where it was looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub names: Option<RecordedBodyNames>,
    /// Whether names were left out for want of room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cut: bool,
}

/// The names of a client's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedCertificate {
    /// URI names.
    pub uris: Vec<Box<str>>,
    /// DNS names.
    pub dns_names: Vec<Box<str>>,
}

/// What a request's body names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedBodyNames {
    /// Vertex resources.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resources: Vec<Box<str>>,
    /// Buckets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub buckets: Vec<Box<str>>,
    /// Google service accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub service_accounts: Vec<Box<str>>,
}

impl RecordedContext {
    /// What there is room for of this.
    #[must_use]
    pub fn new(
        tls: bool,
        size: Option<u64>,
        certificate: Option<&Certificate>,
        names: Option<RecordedBodyNames>,
    ) -> Self {
        let fits = |lists: [&[Box<str>]; 3]| {
            lists.iter().copied().flatten().map(|name| written(name)).sum::<usize>() <= NAMES_LIMIT
        };
        let fitting = certificate.filter(|shown| fits([&shown.uris, &shown.dns_names, &[]]));
        let of_body =
            names.as_ref().is_none_or(|names| fits([&names.resources, &names.buckets, &names.service_accounts]));
        let names_of =
            |shown: &Certificate| RecordedCertificate { uris: shown.uris.clone(), dns_names: shown.dns_names.clone() };
        let cut = fitting.is_some() != certificate.is_some() || !of_body;
        Self { tls, size, certificate: fitting.map(names_of), names: names.filter(|_| of_body), cut }
    }
}

/// The bytes that a name takes in a JSON list: quotes, a comma, and escapes at their longest.
fn written(name: &str) -> usize {
    let escaped = |byte: u8| match byte {
        b'"' | b'\\' => 2,
        0..0x20 => 6,
        _ => 1,
    };
    3 + name.bytes().map(escaped).sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_whole_or_left_out_and_marked() {
        let check = |name: &str, count: usize, kept: bool| {
            let names: Vec<Box<str>> = vec![name.into(); count];
            let certificate = Certificate::hypothetical(names.clone(), Vec::new());
            let body = RecordedBodyNames { buckets: names.clone(), ..RecordedBodyNames::default() };
            let context = RecordedContext::new(true, Some(1), Some(&certificate), Some(body));
            assert_eq!(context.cut, !kept, "{count} of {name:?}");
            assert_eq!(context.certificate.is_some(), kept);
            assert_eq!(context.names.is_some(), kept);
            assert!(serde_json::to_string(&context).unwrap().len() < 2 * NAMES_LIMIT + 200);
        };
        check("a", 1, true);
        check("0123456789abc", NAMES_LIMIT / 16, true);
        check("0123456789abc", NAMES_LIMIT / 16 + 1, false);
        check("\u{1}\u{1}", NAMES_LIMIT / 15, true);
        check("\u{1}\u{1}", NAMES_LIMIT / 15 + 1, false);
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let body = RecordedBodyNames { resources: vec!["models/m@1".into()], ..RecordedBodyNames::default() };
        let certificate = Certificate::hypothetical(vec!["spiffe://a/b".into()], vec!["a.example".into()]);
        let context = RecordedContext::new(false, Some(7), Some(&certificate), Some(body));
        let text = serde_json::to_string(&context).unwrap();
        assert_eq!(serde_json::from_str::<RecordedContext>(&text).unwrap(), context);
        assert_eq!(serde_json::from_str::<RecordedContext>("{\"tls\":true}").unwrap().size, None);
    }
}
