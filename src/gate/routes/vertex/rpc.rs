//! A gRPC call of a Vertex method, before its message is read.
//!
//! Promises: the resource comes from the message's own field, never from a header; a name that is not in Google's spelling,
//! or not in a form that the method accepts, is refused.

use std::sync::Arc;

use http::{HeaderValue, Method};
use url::form_urlencoded;

use super::{
    super::{options::RouteOptions, route::Matched},
    Vertex, resource,
    table::{self, Field, RpcMethod, Streaming},
};
use crate::refusal::Refusal;

/// Longest resource name in a message, in bytes. Google's names are far shorter.
const NAME_LIMIT: usize = 1024;

/// A gRPC call of a method in the table.
#[derive(Clone, Copy)]
pub struct Rpc<'r> {
    vertex: &'r Vertex,
    name: &'r str,
    method: &'static RpcMethod,
}

impl<'r> Rpc<'r> {
    /// The call with a path such as `/google.cloud.aiplatform.v1.PredictionService/Predict`.
    ///
    /// # Errors
    /// 404 for a method that is not in the table, 405 for another verb than POST, 400 for a path with a query.
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
            return Err(Refusal::malformed("query_refused", "a gRPC call may not have a query"));
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

    /// The direction in which it streams.
    #[must_use]
    pub fn streaming(self) -> Streaming {
        self.method.streaming
    }

    /// The route of a call whose message has these values in [`Self::fields`].
    ///
    /// # Errors
    /// 400 for values that name no resource of this method; 404 for a location that is not configured.
    pub fn matched(self, values: &[String]) -> Result<Matched<'r>, Refusal> {
        let bad = |text: &'static str| Refusal::malformed("rpc_resource", text);
        if !values.iter().all(|value| canonical(value)) {
            return Err(bad("the resource name in the message is not in Google's spelling"));
        }
        let found = self.method.templates.iter().find_map(|template| {
            let path = template.path(self.fields(), values)?;
            let method = table::find(self.method.version, &path, template.verb.as_ref())?;
            (method.rpc == self.name).then_some((path, method))
        });
        let (path, method) = found.ok_or_else(|| bad("the message names no resource that this method accepts"))?;
        let params = HeaderValue::from_str(&routing(self.fields(), values)).map_err(|_| bad("no resource"))?;
        self.vertex.matched(method, resource(&path, method.named), Some(params))
    }
}

/// The routing parameters for Google's front ends (AIP-4222), percent-encoded as Google's Go, Java and Node clients do.
/// The Python client does not escape slashes; the front ends accept both.
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
        // the method follows the last colon of a path
        && !name.rsplit('/').next().is_some_and(|last| last.contains(':'))
}
