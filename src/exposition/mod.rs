//! Prometheus text formats: a tokenizer, lines with the positions of their parts, and samples with their values.

pub(crate) mod line;
pub(crate) mod samples;
mod tokenizer;
