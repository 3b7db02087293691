//! The Prometheus text formats: one line cut into its parts, and samples.

pub(crate) mod line;
pub(crate) mod samples;
