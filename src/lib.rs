//! wicketgate: an identity-aware proxy in front of Prometheus exporters and Vertex AI endpoints.
pub mod audit;
pub mod client;
pub mod clock;
pub mod http;
pub mod identity;
pub mod policy;
pub mod principal;
pub mod refusal;
pub mod secret;
pub mod telemetry;
