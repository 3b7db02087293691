//! Reading of request bodies before authorization: REST (JSON) and gRPC.
//!
//! Promises: the caller is authenticated before a byte of the body is read. A body for Vertex AI is buffered whole, within
//! 10 MiB, 30 s and a memory budget of which no caller gets more than half, and is scanned for the resources that it
//! names. The resource of a gRPC call comes from its first message, and no later message of the call may name another. A
//! body that cannot be scanned is refused, unless the method sends it to a model's own server. It must never read more
//! than the decision needs.

mod body;
mod buffer;
mod grpc;
mod grpc_frame;
mod grpc_head;
mod grpc_stream;
mod json;
mod references;
mod rest;
#[cfg(test)]
mod tests;
mod wire;

pub(super) use self::{
    body::{Message, RequestBody, RequestHead},
    grpc_head::{grpc_timeout, is_grpc},
    grpc_stream::StreamViolation,
    json::INSTANCE_MEMBERS,
};
