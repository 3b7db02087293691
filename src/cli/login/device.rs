//! Logging in with a code on any device: OAuth 2.0 Device Authorization Grant (RFC 8628).

use std::time::Duration;

use oauth2::{DeviceCodeErrorResponseType, RequestTokenError, StandardDeviceAuthorizationResponse};

use super::{
    Problem,
    exchange::Client,
    id_token::Expected,
    login::{Login, Settings},
    printable,
    provider::Provider,
};
use crate::{client::oauth::Messenger, gate::identity::issuer::may_be_asked};

/// A code that waits to be entered.
#[derive(Debug)]
pub(crate) struct Device {
    provider: Provider,
    settings: Settings,
    details: StandardDeviceAuthorizationResponse,
}

impl Device {
    pub(super) async fn begin(provider: Provider, settings: Settings) -> Result<Self, Problem> {
        let Some(endpoint) = provider.device.clone() else {
            return Err(Problem::Lacks("device authorization endpoint", "`--browser`"));
        };
        let client = Client::new(&provider, &settings);
        let oauth = client.with_device(&endpoint);
        let mut request = oauth.exchange_device_code().add_scopes(client.scopes());
        for (name, value) in client.target() {
            request = request.add_extra_param(name, value);
        }
        let details: Result<StandardDeviceAuthorizationResponse, _> =
            request.request_async(&Messenger(&provider.client)).await;
        let details = details.map_err(|e| client.problem(e))?;
        let addresses = [Some(details.verification_uri().as_str()), complete(&details)];
        if let Some(clear) = addresses.into_iter().flatten().find(|address| !may_be_asked(address)) {
            let text = format!("leads to `{}`, which is not https", printable(clear));
            return Err(Problem::Document(endpoint.into(), text));
        }
        Ok(Self { provider, settings, details })
    }

    /// Where the code is to be entered.
    #[must_use]
    pub(crate) fn verification_uri(&self) -> String {
        printable(self.details.verification_uri().as_str())
    }

    /// The same with the code in it, where the provider has such an address (RFC 8628 section 3.3.1).
    #[must_use]
    pub(crate) fn verification_uri_complete(&self) -> Option<String> {
        complete(&self.details).map(printable)
    }

    /// The code to enter, or to compare.
    #[must_use]
    pub(crate) fn user_code(&self) -> String {
        printable(self.details.user_code().secret())
    }

    /// How long the code is good for.
    #[must_use]
    pub(crate) fn expires_in(&self) -> Duration {
        self.details.expires_in()
    }

    /// Asks the provider now and then, as often as it likes (RFC 8628 section 3.5).
    pub(super) async fn finish(self) -> Result<Login, Problem> {
        let Self { provider, settings, details } = self;
        let late = || Problem::TooLate(details.expires_in());
        let client = Client::new(&provider, &settings);
        let Some(endpoint) = &provider.device else { return Err(late()) };
        let oauth = client.with_device(endpoint);
        let mut request = oauth.exchange_device_access_token(&details);
        for (name, value) in client.target() {
            request = request.add_extra_param(name, value);
        }
        let messenger = Messenger(&provider.client);
        let answer = request.request_async(&messenger, tokio::time::sleep, None).await;
        let answer = answer.map_err(|error| match &error {
            RequestTokenError::ServerResponse(said) => match said.error() {
                DeviceCodeErrorResponseType::AccessDenied => Problem::Denied,
                DeviceCodeErrorResponseType::ExpiredToken => late(),
                _ => client.problem(error),
            },
            _ => client.problem(error),
        })?;
        let tokens = client.believe(answer, Expected::default()).await?;
        Ok(Login { settings, tokens })
    }
}

fn complete(details: &StandardDeviceAuthorizationResponse) -> Option<&str> {
    details.verification_uri_complete().map(|address| address.secret().as_str())
}
