//! Remote token validation: OAuth 2.0 introspection (RFC 7662) and Kubernetes' TokenReview.

mod admission;
mod endpoint;
pub(crate) mod introspection;
pub(crate) mod token_review;
mod validator;

pub(super) use self::validator::{MAX_OPAQUE, RemoteValidator, RemoteVerdict};
pub(crate) use self::validator::{Settings, ValidationCounts, Validator};
