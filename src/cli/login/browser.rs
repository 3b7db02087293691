//! Logging in with a browser on this machine: authorization code with PKCE over a loopback redirect (RFC 8252).

use std::time::Duration;

use oauth2::{CsrfToken, PkceCodeChallenge, PkceCodeVerifier};

use super::{
    Problem,
    exchange::Client,
    login::{Login, Settings},
    loopback::{Expecting, Loopback},
    printable,
    provider::Provider,
};
use crate::secret::Secret;

/// How long a person may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A URL that waits to be opened, and the listener for what comes back.
pub(crate) struct Browser {
    provider: Provider,
    settings: Settings,
    loopback: Loopback,
    url: String,
    state: Secret,
    nonce: Secret,
    verifier: PkceCodeVerifier,
}

impl std::fmt::Debug for Browser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Browser").field("provider", &self.provider.issuer).finish_non_exhaustive()
    }
}

impl Browser {
    pub(super) async fn begin(provider: Provider, settings: Settings) -> Result<Self, Problem> {
        let Some(endpoint) = provider.authorization.clone() else {
            return Err(Problem::Lacks("authorization endpoint", "`--device`"));
        };
        let loopback = Loopback::open().await.map_err(Problem::Listen)?;
        // RFC 7636 section 4.2: S256, the only method used
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let nonce = CsrfToken::new_random().into_secret();
        let client = Client::new(&provider, &settings);
        let (url, state) = client.authorization(&endpoint, loopback.redirect(), challenge, &nonce)?;
        Ok(Self { loopback, url: url.into(), state, nonce: Secret::new(nonce), verifier, provider, settings })
    }

    /// What to open in a browser on this machine. It holds no secret that would be of use without this process.
    #[must_use]
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn finish(self) -> Result<Login, Problem> {
        let Self { provider, settings, loopback, state, nonce, verifier, .. } = self;
        let redirect = loopback.redirect().to_owned();
        let expecting = Expecting { state, issuer: provider.issuer.clone(), issuer_required: provider.names_itself };
        let code = match tokio::time::timeout(PATIENCE, loopback.answer(expecting)).await {
            Err(_) => return Err(Problem::TooLate(PATIENCE)),
            Ok(Err(error)) => return Err(Problem::Listen(error)),
            Ok(Ok(answer)) => answer.map_err(|refusal| match refusal.as_str() {
                "access_denied" => Problem::Denied,
                _ => Problem::Refused(printable(&refusal)),
            })?,
        };
        let tokens = Client::new(&provider, &settings).code(code, &redirect, verifier, nonce.expose()).await?;
        Ok(Login { settings, tokens })
    }
}
