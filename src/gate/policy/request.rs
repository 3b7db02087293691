//! Access requests: principal, action, resource and context. Pure.
//!
//! Promises: a resource has one name and one reading, wherever the name came from: a path, a gRPC message, a request's
//! body, an audit record or a test table.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use http::Method;

use crate::{
    clock::Timestamp,
    peer::{Certificate, Peer},
    principal::Principal,
};

/// What is acted upon.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Resource {
    /// An exporter, by name.
    Exporter(Arc<str>),
    /// A part of the gate itself, by name.
    Service(Arc<str>),
    /// A Vertex resource.
    Vertex(VertexResource),
    /// A grant that a principal requests, or has requested.
    Grant(Box<GrantResource>),
}

impl Resource {
    /// The resource's id, as policies and audit name it.
    #[must_use]
    pub fn id(&self) -> &Arc<str> {
        match self {
            Self::Exporter(id) | Self::Service(id) => id,
            Self::Vertex(resource) => &resource.name,
            Self::Grant(grant) => &grant.id,
        }
    }
}

/// A grant, as policies see it: what decides on it never changes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrantResource {
    /// Its id.
    pub id: Arc<str>,
    /// The role that is asked for.
    pub role: Arc<str>,
    /// On what, such as `exporter/node` or `projects/p/locations/l/*`.
    pub resource: Arc<str>,
    /// The asking principal's name.
    pub asker: Arc<str>,
    /// Its issuer's name.
    pub issuer: Arc<str>,
    /// Its subject there.
    pub subject: Box<str>,
    /// For how many seconds.
    pub seconds: u64,
}

/// A Vertex resource, read off its name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VertexResource {
    /// Its name, without API version, custom verb and percent-escapes, such as
    /// `projects/p/locations/us-central1/endpoints/1`.
    pub name: Arc<str>,
    /// The project in it; `None` in the short forms without one.
    pub project: Option<Arc<str>>,
    /// The location in it, `global` in the short forms.
    pub location: Arc<str>,
    /// What it is.
    pub kind: VertexKind,
}

/// The kinds of Vertex resources that policies tell apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum VertexKind {
    /// `endpoints/{id}`.
    Endpoint,
    /// `models/{id}`, `models/{id}@{version or alias}` or `publishers/{publisher}/models/{id}`.
    Model {
        /// The publisher, if the model is in Model Garden.
        publisher: Option<Arc<str>>,
        /// The version or alias behind `@`.
        version: Option<Arc<str>>,
    },
    /// `datasets/{id}`.
    Dataset,
    /// Any other, collections among them.
    Other,
}

impl VertexResource {
    /// Reads a resource's name.
    #[must_use]
    pub fn parse(name: &str) -> Self {
        let mut segments = name.split('/');
        let (project, location) = match (segments.next(), segments.next(), segments.next(), segments.next()) {
            (Some("projects"), Some(project), Some("locations"), Some(location)) => (Some(project), location),
            (Some("projects"), Some(project), ..) => (Some(project), "global"),
            _ => (None, "global"),
        };
        let mut last = name.rsplit('/');
        let kind = match (last.next(), last.next(), last.next(), last.next()) {
            (Some(_), Some("endpoints"), ..) => VertexKind::Endpoint,
            (Some(_), Some("datasets"), ..) => VertexKind::Dataset,
            (Some(id), Some("models"), before, collection) => VertexKind::Model {
                publisher: before.filter(|_| collection == Some("publishers")).map(Into::into),
                version: id.split_once('@').map(|(_, version)| version.into()),
            },
            _ => VertexKind::Other,
        };
        Self { name: name.into(), project: project.map(Into::into), location: location.into(), kind }
    }
}

/// What a request's body names besides the resource that the request is for. Sorted, each once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyNames {
    /// Vertex resources.
    pub resources: BTreeSet<VertexResource>,
    /// Buckets of `gs://` URIs.
    pub buckets: BTreeSet<Box<str>>,
    /// Google service accounts, by e-mail address.
    pub service_accounts: BTreeSet<Box<str>>,
}

/// One access request.
#[derive(Clone, Copy, Debug)]
pub struct AccessRequest<'a> {
    /// The caller.
    pub principal: &'a Principal,
    /// Roles that are granted to the principal on this very resource for a time, besides those that its claims earn.
    pub granted_roles: &'a [Arc<str>],
    /// The one role that the caller activates, where it says so.
    pub active_role: Option<&'a str>,
    /// The Cedar action's id, such as `PredictionService.Predict`.
    pub action: &'a Arc<str>,
    /// To what.
    pub resource: &'a Resource,
    /// What is known of the request besides.
    pub context: RequestContext<'a>,
}

/// Cedar's context of a request.
#[derive(Clone, Copy, Debug)]
pub struct RequestContext<'a> {
    /// When the request's head had arrived.
    pub now: Timestamp,
    /// The other end of the connection.
    pub peer: IpAddr,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The client's certificate, where it showed one that is trusted.
    pub certificate: Option<&'a Certificate>,
    /// The HTTP method.
    pub method: &'a Method,
    /// Bytes of the request's body, where that is known before anything is forwarded.
    pub size: Option<u64>,
    /// What the body names; `None` where it was not looked at, since it is opaque or goes on after the decision.
    pub names: Option<&'a BodyNames>,
}

impl<'a> RequestContext<'a> {
    /// What a connection and a request's head tell. A certificate that is not trusted proves nothing here.
    #[must_use]
    pub fn new(peer: &'a Peer, method: &'a Method, now: Timestamp) -> Self {
        let certificate =
            peer.certificate.as_deref().filter(|certificate| certificate.trusted && !certificate.malformed);
        Self { now, peer: peer.address.ip(), tls: peer.tls, certificate, method, size: None, names: None }
    }
}

#[cfg(test)]
impl RequestContext<'_> {
    /// RequestContext for the tests of pure parts.
    pub(crate) fn test(peer: IpAddr) -> Self {
        let now = Timestamp::UNIX_EPOCH;
        let method = &Method::GET;
        Self { now, peer, tls: true, certificate: None, method, size: None, names: None }
    }
}
