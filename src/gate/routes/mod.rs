//! Where requests can go: a closed set of routes, found by the canonical target alone.
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
    grants::Granting,
    vertex::{Dedicated, Field, Group, Payload, Rpc, Streaming, actions as vertex_actions, groups as vertex_groups},
};
use crate::{
    client::Upstream,
    gate::{grants::Wish, policy::Resource},
    http::LocalService,
    refusal::Refusal,
    secret::Shown,
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
    discover: Local,
    home: Local,
    write: Option<(Local, Arc<dyn LocalService>)>,
    predictions: Option<(Local, Arc<dyn LocalService>)>,
    scrape: Arc<str>,
    grants: Option<Granting>,
}

/// What policy is asked about a part of the gate itself.
struct Local {
    action: Arc<str>,
    resource: Resource,
    terms: Terms,
}

impl Local {
    fn new(action: &str, name: &str, terms: Terms) -> Self {
        Self { action: action.into(), resource: Resource::Service(name.into()), terms }
    }
}

/// What a route asks of its callers and does for its upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether an answer without a known end is ended when its caller's proof ends.
    pub end_streams: bool,
    /// Whether it takes tokens that are bound to nothing.
    pub token_binding: TokenBinding,
    /// Whether its upstream is shown a signed statement of who is asking.
    pub assertion: bool,
    /// Whether its upstream is told in plain headers who is asking.
    pub identity_headers: bool,
}

impl Default for Terms {
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

/// The terms of what the gate itself answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LocalTerms {
    /// Of the list of exporters.
    pub discover: Terms,
    /// Of remote write.
    pub write: Terms,
    /// Of the forecasts.
    pub predictions: Terms,
}

/// A request's way, as far as its head tells it.
pub enum Way<'r> {
    /// All of it.
    Found(Found<'r>),
    /// A gRPC call, whose message says on what.
    Rpc(Rpc<'r>),
}

impl<'r> Way<'r> {
    /// The route's kind, for audit and metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Found(found) => found.route.kind(),
            Self::Rpc(_) => VERTEX,
        }
    }

    /// The Cedar action, as far as it is known.
    #[must_use]
    pub fn action(&self) -> &'r Arc<str> {
        match self {
            Self::Found(found) => found.action,
            Self::Rpc(rpc) => rpc.action(),
        }
    }

    /// The Cedar resource, where it is known.
    #[must_use]
    pub fn resource(&self) -> Option<&Resource> {
        match self {
            Self::Found(found) => Some(&found.resource),
            Self::Rpc(_) => None,
        }
    }

    /// The route's terms.
    #[must_use]
    pub fn terms(&self) -> Terms {
        match self {
            Self::Found(found) => found.route.terms(),
            Self::Rpc(rpc) => rpc.terms(),
        }
    }
}

const VERTEX: &str = "vertex";

/// A request's way: where it goes, and what policy is asked about it.
pub struct Found<'r> {
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
        credential: Option<&'r Shown>,
        /// The group of the method.
        group: Group,
        /// How long the answer's head may take.
        timeout: std::time::Duration,
        /// Its terms.
        terms: Terms,
        /// What the method's body is.
        payload: Payload,
        /// What a gRPC call is routed by: the value of `x-goog-request-params`. `None` for REST.
        params: Option<HeaderValue>,
        /// The id of the endpoint whose own host this is: the value of `x-vertex-ai-endpoint-id`.
        endpoint_id: Option<&'r HeaderValue>,
    },
    /// To the list of exporters.
    Discover {
        /// Its terms.
        terms: Terms,
    },
    /// To the start page of people.
    Home,
    /// To grants: what is wished there.
    Grants(Wish),
    /// To a part of the gate itself.
    Service {
        /// The part.
        service: &'r Arc<dyn LocalService>,
        /// Its name in metrics and audit.
        kind: &'static str,
        /// Its terms.
        terms: Terms,
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

    /// The route's terms.
    #[must_use]
    pub fn terms(&self) -> Terms {
        match self {
            Self::Exporter { exporter, .. } => exporter.terms,
            Self::Vertex { terms, .. } | Self::Discover { terms } | Self::Service { terms, .. } => *terms,
            Self::Home | Self::Grants(_) => Terms::default(),
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
        terms: LocalTerms,
    ) -> Self {
        Self {
            exporters: exporters.into_iter().map(|e| (Box::from(&*e.name), e)).collect(),
            vertex,
            discover: Local::new(DISCOVER, "sd", terms.discover),
            home: Local::new(HOME, "home", Terms::default()),
            write: write.map(|service| (Local::new(REMOTE_WRITE, "write", terms.write), service)),
            predictions: predictions
                .map(|service| (Local::new(READ_PREDICTIONS, "predictions", terms.predictions), service)),
            scrape: SCRAPE.into(),
            grants: None,
        }
    }

    /// The same with a way to grants.
    #[must_use]
    pub fn with_grants(self) -> Self {
        Self { grants: Some(Granting::new()), ..self }
    }

    /// What policy is asked about grants, where there are any.
    #[must_use]
    pub fn grants(&self) -> Option<&Granting> {
        self.grants.as_ref()
    }

    /// The way of a request. `path` is canonical; `query` goes where the path goes.
    ///
    /// # Errors
    /// 404 for what is not there, 405 for a method that the route does not have.
    pub fn find<'r>(&'r self, method: &Method, path: &'r str, path_and_query: &'r str) -> Result<Way<'r>, Refusal> {
        match &self.vertex {
            Some(vertex) if path.starts_with("/google.") => {
                Rpc::find(vertex, method, path, path_and_query).map(Way::Rpc)
            }
            _ => self.found(method, path, path_and_query).map(Way::Found),
        }
    }

    fn found<'r>(&'r self, method: &Method, path: &'r str, path_and_query: &'r str) -> Result<Found<'r>, Refusal> {
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
                Ok(Found {
                    route: Route::Discover { terms: self.discover.terms },
                    action: &self.discover.action,
                    resource: Cow::Borrowed(&self.discover.resource),
                })
            }
            "/" => {
                only(method, READ)?;
                let (action, resource) = (&self.home.action, Cow::Borrowed(&self.home.resource));
                Ok(Found { route: Route::Home, action, resource })
            }
            "/api/v1/write" => service(self.write.as_ref(), "write", method, "POST"),
            "/metrics/predictions" => service(self.predictions.as_ref(), "predictions", method, "GET"),
            _ => match &self.vertex {
                Some(vertex) if path.starts_with("/v1") => vertex.find(method, path),
                _ => Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_route", "there is nothing at this path")),
            },
        }
    }

    fn exporter<'r>(&'r self, method: &Method, rest: &'r str, path_and_query: &'r str) -> Result<Found<'r>, Refusal> {
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
        Ok(Found {
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
    local: Option<&'r (Local, Arc<dyn LocalService>)>,
    kind: &'static str,
    method: &Method,
    needed: &'static str,
) -> Result<Found<'r>, Refusal> {
    let (local, service) = local.ok_or_else(|| {
        Refusal::new(
            StatusCode::NOT_FOUND,
            "unknown_route",
            "this gate has no data path: its configuration lacks [ingest]",
        )
    })?;
    only(method, needed)?;
    Ok(Found {
        route: Route::Service { service, kind, terms: local.terms },
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
