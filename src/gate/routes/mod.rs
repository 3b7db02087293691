//! Request routing: a closed set of routes, matched by the canonical target alone.
//!
//! Promises: a path without a route is 404; the path that matches a route is the path that is forwarded; the action and
//! the resource that policy decides on come from the same parse of the path. Matching takes time in the length of the
//! path, not in the number of routes.

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

/// Every Cedar action of a route.
pub(crate) fn actions() -> impl Iterator<Item = &'static str> {
    let local = [SCRAPE, DISCOVER, READ_PREDICTIONS, REMOTE_WRITE, HOME];
    local.into_iter().chain([LIST_GRANTS, REQUEST_GRANT, APPROVE_GRANT, REVOKE_GRANT]).chain(vertex_actions())
}

/// Each action on an upstream with its group, independent of the Cedar schema.
pub(crate) fn groups() -> impl Iterator<Item = (&'static str, &'static str)> {
    let local = [(SCRAPE, "scrape"), (DISCOVER, "scrape"), (READ_PREDICTIONS, "scrape"), (REMOTE_WRITE, "ingest")];
    local.into_iter().chain(vertex_groups())
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

/// The result of matching a request's head.
pub enum RouteMatch<'r> {
    /// The complete route.
    Matched(Matched<'r>),
    /// A gRPC call, whose message names the resource.
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

    /// The Cedar action; for a gRPC call possibly without its group.
    #[must_use]
    pub fn action(&self) -> &'r Arc<str> {
        match self {
            Self::Matched(matched) => matched.action,
            Self::Rpc(rpc) => rpc.action(),
        }
    }

    /// The Cedar resource. `None` for a gRPC call, before its message is read.
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
    /// Routes to these exporters, to Vertex, and to the configured local services.
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

    /// Adds the routes of the grants API.
    #[must_use]
    pub fn with_grants(self) -> Self {
        Self { grants: Some(GrantRoutes::new()), ..self }
    }

    /// The actions of the grants API. `None` if `[grants]` is not configured.
    #[must_use]
    pub fn grants(&self) -> Option<&GrantRoutes> {
        self.grants.as_ref()
    }

    /// Matches a request. `path` is canonical; an exporter's route forwards the query with the path.
    ///
    /// # Errors
    /// 404 if no route has this path, 405 if the route does not have this method.
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
                let resource = Cow::Borrowed(&self.home.resource);
                Ok(Matched { route: Route::Home, action: &self.home.action, resource })
            }
            "/api/v1/write" => service(self.write.as_ref(), "write", method, "POST"),
            "/metrics/predictions" => service(self.predictions.as_ref(), "predictions", method, "GET"),
            _ => match &self.vertex {
                Some(vertex) if path.starts_with("/v1") => vertex.find(method, path),
                _ => Err(Refusal::new(StatusCode::NOT_FOUND, "unknown_route", "no route has this path")),
            },
        }
    }

    fn exporter<'r>(&'r self, method: &Method, rest: &'r str, path_and_query: &'r str) -> Result<Matched<'r>, Refusal> {
        let name = rest.split_once('/').map_or(rest, |(name, _)| name);
        let exporter = self.exporters.get(name).ok_or_else(|| {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "unknown_exporter",
                "no exporter has this name; `/sd` lists the exporters that you may read",
            )
        })?;
        check_method(method, READ_METHODS)?;
        let path =
            path_and_query.get("/exporters/".len() + name.len()..).filter(|p| p.starts_with('/')).ok_or_else(|| {
                Refusal::new(
                    StatusCode::NOT_FOUND,
                    "unknown_route",
                    "the exporter's name must be followed by a path such as `/metrics`",
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

    /// The action of reading an exporter.
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
            "remote write and forecasts are not configured: the configuration has no [ingest]",
        )
    })?;
    check_method(method, needed)?;
    Ok(Matched {
        route: Route::Service { service, kind, options: local.options },
        action: &local.action,
        resource: Cow::Borrowed(&local.resource),
    })
}
