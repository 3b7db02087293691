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

/// The actions of routes that are not Vertex methods. The Cedar schema must declare them too.
pub(super) const SCRAPE: &str = "Exporter.Scrape";
pub(super) const DISCOVER: &str = "Exporter.Discover";
pub(super) const READ_PREDICTIONS: &str = "Predictions.Scrape";
pub(super) const REMOTE_WRITE: &str = "RemoteWrite.Write";
pub(super) const HOME: &str = "Gate.Home";
/// The action of listing grants: the only grant action whose resource is not a single grant.
pub(crate) const LIST_GRANTS: &str = "Grant.List";
pub(super) const REQUEST_GRANT: &str = "Grant.Request";
pub(super) const APPROVE_GRANT: &str = "Grant.Approve";
pub(super) const REVOKE_GRANT: &str = "Grant.Revoke";

/// The kind of Vertex routes.
pub(super) const VERTEX: &str = "vertex";

/// A request's route, with the Cedar action and resource that policy decides on.
pub struct Matched<'r> {
    /// The route.
    pub route: Route<'r>,
    /// The Cedar action.
    pub action: &'r Arc<str>,
    /// The Cedar resource.
    pub resource: Cow<'r, Resource>,
}

/// The destination of a permitted request.
pub enum Route<'r> {
    /// An exporter.
    Exporter {
        /// The exporter.
        exporter: &'r Arc<Exporter>,
        /// Path and query below the exporter's URL.
        path: &'r str,
    },
    /// Vertex, with path and query as received.
    Vertex {
        /// The server for the request's location.
        upstream: &'r Upstream,
        /// The credential of the method's group. `None` if none is configured.
        credential: Option<&'r CredentialSource>,
        /// The group of the method.
        group: Group,
        /// Deadline for the response's head.
        timeout: std::time::Duration,
        /// Its options.
        options: RouteOptions,
        /// The kind of the method's body.
        payload: Payload,
        /// The value of `x-goog-request-params`, which routes a gRPC call. `None` for REST.
        params: Option<HeaderValue>,
        /// The value of `x-vertex-ai-endpoint-id`, if the endpoint has a dedicated host.
        endpoint_id: Option<&'r HeaderValue>,
    },
    /// Service discovery.
    Discover {
        /// Its options.
        options: RouteOptions,
    },
    /// The start page.
    Home,
    /// The grants API.
    Grants(GrantCommand),
    /// A local service.
    Service {
        /// The service.
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

/// The action, resource and options of a route that the gate serves itself.
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

/// The methods of a read-only route.
pub(super) const READ_METHODS: &str = "GET, HEAD";

/// Refuses every method besides the allowed ones with 405.
pub(super) fn check_method(method: &Method, allowed: &'static str) -> Result<(), Refusal> {
    let is_allowed = allowed.split(", ").any(|one| one == method.as_str());
    if is_allowed { Ok(()) } else { Err(Refusal::wrong_method(allowed)) }
}
