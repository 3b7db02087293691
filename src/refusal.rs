//! The refusal of a request: the one error type of everything that serves requests.
//!
//! Promises: the client's text and the log's text are different fields, and only `proxy` turns a refusal into a
//! response. A refusal never carries a token, a credential or an upstream's own error text to the client.

use std::{borrow::Cow, sync::Arc, time::Duration};

use http::StatusCode;

/// Why a request is refused.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The HTTP status.
    pub status: StatusCode,
    /// A short, stable code for audit, metrics and programs, such as `token_expired`.
    pub reason: &'static str,
    /// The client's text: what is wrong and what to do instead.
    pub text: Cow<'static, str>,
    /// The audit log's text. The client never sees it.
    pub detail: Option<Box<str>>,
    /// When to retry (`Retry-After`). `None` if a retry does not help.
    pub retry_after: Option<Duration>,
    /// The value of `Allow` for a 405.
    pub allow: Option<&'static str>,
    /// The limit that was exceeded.
    pub limit: Option<Box<ExceededLimit>>,
}

/// A limit that was exceeded.
#[derive(Clone, Debug)]
pub struct ExceededLimit {
    /// Its name.
    pub limit: Arc<str>,
    /// The name of the exceeded policy in `RateLimit-Policy`.
    pub policy: String,
}

impl Refusal {
    /// A refusal with this status, stable code and client text.
    pub fn new(status: StatusCode, reason: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason, text: text.into(), detail: None, retry_after: None, allow: None, limit: None }
    }

    /// 400: the request is malformed.
    pub fn malformed(reason: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, text)
    }

    /// 405: the resource has only these methods, separated by `, `.
    #[must_use]
    pub fn wrong_method(allow: &'static str) -> Self {
        let text = format!("this path accepts {}", allow.replace(", ", " and "));
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", text) }
    }

    /// 503 with `Retry-After`: the request is valid and may be retried. Metric senders keep their data on 503 and drop it on
    /// 401 and 429.
    pub fn unavailable(reason: &'static str, text: impl Into<Cow<'static, str>>) -> Self {
        Self { retry_after: Some(Duration::from_secs(5)), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, text) }
    }

    /// Adds a text for the audit log only.
    #[must_use]
    pub fn with_detail(mut self, detail: impl ToString) -> Self {
        self.detail = Some(detail.to_string().into());
        self
    }
}
