//! An answer on its way to the client: the response, and what must follow it until its last byte.

use std::sync::Arc;

use http::Response;
use http_body::Body as _;

use super::{
    authorize::Permit, request_body::StreamViolation, response_usage::ResponseUsage, stream_end::StreamLifetime,
};
use crate::{http::Body, peer::Peer};

/// What a request is answered with, before its record takes hold of it.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    pub(super) response_usage: ResponseUsage,
    pub(super) lifetime: Option<StreamLifetime>,
    /// What ends a gRPC call by its caller's own messages.
    pub(super) violation: Option<Arc<StreamViolation>>,
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self { response, response_usage: ResponseUsage::None, lifetime: None, violation: None }
    }
}

impl Answer {
    /// Ends the answer with what the permit stands on, where it is a stream: with its grants always, with the
    /// principal's proof and the peer's certificate where its route wants that. An answer whose length is known is
    /// finite: it may come to its end.
    pub(super) fn with_stream_end(mut self, permit: &Permit<'_>, peer: &Peer) -> Self {
        let endless = self.response.body().size_hint().exact().is_none();
        let proof = (endless && permit.route.options().end_streams).then_some((&permit.principal, peer));
        let grants = if endless { &*permit.grants.grants } else { &[] };
        self.lifetime = StreamLifetime::new(proof, grants, self.violation.take());
        self
    }
}
