//! Error responses in Google's format.

use http::{Response, StatusCode};
use serde_json::json;

use crate::{demo::server::json, http::Body};

/// An error in Google's JSON format.
pub(super) fn error(code: StatusCode, status: &str, message: &str) -> Response<Body> {
    json(code, &json!({ "error": { "code": code.as_u16(), "message": message, "status": status } }))
}

pub(super) fn not_found(path: &str) -> Response<Body> {
    error(StatusCode::NOT_FOUND, "NOT_FOUND", &format!("The requested URL {path} was not found on this server."))
}

pub(super) fn invalid(message: &str) -> Response<Body> {
    error(StatusCode::BAD_REQUEST, "INVALID_ARGUMENT", message)
}

pub(super) fn denied(message: &str) -> Response<Body> {
    error(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message)
}

pub(super) fn unauthenticated() -> Response<Body> {
    error(
        StatusCode::UNAUTHORIZED,
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Expected OAuth 2 access token, login cookie or other valid \
         authentication credential. See https://developers.google.com/identity/sign-in/web/devconsole-project.",
    )
}
