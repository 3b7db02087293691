//! A login that waits for its person.

use super::{
    browser::BrowserLogin,
    device::DeviceLogin,
    error::LoginError,
    provider::Provider,
    stored::{Settings, StoredLogin},
};

/// A login that waits for its person.
#[derive(Debug)]
pub(super) enum PendingLogin {
    /// The person enters a code on any device.
    Device(Box<DeviceLogin>),
    /// The person opens a URL in a browser on this machine.
    Browser(Box<BrowserLogin>),
}

impl PendingLogin {
    /// Begins a login by device authorization (RFC 8628).
    ///
    /// # Errors
    /// If the provider does not support it, cannot be reached or refuses.
    pub(super) async fn for_device(provider: Provider, settings: Settings) -> Result<Self, LoginError> {
        Ok(Self::Device(Box::new(DeviceLogin::begin(provider, settings).await?)))
    }

    /// Begins a login in a browser on this machine (RFC 8252).
    ///
    /// # Errors
    /// If the provider has no authorization endpoint, or no loopback address can be listened on.
    pub(super) async fn for_browser(provider: Provider, settings: Settings) -> Result<Self, LoginError> {
        Ok(Self::Browser(Box::new(BrowserLogin::begin(provider, settings).await?)))
    }

    /// Waits for the person, and requests the tokens.
    ///
    /// # Errors
    /// If the login is refused or takes too long, or if the provider's response breaks a rule.
    pub(super) async fn finish(self) -> Result<StoredLogin, LoginError> {
        match self {
            Self::Device(device) => device.finish().await,
            Self::Browser(browser) => browser.finish().await,
        }
    }
}
