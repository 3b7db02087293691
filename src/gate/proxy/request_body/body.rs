//! A request body after it was read, and the parts of a request's head that say how to read it.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Version};

use super::grpc_stream::StreamViolation;
use crate::{
    gate::{policy::BodyNames, routes::Matched},
    http::Body,
};

/// A request body, and what the gate learned from it.
pub(in crate::gate::proxy) struct RequestBody<'r> {
    /// The matched route. For gRPC it is known only after the first message.
    pub(in crate::gate::proxy) found: Matched<'r>,
    /// The body to forward, with all bytes that were read of it.
    pub(in crate::gate::proxy) body: Body,
    /// Its length in bytes; `None` if it is not known in advance.
    pub(in crate::gate::proxy) size: Option<u64>,
    /// The resources, buckets and service accounts that it names; `None` if it was not scanned.
    pub(in crate::gate::proxy) named: Option<BodyNames>,
    /// The number of instances; `None` if the method has none or they cannot be counted.
    pub(in crate::gate::proxy) instances: Option<u64>,
    /// The text or message that was scanned, for guardrails.
    pub(in crate::gate::proxy) message: Option<Message>,
    /// Reports a later message of a gRPC stream that the permit does not cover.
    pub(in crate::gate::proxy) violation: Option<Arc<StreamViolation>>,
}

/// A whole body, or the first message of a gRPC call.
#[derive(Clone, Debug)]
pub(in crate::gate::proxy) enum Message {
    /// JSON text.
    Json(Bytes),
    /// A protobuf message, decompressed, without its frame.
    Grpc(Bytes),
}

/// The parts of a request's head that say how to read its body.
#[derive(Clone, Copy)]
pub(in crate::gate::proxy) struct RequestHead<'a> {
    pub(in crate::gate::proxy) version: Version,
    pub(in crate::gate::proxy) headers: &'a HeaderMap,
    /// Google binds query parameters to fields that the body leaves out, so the query counts as body here.
    pub(in crate::gate::proxy) query: &'a str,
    /// The caller, whose memory budget pays for the body.
    pub(in crate::gate::proxy) caller: &'a Arc<str>,
}
