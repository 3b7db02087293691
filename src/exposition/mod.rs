//! The Prometheus text formats: one line cut into its parts, and samples.

pub mod line;
pub mod samples;
