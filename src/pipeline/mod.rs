//! The metrics pipeline: samples in, shaped, on disk, forecast by a model, and served as metrics.
//!
//! Promises: an acknowledged batch is on disk. Never: an import of `gate`; `app` hands the pipeline's services to the gate's
//! routes, so that each request is authorized and audited first.

pub(crate) mod feedback;
pub(crate) mod ingest;
pub(crate) mod shape;
pub(crate) mod sinks;
pub(crate) mod spool;
#[cfg(test)]
pub(crate) mod testing;
