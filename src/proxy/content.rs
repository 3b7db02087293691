//! What is read of a request's body before the decision. Never more than the decision needs, and never without a bound.

use http_body::Body as _;

use crate::{http::Body, policy::Named, refusal::Refusal, routes::Found};

/// A request's body, as far as it was read, and what is known of it.
pub(super) struct Content {
    /// What is forwarded: all of the body, what was read of it included.
    pub(super) body: Body,
    /// Its length in bytes, where that is known before it is forwarded.
    pub(super) size: Option<u64>,
    /// What it names; `None` where it was not looked at.
    pub(super) named: Option<Named>,
}

impl Content {
    /// Reads what the decision about this route depends on. The caller is known by now.
    pub(super) async fn read(_found: &Found<'_>, body: Body) -> Result<Self, Refusal> {
        Ok(Self { size: body.size_hint().exact(), named: None, body })
    }
}
