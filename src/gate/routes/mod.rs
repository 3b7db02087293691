//! Where requests can go: a closed set of routes, matched by the canonical target alone.
//!
//! Promises: what is not listed here does not exist; the path that finds a route is the path that is forwarded; the
//! action and the resource that policy decides on come from the same reading of the path. Finding takes time in the
//! length of the path, not in the number of routes.

mod exporter;
mod grants;
mod options;
mod route;
mod vertex;

use std::{borrow::Cow, collections::HashMap, sync::Arc};

use http::{Method, StatusCode};

use self::route::{
    APPROVE_GRANT, DISCOVER, HOME, LocalRoute, READ_METHODS, READ_PREDICTIONS, REMOTE_WRITE, REQUEST_GRANT,
    REVOKE_GRANT, SCRAPE, VERTEX, check_method,
};
pub(crate) use self::{
    exporter::Exporter,
    grants::GrantRoutes,
    options::TokenBinding,
    route::{LIST_GRANTS, Matched, Route},
    vertex::{
        DedicatedEndpoint, Field, Group, Payload, Rpc, Streaming, actions as vertex_actions, groups as vertex_groups,
    },
};
pub use self::{
    options::{LocalRouteOptions, RouteOptions},
    vertex::Vertex,
};
use crate::{gate::policy::Resource, http::LocalService, refusal::Refusal};

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
                check_method(method, "GET")?;
                Ok(Matched {
                    route: Route::Discover { options: self.discover.options },
                    action: &self.discover.action,
                    resource: Cow::Borrowed(&self.discover.resource),
                })
            }
            "/" => {
                check_method(method, READ_METHODS)?;
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
        check_method(method, READ_METHODS)?;
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
    check_method(method, needed)?;
    Ok(Matched {
        route: Route::Service { service, kind, options: local.options },
        action: &local.action,
        resource: Cow::Borrowed(&local.resource),
    })
}
