//! Route lookup: action and resource of a request, by the routes of a configuration that is not served.
//!
//! Promises: the routes and the reading of the path are those of a gate; nothing is contacted, and nothing answers.

use std::{collections::HashMap, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header::HOST};

use crate::{
    config::{Config, ExporterSettings, VertexSettings},
    gate::{
        policy::Resource,
        proxy::Target,
        routes::{Exporter, RouteMatch, Routes, Vertex},
    },
    http::{Body, BoxFuture, LocalService},
    principal::Caller,
    refusal::Refusal,
};

/// The action and the resource of a request, as `configuration` routes it. Takes its exporters and Vertex.
///
/// # Errors
/// The gate's refusal of the request before authentication.
pub fn look_up(config: &mut Config, method: &Method, uri: &Uri) -> Result<(Arc<str>, Resource), Refusal> {
    let exporters = std::mem::take(&mut config.exporters).into_iter().map(exporter).collect();
    let dedicated =
        |vertex: &VertexSettings| vertex.dedicated.iter().map(|one| (one.endpoint.clone(), one.clone())).collect();
    let vertex = config.vertex.take().map(|vertex| Vertex {
        dedicated: dedicated(&vertex),
        projects: vertex.projects.map(|projects| projects.into_iter().map(Into::into).collect()),
        upstreams: vertex.upstreams.into_iter().map(|(location, upstream)| (location.into(), upstream)).collect(),
        credentials: HashMap::new(),
        own: None,
        timeout: vertex.timeout,
        options: vertex.options,
    });
    let service = || config.data.as_ref().map(|_| Arc::new(UnavailableService) as Arc<dyn LocalService>);
    let routes = Routes::new(exporters, vertex, service(), service(), config.local);
    let mut headers = HeaderMap::new();
    headers.insert(HOST, uri.host().and_then(|host| host.parse().ok()).unwrap_or(HeaderValue::from_static("gate")));
    let target = Target::parse(method, uri, &headers)?;
    match routes.find(method, target.path, target.path_and_query)? {
        RouteMatch::Matched(matched) => Ok((matched.action.clone(), matched.resource.into_owned())),
        RouteMatch::Rpc(rpc) => {
            let text = format!("the resource of a gRPC call is in its message; ask with `--action {}`", rpc.action());
            Err(Refusal::malformed("message_needed", text))
        }
    }
}

fn exporter(settings: ExporterSettings) -> Arc<Exporter> {
    let ExporterSettings { name, upstream, metrics_path, labels, timeout, options, scripts, .. } = settings;
    let name: Arc<str> = name.into();
    let resource = Resource::Exporter(name.clone());
    Arc::new(Exporter { name, resource, upstream, credential: None, timeout, metrics_path, labels, options, scripts })
}

/// Stands where a service of the gate would.
struct UnavailableService;

impl LocalService for UnavailableService {
    fn serve<'a>(&'a self, _: Caller, _: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, Refusal>> {
        Box::pin(async { Err(Refusal::unavailable("not_served", "nobody serves this configuration")) })
    }
}
