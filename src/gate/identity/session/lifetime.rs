//! The longest lifetime of a session.

use std::time::Duration;

/// No configuration allows a session to last longer.
pub(crate) const MAX_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);
