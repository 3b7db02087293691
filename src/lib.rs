//! wicketgate: an identity-aware proxy in front of Prometheus exporters and Vertex AI endpoints.
pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod demo;
pub mod exposition;
pub mod feedback;
pub mod gate;
pub mod http;
pub mod ingest;
pub mod peer;
pub mod principal;
pub mod refusal;
pub mod secret;
pub mod series;
pub mod shape;
pub mod sinks;
pub mod spool;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod testing;
