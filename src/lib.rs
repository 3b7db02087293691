//! wicketgate: an identity-aware proxy in front of Prometheus exporters and Vertex AI endpoints.
pub mod app;
pub mod cli;
pub mod client;
pub mod clock;
pub mod config;
pub mod demo;
pub mod exposition;
pub mod gate;
pub mod http;
pub mod peer;
pub mod pipeline;
pub mod principal;
pub mod refusal;
pub mod secret;
pub mod series;
pub mod telemetry;
