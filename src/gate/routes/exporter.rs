//! A Prometheus exporter as an upstream.

use std::{sync::Arc, time::Duration};

use super::options::RouteOptions;
use crate::{client::Upstream, gate::policy::Resource, secret::CredentialSlot};

/// An exporter: its address, its credential, and its service discovery labels.
pub struct Exporter {
    /// Its name in paths, policies and audit.
    pub name: Arc<str>,
    /// Its Cedar resource.
    pub resource: Resource,
    /// Its server.
    pub upstream: Upstream,
    /// The credential that the gate sends. `None` if the exporter needs no authentication.
    pub credential: Option<CredentialSlot>,
    /// Deadline for the head of its response.
    pub timeout: Duration,
    /// Its metrics page, such as `/metrics`.
    pub metrics_path: String,
    /// Service discovery labels besides `exporter` and `instance`.
    pub labels: Vec<(String, String)>,
    /// Its options.
    pub options: RouteOptions,
    /// Whether a browser may run its pages' scripts, which then run in the gate's origin.
    pub scripts: bool,
}
