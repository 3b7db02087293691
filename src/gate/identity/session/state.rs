//! Session state that survives a reload: revocations, refreshes that run, and this process's own sealing key.

use std::path::Path;

use uuid::Uuid;

use super::{
    active::RefreshOutcome,
    keys::{SealError, SealingKey},
    revocations::Revocations,
    single_flight::SingleFlight,
};
use crate::clock::Timestamp;

/// Session state that survives a reload. See the module.
pub(crate) struct SessionState {
    pub(super) revocations: Revocations,
    /// By session and generation.
    pub(super) refreshes: SingleFlight<(Uuid, u32), RefreshOutcome>,
    /// Seals cookies if no key is configured.
    pub(super) process_key: SealingKey,
}

impl SessionState {
    /// The state of a process that starts: the revocations in `file`, or none if there is no file.
    ///
    /// # Errors
    /// If the operating system gives no randomness.
    pub(crate) fn open(file: Option<&Path>, now: Timestamp) -> Result<Self, SealError> {
        Ok(Self {
            revocations: Revocations::open(file, now),
            refreshes: SingleFlight::default(),
            process_key: SealingKey::random()?,
        })
    }

    /// Changes the file of revocations; see [`Revocations::set_file`].
    pub(crate) fn set_revocation_file(&self, file: Option<&Path>, now: Timestamp) {
        self.revocations.set_file(file, now);
    }
}
