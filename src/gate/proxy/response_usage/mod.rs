//! Model, model version and token count of a Vertex AI response, read while it streams to the client.
//!
//! Promises: only Google's own fields are read: members of the outermost object and fields of the outermost message, never
//! text that a model generated, and nothing of a body from a model's own server. No byte is delayed, and a reader buffers at
//! most 1 KiB.

mod grpc;
mod json;
mod model_info;
mod sse;
#[cfg(test)]
mod tests;
mod usage;

pub(super) use self::usage::ResponseUsage;
