//! Where requests can go: a closed set of routes, matched by the canonical target alone.
//!
//! Promises: what is not listed here does not exist; the path that finds a route is the path that is forwarded; the
//! action and the resource that policy decides on come from the same reading of the path. Finding takes time in the
//! length of the path, not in the number of routes.

mod exporter;
mod grants;
mod vertex;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use http::{HeaderValue, Method, StatusCode};

pub use self::vertex::Vertex;
pub(crate) use self::{
    exporter::Exporter,
    grants::GrantRoutes,
    vertex::{
        DedicatedEndpoint, Field, Group, Payload, Rpc, Streaming, actions as vertex_actions, groups as vertex_groups,
    },
};
use crate::{
    client::Upstream,
    gate::{grants::GrantCommand, policy::Resource},
    http::LocalService,
    refusal::Refusal,
    secret::CredentialSource,
};

/// The actions of routes that are not Vertex methods; the schema must have them besides those.
const SCRAPE: &str = "Exporter.Scrape";
const DISCOVER: &str = "Exporter.Discover";
const READ_PREDICTIONS: &str = "Predictions.Scrape";
const REMOTE_WRITE: &str = "RemoteWrite.Write";
const HOME: &str = "Gate.Home";
/// The action of looking at grants, the only one about them that is about no one grant.
pub(crate) const LIST_GRANTS: &str = "Grant.List";
const REQUEST_GRANT: &str = "Grant.Request";
const APPROVE_GRANT: &str = "Grant.Approve";
const REVOKE_GRANT: &str = "Grant.Revoke";

/// Every action that a route can ask about.
pub(crate) fn actions() -> impl Iterator<Item = &'static str> {
    let own = [SCRAPE, DISCOVER, READ_PREDICTIONS, REMOTE_WRITE, HOME];
    own.into_iter().chain([LIST_GRANTS, REQUEST_GRANT, APPROVE_GRANT, REVOKE_GRANT]).chain(vertex_actions())
}

/// Each action that does something to an upstream, with the group that it counts as, whatever a schema says.
pub(crate) fn groups() -> impl Iterator<Item = (&'static str, &'static str)> {
    let own = [(SCRAPE, "scrape"), (DISCOVER, "scrape"), (READ_PREDICTIONS, "scrape"), (REMOTE_WRITE, "ingest")];
    own.into_iter().chain(vertex_groups())
}

/// All routes of one configuration.
pub struct Routes {
    exporters: HashMap<Box<str>, Arc<Exporter>>,
    vertex: Option<Vertex>,
    discover: LocalRoute,
    home: LocalRoute,
    write: Option<(LocalRoute, Arc<dyn LocalService>)>,
    predictions: Option<(LocalRoute, Arc<dyn LocalService>)>,
    scrape: Arc<str>,
    grants: Option<GrantRoutes>,
}

/// What policy is asked about a part of the gate itself.
struct LocalRoute {
    action: Arc<str>,
    resource: Resource,
    options: RouteOptions,
}

impl LocalRoute {
    fn new(action: &str, name: &str, options: RouteOptions) -> Self {
        Self { action: action.into(), resource: Resource::Service(name.into()), options }
    }
}

/// What a route asks of its callers and does for its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteOptions {
    /// Whether an answer without a known end is ended when its caller's proof ends.
    pub end_streams: bool,
    /// Whether it takes tokens that are bound to nothing.
    pub token_binding: TokenBinding,
    /// Whether its upstream is shown a signed statement of who is asking.
    pub assertion: bool,
    /// Whether its upstream is told in plain headers who is asking.
    pub identity_headers: bool,
}

impl Default for RouteOptions {
    fn default() -> Self {
        Self { end_streams: true, token_binding: TokenBinding::Optional, assertion: false, identity_headers: false }
    }
}

/// Whether a route takes a token that anybody who has it may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TokenBinding {
    /// It does. A token that is bound must still be confirmed.
    #[default]
    Optional,
    /// Only tokens bound to a client certificate (RFC 8705) or a DPoP key (RFC 9449), or a client certificate alone.
    Required,
}

/// The options of what the gate itself answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalRouteOptions {
    /// Of the list of exporters.
    pub discover: RouteOptions,
    /// Of remote write.
    pub write: RouteOptions,
    /// Of the forecasts.
    pub predictions: RouteOptions,
}

/// A request's route, as far as its head tells it.
pub enum RouteMatch<'r> {
    /// All of it.
    Matched(Matched<'r>),
    /// A gRPC call, whose message says on what.
    Rpc(Rpc<'r>),
}

impl<'r> RouteMatch<'r> {
    /// The route's kind, for audit and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Matched(matched) => matched.route.kind(),
            Self::Rpc(_) => VERTEX,
        }
    }

    /// The Cedar action, as far as it is known.
    #[must_use]
    pub fn action(&self) -> &'r Arc<str> {
        match self {
            Self::Matched(matched) => matched.action,
            Self::Rpc(rpc) => rpc.action(),
        }
    }

    /// The Cedar resource, where it is known.
    #[must_use]
    pub fn resource(&self) -> Option<&Resource> {
        match self {
            Self::Matched(matched) => Some(&matched.resource),
            Self::Rpc(_) => None,
        }
    }

    /// The route's options.
    #[must_use]
    pub fn options(&self) -> RouteOptions {
        match self {
            Self::Matched(matched) => matched.route.options(),
            Self::Rpc(rpc) => rpc.options(),
        }
    }
}

const VERTEX: &str = "vertex";

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

impl Routes {
    /// Routes to these exporters, to Vertex, and to the parts of the gate that are configured.
    #[must_use]
    pub fn new(
        exporters: Vec<Arc<Exporter>>,
        vertex: Option<Vertex>,
        write: Option<Arc<dyn LocalService>>,
        predictions: Option<Arc<dyn LocalService>>,
        options: LocalRouteOptions,
    ) -> Self {
        Self {
            exporters: exporters.into_iter().map(|e| (Box::from(&*e.name), e)).collect(),
            vertex,
            discover: LocalRoute::new(DISCOVER, "sd", options.discover),
            home: LocalRoute::new(HOME, "home", RouteOptions::default()),
            write: write.map(|service| (LocalRoute::new(REMOTE_WRITE, "write", options.write), service)),
            predictions: predictions
                .map(|service| (LocalRoute::new(READ_PREDICTIONS, "predictions", options.predictions), service)),
            scrape: SCRAPE.into(),
            grants: None,
        }
    }

    /// The same with a way to grants.
    #[must_use]
    pub fn with_grants(self) -> Self {
        Self { grants: Some(GrantRoutes::new()), ..self }
    }

    /// What policy is asked about grants, where there are any.
    #[must_use]
    pub fn grants(&self) -> Option<&GrantRoutes> {
        self.grants.as_ref()
    }

    /// The way of a request. `path` is canonical; `query` goes where the path goes.
    ///
    /// # Errors
    /// 404 for what is not there, 405 for a method that the route does not have.
    pub fn find<'r>(
        &'r self,
        method: &Method,
        path: &'r str,
        path_and_query: &'r str,
    ) -> Result<RouteMatch<'r>, Refusal> {
        match &self.vertex {
            Some(vertex) if path.starts_with("/google.") => {
                Rpc::find(vertex, method, path, path_and_query).map(RouteMatch::Rpc)
            }
            _ => self.matched(method, path, path_and_query).map(RouteMatch::Matched),
        }
    }

    fn matched<'r>(&'r self, method: &Method, path: &'r str, path_and_query: &'r str) -> Result<Matched<'r>, Refusal> {
        if let Some(rest) = path.strip_prefix("/exporters/") {
            return self.exporter(method, rest, path_and_query);
        }
        if let Some(rest) = path.strip_prefix("/grants")
            && (rest.is_empty() || rest.starts_with('/'))
        {
            let query = path_and_query.split_once('?').map_or("", |(_, query)| query);
            return grants::find(self.grants.as_ref(), method, rest, query);
        }
        match path {
            "/sd" => {
                only(method, "GET")?;
                Ok(Matched {
                    route: Route::Discover { options: self.discover.options },
                    action: &self.discover.action,
                    resource: Cow::Borrowed(&self.discover.resource),
                })
            }
            "/" => {
                only(method, READ)?;
                let (action, resource) = (&self.home.action, Cow::Borrowed(&self.home.resource));
                Ok(Matched { route: Route::Home, action, resource })
            }
            "/api/v1/write" => service(self.write.as_ref(), "write", method, "POST"),
            "/metrics/predictions" => service(self.predictions.as_ref(), "predictions", method, "GET"),
            _ => match &self.vertex {
                Some(vertex) if path.starts_with("/v1") => vertex.find(method, path),
                _ => Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_route", "there is nothing at this path")),
            },
        }
    }

    fn exporter<'r>(&'r self, method: &Method, rest: &'r str, path_and_query: &'r str) -> Result<Matched<'r>, Refusal> {
        let name = rest.split_once('/').map_or(rest, |(name, _)| name);
        let exporter = self.exporters.get(name).ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "unknown_exporter",
                "there is no exporter of this name; /sd lists yours",
            )
        })?;
        only(method, READ)?;
        let path =
            path_and_query.get("/exporters/".len() + name.len()..).filter(|p| p.starts_with('/')).ok_or_else(|| {
                Refusal::new(
                    StatusCode::NOT_FOUND,
                    "unknown_route",
                    "ask for a path below the exporter, such as `/metrics`",
                )
            })?;
        Ok(Matched {
            route: Route::Exporter { exporter, path },
            action: &self.scrape,
            resource: Cow::Borrowed(&exporter.resource),
        })
    }

    /// Every exporter, by name.
    #[must_use]
    pub fn exporters(&self) -> Vec<&Arc<Exporter>> {
        let mut exporters: Vec<_> = self.exporters.values().collect();
        exporters.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        exporters
    }

    /// The action that reading an exporter is.
    #[must_use]
    pub fn scrape(&self) -> &Arc<str> {
        &self.scrape
    }
}

fn service<'r>(
    local: Option<&'r (LocalRoute, Arc<dyn LocalService>)>,
    kind: &'static str,
    method: &Method,
    needed: &'static str,
) -> Result<Matched<'r>, Refusal> {
    let (local, service) = local.ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "unknown_route",
            "this gate has no data path: its configuration lacks [ingest]",
        )
    })?;
    only(method, needed)?;
    Ok(Matched {
        route: Route::Service { service, kind, options: local.options },
        action: &local.action,
        resource: Cow::Borrowed(&local.resource),
    })
}

/// The methods of what is only read.
const READ: &str = "GET, HEAD";

fn only(method: &Method, allowed: &'static str) -> Result<(), Refusal> {
    let is_allowed = allowed.split(", ").any(|one| one == method.as_str());
    if is_allowed { Ok(()) } else { Err(Refusal::wrong_method(allowed)) }
}
