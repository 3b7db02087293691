//! Login with a code on any device: OAuth 2.0 Device Authorization Grant (RFC 8628).

use std::time::Duration;

use openidconnect::{DeviceCodeErrorResponseType, RequestTokenError, core::CoreDeviceAuthorizationResponse};

use super::{
    error::LoginError,
    oauth_client::OAuthClient,
    printable::printable,
    provider::Provider,
    stored::{Settings, StoredLogin},
};
use crate::gate::identity::{issuer::is_https_or_loopback, openid::id_token::ExpectedNonce};

/// A device authorization that waits for its person.
#[derive(Debug)]
pub(super) struct DeviceLogin {
    provider: Provider,
    settings: Settings,
    details: CoreDeviceAuthorizationResponse,
}

impl DeviceLogin {
    pub(super) async fn begin(provider: Provider, settings: Settings) -> Result<Self, LoginError> {
        let Some(endpoint) = provider.device.clone() else {
            return Err(LoginError::Unsupported("device authorization endpoint", "`--browser`"));
        };
        let client = OAuthClient::new(&provider, &settings)?;
        let oauth = client.with_device(&endpoint);
        let mut request = oauth.exchange_device_code().add_scopes(client.scopes());
        for (name, value) in client.target() {
            request = request.add_extra_param(name, value);
        }
        let details: Result<CoreDeviceAuthorizationResponse, _> = request.request_async(&client.transport()).await;
        let details = details.map_err(|e| client.error(e))?;
        let addresses = [Some(details.verification_uri().as_str()), complete(&details)];
        if let Some(clear) = addresses.into_iter().flatten().find(|address| !is_https_or_loopback(address)) {
            let text = format!("leads to `{}`, which is not https", printable(clear));
            return Err(LoginError::Document(endpoint.into(), text));
        }
        Ok(Self { provider, settings, details })
    }

    /// The URL at which the code is entered.
    #[must_use]
    pub(super) fn verification_uri(&self) -> String {
        printable(self.details.verification_uri().as_str())
    }

    /// The same with the code in it, if the provider has one (RFC 8628 section 3.3.1).
    #[must_use]
    pub(super) fn verification_uri_complete(&self) -> Option<String> {
        complete(&self.details).map(printable)
    }

    /// The code to enter, or to compare.
    #[must_use]
    pub(super) fn user_code(&self) -> String {
        printable(self.details.user_code().secret())
    }

    /// How long the code is valid.
    #[must_use]
    pub(super) fn expires_in(&self) -> Duration {
        self.details.expires_in()
    }

    /// Polls the token endpoint at the provider's interval (RFC 8628 section 3.5).
    pub(super) async fn finish(self) -> Result<StoredLogin, LoginError> {
        let Self { provider, settings, details } = self;
        let late = || LoginError::TooLate(details.expires_in());
        let client = OAuthClient::new(&provider, &settings)?;
        let Some(endpoint) = &provider.device else { return Err(late()) };
        let oauth = client.with_device(endpoint);
        let mut request = oauth.exchange_device_access_token(&details);
        for (name, value) in client.target() {
            request = request.add_extra_param(name, value);
        }
        let response = request.request_async(&client.transport(), tokio::time::sleep, None).await;
        let response = response.map_err(|error| match &error {
            RequestTokenError::ServerResponse(body) => match body.error() {
                DeviceCodeErrorResponseType::AccessDenied => LoginError::Denied,
                DeviceCodeErrorResponseType::ExpiredToken => late(),
                _ => client.error(error),
            },
            _ => client.error(error),
        })?;
        let tokens = client.verify(response, ExpectedNonce::Any, None).await?;
        Ok(StoredLogin { settings, tokens })
    }
}

fn complete(details: &CoreDeviceAuthorizationResponse) -> Option<&str> {
    details.verification_uri_complete().map(|address| address.secret().as_str())
}
