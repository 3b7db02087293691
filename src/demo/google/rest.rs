//! The emulator's REST API: STS, IAM Credentials and Vertex AI by path.

use http::{Method, Response};

use super::{errors::not_found, identity, state::Shared, vertex};
use crate::{demo::server::ReceivedRequest, http::Body};

/// Answers a REST request.
pub(super) async fn handle(google: &Shared, call: &ReceivedRequest) -> Response<Body> {
    let segments: Vec<&str> = call.path.trim_start_matches('/').split('/').collect();
    match (&call.method, segments.as_slice()) {
        (&Method::POST, ["v1", "token"]) => identity::exchange(google, call).await,
        (&Method::POST, ["v1", "projects", "-", "serviceAccounts", account]) => {
            identity::impersonate(google, account, call)
        }
        (_, ["v1" | "v1beta1", "projects", project, "locations", location, rest @ ..]) => {
            vertex::answer(google, project, location, rest, call).await
        }
        _ => not_found(&call.path),
    }
}
