//! Login in a browser on this machine: authorization code with PKCE and a loopback redirect (RFC 8252).

use std::time::Duration;

use openidconnect::{CsrfToken, Nonce, PkceCodeChallenge, PkceCodeVerifier};

use super::{
    error::LoginError,
    loopback::{ExpectedResponse, LoopbackListener},
    oauth_client::OAuthClient,
    printable::printable,
    provider::Provider,
    stored::{Settings, StoredLogin},
};
use crate::secret::Secret;

/// How long a person may take.
pub(super) const LOGIN_DEADLINE: Duration = Duration::from_secs(300);

/// A URL to open, and the listener for the response.
pub(super) struct BrowserLogin {
    provider: Provider,
    settings: Settings,
    listener: LoopbackListener,
    url: String,
    state: Secret,
    nonce: Secret,
    verifier: PkceCodeVerifier,
}

impl std::fmt::Debug for BrowserLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BrowserLogin").field("provider", &self.provider.issuer).finish_non_exhaustive()
    }
}

impl BrowserLogin {
    pub(super) async fn begin(provider: Provider, settings: Settings) -> Result<Self, LoginError> {
        let Some(endpoint) = provider.authorization.clone() else {
            return Err(LoginError::Unsupported("authorization endpoint", "`--device`"));
        };
        let listener = LoopbackListener::open().await.map_err(LoginError::Listen)?;
        // RFC 7636 section 4.2: S256, the only method used
        let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
        let state = Secret::new(CsrfToken::new_random().into_secret());
        let nonce = Secret::new(Nonce::new_random().secret().clone());
        let client = OAuthClient::new(&provider, &settings)?;
        let url = client.authorization_url(&endpoint, listener.redirect_uri(), challenge, &state, &nonce)?;
        Ok(Self { listener, url: url.into(), state, nonce, verifier, provider, settings })
    }

    /// The URL to open in a browser on this machine. Its secrets are of no use without this process.
    #[must_use]
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) async fn finish(self) -> Result<StoredLogin, LoginError> {
        let Self { provider, settings, listener, state, nonce, verifier, .. } = self;
        let redirect_uri = listener.redirect_uri().to_owned();
        let expected = ExpectedResponse {
            state,
            issuer: provider.issuer.clone(),
            issuer_required: provider.iss_parameter_supported,
        };
        let code = match tokio::time::timeout(LOGIN_DEADLINE, listener.response(expected)).await {
            Err(_) => return Err(LoginError::TooLate(LOGIN_DEADLINE)),
            Ok(Err(error)) => return Err(LoginError::Listen(error)),
            Ok(Ok(response)) => response.map_err(|refusal| match refusal.as_str() {
                "access_denied" => LoginError::Denied,
                _ => LoginError::Refused(printable(&refusal)),
            })?,
        };
        let client = OAuthClient::new(&provider, &settings)?;
        let tokens = client.exchange_code(code, &redirect_uri, verifier, nonce.expose()).await?;
        Ok(StoredLogin { settings, tokens })
    }
}
