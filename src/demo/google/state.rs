//! State of the emulator: its names, its service accounts, the tokens that it issued and the resources in it.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde_json::Value;

use super::class::Class;
use crate::{client::Client, clock::Timestamp, demo::issuer::KeyRing};

/// The workload identity pool provider of the emulator.
pub(crate) const AUDIENCE: &str =
    "//iam.googleapis.com/projects/123456/locations/global/workloadIdentityPools/demo/providers/demo";
/// The one project.
pub const PROJECT: &str = "demo";
/// The one location.
pub const LOCATION: &str = "us-central1";
/// The endpoint that serves the forecast model.
pub const ENDPOINT: &str = "1001";

/// The state that all of the emulator's services share.
pub(super) struct Shared {
    /// The issuer whose subject tokens are exchanged.
    pub(super) issuer: String,
    pub(super) keys: KeyRing,
    /// A second issuer, whose keys are found by discovery.
    pub(super) discovered_issuer: Option<DiscoveredIssuer>,
    /// Service account → the one class of methods it may call.
    pub(super) accounts: HashMap<String, Class>,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    /// Federated tokens, by their text.
    pub(super) federated: HashMap<String, IssuedToken>,
    /// Access tokens of service accounts, by their text.
    pub(super) access: HashMap<String, IssuedToken>,
    pub(super) federated_lifetime: Duration,
    pub(super) access_lifetime: Option<Duration>,
    pub(super) model_version: String,
    /// Resources that callers created, by name.
    pub(super) created: HashMap<String, Value>,
    pub(super) last_id: u64,
}

/// An issuer whose keys are found by discovery, at each exchange.
pub(super) struct DiscoveredIssuer {
    pub(super) issuer: String,
    pub(super) client: Client,
}

/// A token that the emulator issued.
#[derive(Clone)]
pub(super) struct IssuedToken {
    /// The service account; for a federated token the subject.
    pub(super) name: String,
    /// The subject of the subject token that it was exchanged for; Google's audit log names it.
    pub(super) subject: String,
    pub(super) expires_at: Timestamp,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
