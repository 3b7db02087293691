//! A matched route: where a permitted request goes, with the Cedar action and resource that policy decides on.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderValue, Method};

use super::{
    exporter::Exporter,
    options::RouteOptions,
    vertex::{Group, Payload},
};
use crate::{
    client::Upstream,
    gate::{grants::GrantCommand, policy::Resource},
    http::LocalService,
    refusal::Refusal,
    secret::CredentialSource,
};

/// The actions of routes that are not Vertex methods; the schema must have them besides those.
pub(super) const SCRAPE: &str = "Exporter.Scrape";
pub(super) const DISCOVER: &str = "Exporter.Discover";
pub(super) const READ_PREDICTIONS: &str = "Predictions.Scrape";
pub(super) const REMOTE_WRITE: &str = "RemoteWrite.Write";
pub(super) const HOME: &str = "Gate.Home";
/// The action of looking at grants, the only one about them that is about no one grant.
pub(crate) const LIST_GRANTS: &str = "Grant.List";
pub(super) const REQUEST_GRANT: &str = "Grant.Request";
pub(super) const APPROVE_GRANT: &str = "Grant.Approve";
pub(super) const REVOKE_GRANT: &str = "Grant.Revoke";

/// The kind of Vertex routes.
pub(super) const VERTEX: &str = "vertex";

/// A request's route: where it goes, and what policy is asked about it.
pub struct Matched<'r> {
    /// Where it goes.
    pub route: Route<'r>,
    /// The Cedar action.
    pub action: &'r Arc<str>,
    /// The Cedar resource.
    pub resource: Cow<'r, Resource>,
}

/// Where a permitted request goes.
pub enum Route<'r> {
    /// To an exporter; `path` is what is asked of it, query included.
    Exporter {
        /// The exporter.
        exporter: &'r Arc<Exporter>,
        /// Path and query below the exporter's URL.
        path: &'r str,
    },
    /// To Vertex, path and query as they came.
    Vertex {
        /// The server for the request's location.
        upstream: &'r Upstream,
        /// The credential of the method's group; `None` where none is configured.
        credential: Option<&'r CredentialSource>,
        /// The group of the method.
        group: Group,
        /// How long the answer's head may take.
        timeout: std::time::Duration,
        /// Its options.
        options: RouteOptions,
        /// What the method's body is.
        payload: Payload,
        /// What a gRPC call is routed by: the value of `x-goog-request-params`. `None` for REST.
        params: Option<HeaderValue>,
        /// The id of the endpoint whose own host this is: the value of `x-vertex-ai-endpoint-id`.
        endpoint_id: Option<&'r HeaderValue>,
    },
    /// To the list of exporters.
    Discover {
        /// Its options.
        options: RouteOptions,
    },
    /// To the start page of people.
    Home,
    /// To grants: what is wished there.
    Grants(GrantCommand),
    /// To a part of the gate itself.
    Service {
        /// The part.
        service: &'r Arc<dyn LocalService>,
        /// Its name in metrics and audit.
        kind: &'static str,
        /// Its options.
        options: RouteOptions,
    },
}

impl Route<'_> {
    /// The route's kind, for audit and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Exporter { .. } => "exporter",
            Self::Vertex { .. } => VERTEX,
            Self::Discover { .. } => "sd",
            Self::Home => "home",
            Self::Grants(_) => "grants",
            Self::Service { kind, .. } => kind,
        }
    }

    /// The route's options.
    #[must_use]
    pub fn options(&self) -> RouteOptions {
        match self {
            Self::Exporter { exporter, .. } => exporter.options,
            Self::Vertex { options, .. } | Self::Discover { options } | Self::Service { options, .. } => *options,
            Self::Home | Self::Grants(_) => RouteOptions::default(),
        }
    }
}

/// What policy is asked about a part of the gate itself.
pub(super) struct LocalRoute {
    pub(super) action: Arc<str>,
    pub(super) resource: Resource,
    pub(super) options: RouteOptions,
}

impl LocalRoute {
    pub(super) fn new(action: &str, name: &str, options: RouteOptions) -> Self {
        Self { action: action.into(), resource: Resource::Service(name.into()), options }
    }
}

/// The methods of what is only read.
pub(super) const READ_METHODS: &str = "GET, HEAD";

/// Refuses every method besides the allowed ones with 405.
pub(super) fn check_method(method: &Method, allowed: &'static str) -> Result<(), Refusal> {
    let is_allowed = allowed.split(", ").any(|one| one == method.as_str());
    if is_allowed { Ok(()) } else { Err(Refusal::wrong_method(allowed)) }
}
