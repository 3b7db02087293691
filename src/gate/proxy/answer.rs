//! The response to a request, with what applies until its last byte.

use std::sync::Arc;

use http::Response;
use http_body::Body as _;

use super::{
    authorize::Permit, request_body::StreamViolation, response_usage::ResponseUsage, stream_end::StreamLifetime,
};
use crate::{http::Body, peer::Peer};

/// A response before [`AuditedBody`](super::AuditedBody) takes its body.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    pub(super) response_usage: ResponseUsage,
    pub(super) lifetime: Option<StreamLifetime>,
    /// Ends a gRPC call if a later message of the caller is not permitted.
    pub(super) violation: Option<Arc<StreamViolation>>,
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self { response, response_usage: ResponseUsage::None, lifetime: None, violation: None }
    }
}

impl Answer {
    /// Ends a stream when a grant of the permit ends and, if the route has `end_streams`, when the principal's proof or the
    /// peer's certificate becomes invalid. A response of known length is finite and may complete.
    pub(super) fn with_stream_end(mut self, permit: &Permit<'_>, peer: &Peer) -> Self {
        let endless = self.response.body().size_hint().exact().is_none();
        let proof = (endless && permit.route.options().end_streams).then_some((&permit.principal, peer));
        let grants = if endless { &*permit.grants.grants } else { &[] };
        self.lifetime = StreamLifetime::new(proof, grants, self.violation.take());
        self
    }
}
