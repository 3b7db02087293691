//! The refresher of one credential that all callers share.

use std::{sync::Arc, time::Duration};

use super::{
    callers::CallerCredentialOrigin,
    google::Google,
    obtained::{CredentialError, NewCredential, RETRY_MAX, RETRY_MIN},
};
use crate::{
    backoff::Backoff,
    secret::{CredentialSlot, SecretSource},
    telemetry::{Telemetry, chain},
};

/// The kind of a credential, and where it is obtained.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum CredentialOrigin {
    /// HTTP Basic (RFC 7617).
    Basic {
        /// The user name.
        username: String,
        /// Where the password is read from.
        password: SecretSource,
    },
    /// A bearer token (RFC 6750).
    Bearer(SecretSource),
    /// A Google access token of a service account.
    Google {
        /// The client of Google's token services.
        google: Arc<Google>,
        /// The service account's e-mail address.
        account: String,
    },
    /// A Google access token for a principal of the gate itself, for requests that the gate makes without a caller.
    GoogleAs {
        /// The principal.
        principal: &'static str,
        /// How its credential is obtained.
        origin: CallerCredentialOrigin,
    },
}

/// Obtains one credential and renews it.
pub(crate) struct CredentialRefresher {
    /// Where requests read it.
    pub slot: CredentialSlot,
    origin: CredentialOrigin,
}

impl CredentialRefresher {
    /// A refresher whose slot is empty until [`CredentialRefresher::run`] has filled it.
    #[must_use]
    pub(crate) fn new(name: &str, origin: CredentialOrigin) -> Self {
        Self { slot: CredentialSlot::new(name), origin }
    }

    /// Its component name in readiness reports.
    #[must_use]
    pub(crate) fn component(&self) -> String {
        format!("credential {}", self.slot.name())
    }

    /// Obtains and renews the credential for as long as it is polled.
    pub(crate) async fn run(&self, telemetry: &Telemetry) {
        let component = self.component();
        let mut backoff = Backoff::new(RETRY_MIN, RETRY_MAX);
        loop {
            let wait: Duration = match self.obtain().await {
                Ok(credential) => {
                    telemetry.set_healthy(&component);
                    backoff.reset();
                    credential.store(&self.slot)
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(credential = %self.slot.name(), error, "credential renewal failed");
                    telemetry.set_unhealthy(&component, false, format!("it cannot be renewed: {error}"));
                    backoff.next_delay()
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn obtain(&self) -> Result<NewCredential, CredentialError> {
        match &self.origin {
            CredentialOrigin::Basic { username, password } => NewCredential::basic(username, &password.read().await?),
            CredentialOrigin::Bearer(source) => NewCredential::bearer(source.read().await?.expose(), None),
            CredentialOrigin::Google { google, account } => google.access_token(account).await,
            CredentialOrigin::GoogleAs { principal, origin } => origin.obtain(principal).await,
        }
    }
}
