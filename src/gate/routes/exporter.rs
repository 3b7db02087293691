//! One exporter behind the gate.

use std::{sync::Arc, time::Duration};

use super::options::RouteOptions;
use crate::{client::Upstream, gate::policy::Resource, secret::CredentialSlot};

/// An exporter: where it is, what it is shown, how discovery describes it.
pub struct Exporter {
    /// Its name in paths, policies and audit.
    pub name: Arc<str>,
    /// What policies are asked about.
    pub resource: Resource,
    /// Where it is.
    pub upstream: Upstream,
    /// What it is shown; `None` where it asks nobody who they are.
    pub credential: Option<CredentialSlot>,
    /// How long the head of its answer may take.
    pub timeout: Duration,
    /// Its metrics page, such as `/metrics`.
    pub metrics_path: String,
    /// Labels that discovery gives it besides `exporter` and `instance`.
    pub labels: Vec<(String, String)>,
    /// Its options.
    pub options: RouteOptions,
    /// Whether scripts of its pages may run, as scripts of the gate's own origin.
    pub scripts: bool,
}
