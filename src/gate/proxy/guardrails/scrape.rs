//! Scrape guardrails: rewrites the request to an exporter and filters its response.
//!
//! Promises: a response in a format that the gate does not read is refused, and so is every page of an exporter except its
//! metrics. The caller does not choose the escaping of names. Response headers pass by an allow-list: those that describe
//! the whole page (length, entity tag, range) do not describe the filtered one.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, StatusCode,
    header::{
        ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, DATE,
        IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, RETRY_AFTER, TE,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body::{Body as _, Frame};

use super::{super::answer::Answer, exposition_filter::ExpositionFilter};
use crate::{
    gate::policy::ScrapeGuardrail,
    http::{Body, BodyError, ReadParams as _, is_media_type, media_type},
    refusal::Refusal,
};

/// The scrape's guardrails.
pub(super) struct ScrapeGuardrails {
    pub(super) duties: Arc<[ScrapeGuardrail]>,
    /// Their names, for refusals.
    pub(super) names: String,
}

/// Headers of conditional and range requests: they are about a page that the caller does not see.
const PARTIAL_OR_CONDITIONAL: [HeaderName; 7] =
    [IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, RANGE, TE];

/// Response headers that are forwarded.
const ALLOWED_HEADERS: [HeaderName; 5] =
    [CONTENT_TYPE, DATE, RETRY_AFTER, CONTENT_SECURITY_POLICY, X_CONTENT_TYPE_OPTIONS];

impl ScrapeGuardrails {
    /// Requests an uncompressed text format, with an escaping of names that guardrails know.
    pub(super) fn rewrite_request(&self, headers: &mut HeaderMap) {
        let accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let (open, quoted) = accepted.fold((false, false), |(open, quoted), value| {
            let value = value.to_ascii_lowercase();
            (open || value.contains("application/openmetrics-text"), quoted || value.contains("escaping=allow-utf-8"))
        });
        headers.insert(
            ACCEPT,
            HeaderValue::from_static(match (open, quoted) {
                (true, true) => {
                    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4"
                }
                (true, false) => {
                    "application/openmetrics-text;version=1.0.0;escaping=underscores;q=0.6,\
                 text/plain;version=0.0.4;escaping=underscores;q=0.4"
                }
                (false, true) => "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.4",
                (false, false) => "text/plain;version=0.0.4;escaping=underscores",
            }),
        );
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        for name in PARTIAL_OR_CONDITIONAL {
            headers.remove(name);
        }
    }

    /// Removes from the response what the caller may not see.
    pub(super) fn filter_response(&self, mut answer: Answer) -> Result<Answer, Refusal> {
        let ok = answer.response.status() == StatusCode::OK;
        if ok {
            check_format(answer.response.headers()).map_err(|what| {
                let text = format!("the guardrail {} cannot be applied to this response", self.names);
                Refusal::new(StatusCode::BAD_GATEWAY, "guardrail", text).with_detail(what)
            })?;
        }
        let headers = answer.response.headers_mut();
        let gone: Vec<HeaderName> = headers.keys().filter(|name| !ALLOWED_HEADERS.contains(name)).cloned().collect();
        for name in gone {
            headers.remove(name);
        }
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-store"));
        if !ok {
            // an error's text could contain anything
            headers.remove(CONTENT_TYPE);
        }
        let filter = ExpositionFilter::new(self.duties.clone());
        // the response to HEAD has no body
        answer.response = answer.response.map(|body| match ok && !body.is_end_stream() {
            true => Body::boxed(FilteredBody { body, filter: Some(filter) }),
            false => Body::Empty,
        });
        Ok(answer)
    }
}

/// Checks that a response has a format that the gate reads. The error describes the format.
fn check_format(headers: &HeaderMap) -> Result<(), String> {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter().map(|value| value.to_str().unwrap_or_default());
    let kind = kinds.next().unwrap_or_default();
    if kinds.next().is_some() {
        return Err("it has two content types".into());
    }
    let unknown = || format!("its content type is `{kind}`");
    let media = media_type(kind).ok_or_else(unknown)?;
    let versions: &[&str] = match () {
        () if is_media_type(kind, "text/plain") => &["0.0.4", "1.0.0"],
        () if is_media_type(kind, "application/openmetrics-text") => &["0.0.1", "1.0.0"],
        () => return Err(unknown()),
    };
    for (name, value) in media.params() {
        let value = value.unquoted_str().to_ascii_lowercase();
        let known = match name.as_str().to_ascii_lowercase().as_str() {
            "version" => versions.contains(&value.as_str()),
            "charset" => value == "utf-8" || value == "us-ascii",
            "escaping" => value == "allow-utf-8" || value == "underscores",
            _ => false,
        };
        if !known {
            return Err(unknown());
        }
    }
    let encoded =
        headers.get_all(CONTENT_ENCODING).iter().any(|value| !value.as_bytes().eq_ignore_ascii_case(b"identity"));
    if encoded { Err("it is compressed".into()) } else { Ok(()) }
}

/// The body of a page, filtered. Trailers are dropped.
struct FilteredBody {
    body: Body,
    /// `None` after the end.
    filter: Option<ExpositionFilter>,
}

impl http_body::Body for FilteredBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { body, filter: slot } = &mut *self;
        while let Some(filter) = slot {
            let mut out = Vec::new();
            let read = match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                Some(Ok(frame)) => frame.data_ref().map_or(Ok(()), |data| filter.push(data, &mut out)),
                Some(Err(error)) => {
                    *slot = None;
                    return Poll::Ready(Some(Err(error)));
                }
                None => {
                    let last = filter.finish(&mut out);
                    *slot = None;
                    last
                }
            };
            if let Err(error) = read {
                (*slot, *body) = (None, Body::Empty);
                return Poll::Ready(Some(Err(error.into())));
            }
            if !out.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(out.into()))));
            }
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.filter.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, encoding: Option<&'static str>, expected: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        headers.extend(encoding.map(|encoding| (CONTENT_ENCODING, HeaderValue::from_static(encoding))));
        assert_eq!(check_format(&headers).is_ok(), expected, "{kind} {encoding:?}");
    }

    #[test]
    fn only_the_text_formats_are_read() {
        for kind in [
            "text/plain",
            "text/plain; charset=utf-8",
            "text/plain; version=0.0.4; charset=utf-8; escaping=underscores",
            "text/plain; version=1.0.0; escaping=allow-utf-8",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            "Application/OpenMetrics-Text;version=0.0.1",
        ] {
            check(kind, None, true);
            check(kind, Some("identity"), true);
            check(kind, Some("gzip"), false);
        }
        for kind in [
            "text/html",
            "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited",
            "text/plain; version=0.0.3",
            "application/openmetrics-text; version=2.0.0",
            "text/plain; charset=utf-16",
            "text/plain; version=0.0.4; escaping=dots",
            "text/plain; version=0.0.4; escaping=values",
            "application/json",
        ] {
            check(kind, None, false);
        }
        assert!(check_format(&HeaderMap::new()).is_err());
    }
}
