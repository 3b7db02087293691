//! The Vertex method table: from verb and path to the method, its group, its resource and its location.
//!
//! Promises: a method that is not in the table is refused; a literal segment is never read as an id
//! (`endpoints/openapi` is no endpoint), so each path has one reading.

mod group;
mod rpc;
mod table;
#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::HashMap, time::Duration};

use http::{HeaderValue, Method, StatusCode};

pub(crate) use self::group::Group;
use self::table::{VertexMethod, split_custom};
pub(crate) use self::{
    rpc::Rpc,
    table::{Field, Payload, Streaming, actions, groups},
};
use super::{
    options::RouteOptions,
    route::{Matched, Route},
};
use crate::{
    client::Upstream,
    gate::policy::{Resource, VertexResource},
    refusal::Refusal,
    secret::{CredentialSlot, CredentialSource},
};

/// Vertex AI as an upstream.
pub struct Vertex {
    /// The server of each permitted location.
    pub upstreams: HashMap<Box<str>, Upstream>,
    /// The credential for Google, by group.
    pub credentials: HashMap<Group, CredentialSource>,
    /// The credential of the gate's own prediction requests.
    pub own: Option<CredentialSlot>,
    /// Deadline for the head of a response.
    pub timeout: Duration,
    /// Its options.
    pub options: RouteOptions,
    /// The permitted projects. `None` permits all.
    pub projects: Option<Box<[Box<str>]>>,
    /// Endpoints with a dedicated host, by full name.
    pub dedicated: HashMap<Box<str>, DedicatedEndpoint>,
}

/// An endpoint with a dedicated host.
#[derive(Clone)]
pub struct DedicatedEndpoint {
    /// Its full name.
    pub endpoint: Box<str>,
    /// Its server.
    pub upstream: Upstream,
    /// Its id, the value of `x-vertex-ai-endpoint-id`.
    pub id: HeaderValue,
}

/// The methods that dedicated hosts serve. The location's host serves all other methods of their endpoints.
const DEDICATED: [&str; 5] = [
    "PredictionService.ChatCompletions",
    "PredictionService.Predict",
    "PredictionService.RawPredict",
    "PredictionService.StreamRawPredict",
    "projects.locations.endpoints.chat.completions",
];

impl Vertex {
    pub(super) fn find<'r>(&'r self, verb: &Method, path: &'r str) -> Result<Matched<'r>, Refusal> {
        let version = if path.starts_with("/v1beta1") { "v1beta1" } else { "v1" };
        let below = path.get(1 + version.len()..).filter(|rest| rest.starts_with(['/', ':'])).unwrap_or_default();
        let method = table::find(version, below, Some(verb)).ok_or_else(unknown_method)?;
        self.matched(method, resource(below, method.named), None)
    }

    /// The route of a method on a resource. `params` is `None` for REST.
    fn matched<'r>(
        &'r self,
        method: &'static VertexMethod,
        resource: VertexResource,
        params: Option<HeaderValue>,
    ) -> Result<Matched<'r>, Refusal> {
        let outside = |project: &str| self.projects.iter().any(|known| !known.iter().any(|known| **known == *project));
        if let Some(project) = resource.project.as_deref().filter(|project| outside(project)) {
            return Err(unknown_project(project));
        }
        let location = &resource.location;
        let of_location = self.upstreams.get(&**location).ok_or_else(|| unknown_location(location))?;
        let own = self.dedicated.get(&*resource.name).filter(|_| DEDICATED.contains(&&*method.action));
        let route = Route::Vertex {
            upstream: own.map_or(of_location, |own| &own.upstream),
            credential: self.credentials.get(&method.group),
            group: method.group,
            timeout: self.timeout,
            options: self.options,
            payload: method.payload,
            params,
            endpoint_id: own.map(|own| &own.id),
        };
        Ok(Matched { route, action: &method.action, resource: Cow::Owned(Resource::Vertex(resource)) })
    }
}

fn unknown_method() -> Refusal {
    let text = "the gate does not know this Vertex method, and denies unknown methods";
    Refusal::new(StatusCode::NOT_FOUND, "unknown_method", text)
}

fn unknown_project(project: &str) -> Refusal {
    let text = "the project is not configured; if only its id is configured, use the id instead of the number";
    Refusal::new(StatusCode::NOT_FOUND, "unknown_project", text).with_detail(format!("project {project}"))
}

fn unknown_location(location: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "unknown_location", "the location is not configured")
        .with_detail(format!("location {location}"))
}

/// The resource that a path names: its first `named` segments, or all of them, without version, custom verb and free
/// tail. Escapes are decoded, so that a policy for `models/1@2` applies however a client spells the `@`.
fn resource(below: &str, named: Option<usize>) -> VertexResource {
    let path = below.trim_matches('/');
    let end = named.and_then(|segments| path.match_indices('/').nth(segments.checked_sub(1)?)).map(|(at, _)| at);
    let name = end.map_or_else(|| split_custom(path).0, |end| path.get(..end).unwrap_or_default());
    VertexResource::parse(&unescaped(name))
}

/// `name` without percent-escapes. A canonical path has no escaped slashes, so that its segments stay the same.
fn unescaped(name: &str) -> Cow<'_, str> {
    if !name.contains('%') {
        return name.into();
    }
    let mut parts = name.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let escape = part.get(..2).and_then(|digits| Some((u8::from_str_radix(digits, 16).ok()?, part.get(2..)?)));
        match escape {
            Some((byte, rest)) => {
                bytes.push(byte);
                bytes.extend_from_slice(rest.as_bytes());
            }
            None => return name.into(),
        }
    }
    String::from_utf8(bytes).map_or_else(|_| name.into(), Into::into)
}
