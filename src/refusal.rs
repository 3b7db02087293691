//! How a request is turned away: one value, said the same way by every part.
//!
//! Promises: the client's text and the log's text are different fields, and only `proxy` turns a refusal into a
//! response. A refusal never carries a token, a credential or an upstream's own error text to the client.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::StatusCode;

/// Why a request ends here.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// A short, stable word for audit, metrics and programs, such as `token_expired`.
    pub reason: &'static str,
    /// What the client reads: what is wrong and what to do instead.
    pub text: Cow<'static, str>,
    /// What the audit log holds besides; the client never sees it.
    pub detail: Option<Box<str>>,
    /// When to come back, for refusals that pass.
    pub retry_after: Option<Duration>,
    /// The methods that the resource has, where it was asked for another: the value of `Allow`.
    pub allow: Option<&'static str>,
    /// The limit that was exceeded.
    pub limit: Option<Box<ExceededLimit>>,
}

/// A limit that was exceeded.
#[derive(Clone, Debug)]
pub struct ExceededLimit {
    /// Its name.
    pub limit: Arc<str>,
    /// What `RateLimit-Policy` calls the part of it.
    pub policy: String,
}

impl Refusal {
    /// A refusal with this status, stable word and client text.
    pub fn new(status: StatusCode, reason: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason, text: text.into(), detail: None, retry_after: None, allow: None, limit: None }
    }

    /// 400: the request is not one this gate understands.
    pub fn malformed(reason: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, text)
    }

    /// 405: the resource has these methods only, separated by `, `.
    #[must_use]
    pub fn wrong_method(allow: &'static str) -> Self {
        let text = format!("this path takes {}", allow.replace(", ", " and "));
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text) }
    }

    /// 503 with `Retry-After`: nothing is wrong with the request, come again. Metric senders keep their data on
    /// this and drop it on 401 and 429.
    pub fn unavailable(reason: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(Duration::from_secs(5)), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, text) }
    }

    /// Adds what only the audit log may hold.
    #[must_use]
    pub fn with_detail(mut self, detail: impl ToString) -> Self {
        self.detail = Some(detail.to_string().into());
        self
    }
}
