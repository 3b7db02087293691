//! The token issuers with their key sets: reused if settings and client are equal, else their keys are fetched anew.

use std::sync::Arc;

use super::reuse::{Reused, reuse};
use crate::{
    client::Client,
    gate::identity::{self, Issuer},
    telemetry::Telemetry,
};

/// An issuer and the task that refreshes its keys.
pub(super) type RunningIssuer = Arc<Reused<IssuerSettings, Issuer>>;

/// What an issuer is made from. A new CA file makes a new client: keys that were fetched under the old trust are
/// fetched again.
pub(super) struct IssuerSettings {
    settings: identity::Settings,
    client: Arc<Client>,
}

impl PartialEq for IssuerSettings {
    fn eq(&self, other: &Self) -> bool {
        self.settings == other.settings && Arc::ptr_eq(&self.client, &other.client)
    }
}

/// The issuers, in the configuration's order. At a start a new issuer makes the gate unready (`blocks_readiness`) until
/// its keys are fetched; at a reload the other issuers go on, so it is a warning.
pub(super) fn issuers(
    configured: Vec<(identity::Settings, Arc<Client>)>,
    before: &[RunningIssuer],
    blocks_readiness: bool,
    telemetry: &Arc<Telemetry>,
) -> Vec<RunningIssuer> {
    let issuer = |(settings, client)| {
        let make = |IssuerSettings { settings, client }: &IssuerSettings| {
            let issuer = Issuer::new(settings.clone(), client.clone());
            telemetry.set_unhealthy(&issuer.component(), blocks_readiness, "its keys are being fetched");
            issuer
        };
        let telemetry = telemetry.clone();
        let settings = IssuerSettings { settings, client };
        reuse(before, settings, make, |issuer| async move { issuer.run(&telemetry).await })
    };
    configured.into_iter().map(issuer).collect()
}
