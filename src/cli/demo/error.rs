//! The error of `wicketgate demo`: one text for the user.

use std::fmt;

use crate::telemetry::chain;

/// Why the demo could not start.
#[derive(Debug)]
pub(super) struct StartError(pub(super) String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl<E: std::error::Error> From<E> for StartError {
    fn from(error: E) -> Self {
        Self(chain(&error))
    }
}
