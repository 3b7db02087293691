//! wicketgate: an identity-aware proxy in front of Prometheus exporters and Vertex AI endpoints.
pub mod app;
pub mod audit;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod credentials;
pub mod demo;
pub mod feedback;
pub mod http;
pub mod identity;
pub mod ingest;
pub mod listen;
pub mod peer;
pub mod policy;
pub mod principal;
pub mod proxy;
pub mod refusal;
pub mod routes;
pub mod secret;
pub mod series;
pub mod shape;
pub mod sinks;
pub mod spool;
pub mod telemetry;
#[cfg(test)]
pub(crate) mod testing;
