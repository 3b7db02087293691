//! A gRPC call of a Vertex method, before its message says on what.
//!
//! Promises: the resource comes from the message's own field, never from a header; what is not spelled as Google spells
//! names, or is not of a form that the method takes, is refused.

use std::sync::Arc;

use http::{HeaderValue, Method};
use url::form_urlencoded;

use super::{
    super::{options::RouteOptions, route::Matched},
    Vertex, resource,
    table::{self, Field, RpcMethod, Streaming},
};
use crate::refusal::Refusal;

/// Longest name of a resource in a message, in bytes. Google's are far shorter.
const NAME_LIMIT: usize = 1024;

/// A gRPC call of a method that the table knows.
#[derive(Clone, Copy)]
pub struct Rpc<'r> {
    vertex: &'r Vertex,
    name: &'r str,
    method: &'static RpcMethod,
}

impl<'r> Rpc<'r> {
    /// The call that a path such as `/google.cloud.aiplatform.v1.PredictionService/Predict` is.
    ///
    /// # Errors
    /// 404 for a method that the table does not hold, 405 for another verb than POST, 400 for a path with a query.
    pub(crate) fn find(
        vertex: &'r Vertex,
        verb: &Method,
        path: &'r str,
        path_and_query: &str,
    ) -> Result<Self, Refusal> {
        let name = path.strip_prefix('/').unwrap_or_default();
        let method = table::rpc(name).ok_or_else(super::unknown_method)?;
        if verb != Method::POST {
            return Err(Refusal::wrong_method("POST"));
        }
        if path_and_query.len() != path.len() {
            return Err(Refusal::malformed("query_refused", "a gRPC call has no query"));
        }
        Ok(Self { vertex, name, method })
    }

    /// The action; for methods of Operations without the group, which depends on the resource.
    #[must_use]
    pub fn action(self) -> &'static Arc<str> {
        &self.method.action
    }

    /// The route's options.
    #[must_use]
    pub fn options(self) -> RouteOptions {
        self.vertex.options
    }

    /// The fields of the message that name the resource.
    #[must_use]
    pub fn fields(self) -> &'static [Field] {
        &self.method.fields
    }

    /// Which way it streams.
    #[must_use]
    pub fn streaming(self) -> Streaming {
        self.method.streaming
    }

    /// The way of a call whose message has these values in [`Self::fields`].
    ///
    /// # Errors
    /// 400 for values that name no resource of this method; 404 for a location that this gate does not front.
    pub fn matched(self, values: &[String]) -> Result<Matched<'r>, Refusal> {
        let bad = |text: &'static str| Refusal::malformed("rpc_resource", text);
        if !values.iter().all(|value| canonical(value)) {
            return Err(bad("the message's resource is not spelled as Google spells names"));
        }
        let found = self.method.templates.iter().find_map(|template| {
            let path = template.path(self.fields(), values)?;
            let method = table::find(self.method.version, &path, template.verb.as_ref())?;
            (method.rpc == self.name).then_some((path, method))
        });
        let (path, method) = found.ok_or_else(|| bad("the message names no resource that this method is for"))?;
        let params = HeaderValue::from_str(&routing(self.fields(), values)).map_err(|_| bad("no resource"))?;
        self.vertex.matched(method, resource(&path, method.named), Some(params))
    }
}

/// What Google's front ends route by (AIP-4222), percent-encoded as its clients for Go, Java and Node encode it; those
/// for Python leave slashes as they are, and both are understood.
fn routing(fields: &[Field], values: &[String]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(fields.iter().map(|field| field.name).zip(values));
    query.finish()
}

/// Whether a name in a message has one reading, as a path must have.
fn canonical(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !b"%\\;?#{}\"<>".contains(&b);
    name.len() <= NAME_LIMIT
        && name.bytes().all(plain)
        && name.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
        // behind the last colon of a path is the method
        && !name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}
