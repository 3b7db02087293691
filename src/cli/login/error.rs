//! Errors of logins at a shell.

use std::time::Duration;

use super::cache::CacheError;
use crate::client::{BuildError, ClientError};

/// A login or a token request that failed.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub(in crate::cli) enum LoginError {
    #[error("`{0}` is not an https URL (http is allowed to loopback addresses only)")]
    Address(String),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("`{0}` cannot be reached")]
    Unreachable(String, #[source] ClientError),
    #[error("`{0}` answered {1}")]
    Status(String, http::StatusCode),
    #[error("`{0}` {1}")]
    Document(String, String),
    #[error("the provider has no {0}; try {1}")]
    Unsupported(&'static str, &'static str),
    #[error("the provider refused: {0}")]
    Refused(String),
    #[error("the gate refused ({0}): {1}")]
    Gate(http::StatusCode, String),
    #[error("the provider's response is invalid: {0}")]
    Response(String),
    #[error("the login was refused at the provider")]
    Denied,
    #[error("the login was not completed within {0:?}; run `wicketgate login` again")]
    TooLate(Duration),
    #[error("the provider's ID token is not accepted: {0}")]
    IdToken(String),
    #[error("cannot listen on a loopback address for the browser")]
    Listen(#[source] std::io::Error),
    #[error("cannot block signals while a token is refreshed")]
    Signals(#[source] std::io::Error),
    #[error("no login is kept as `{0}`; run `wicketgate login --issuer URL --client-id ID`")]
    NoLogin(String),
    #[error("the login `{0}` is over: {1}; run `wicketgate login` again")]
    Over(String, String),
    #[error(transparent)]
    Cache(#[from] CacheError),
}
