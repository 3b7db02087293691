//! Opened sessions, and the results of their refreshes.

use std::sync::Arc;

use super::sealed::Session;
use crate::{principal::Principal, refusal::Refusal};

/// A session whose cookie was opened, and which was valid then.
pub(super) struct ActiveSession {
    pub(super) session: Session,
    pub(super) principal: Arc<Principal>,
}

/// The result of one refresh.
#[derive(Clone)]
pub(super) enum RefreshOutcome {
    Refreshed(Arc<RefreshedSession>),
    /// The provider refused; the session has ended.
    Refused(String),
    Unavailable(Refusal),
}

/// The next generation of a session.
pub(super) struct RefreshedSession {
    pub(super) sealed: String,
    pub(super) active: Arc<ActiveSession>,
}
