//! Downstream credentials and the slots that requests read them from.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use http::HeaderValue;

use crate::clock::Timestamp;

/// One generation of a downstream credential: what authenticates the gate to an upstream.
#[derive(Debug)]
pub struct Credential {
    /// The value of the `Authorization` header, marked sensitive so that no log prints it.
    pub authorization: HeaderValue,
    /// Counts up from 1 each time the value changes.
    pub generation: u64,
    /// When this generation was obtained.
    pub obtained_at: Timestamp,
    /// When the upstream stops accepting it; `None` if that is not known in advance.
    pub expires_at: Option<Timestamp>,
}

/// The current generation of a named credential. A refresher replaces it, requests read it; reading takes no lock.
#[derive(Clone, Debug)]
pub struct CredentialSlot {
    name: Arc<str>,
    current: Arc<ArcSwapOption<Credential>>,
}

impl PartialEq for CredentialSlot {
    /// Whether both are the same slot, whatever it holds.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.current, &other.current)
    }
}

impl CredentialSlot {
    /// An empty slot. Requests that need it are refused until it is filled.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), current: Arc::new(ArcSwapOption::empty()) }
    }

    /// The credential's name, for audit and metrics.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The current generation; `None` if there is none or if it has expired by `now`.
    #[must_use]
    pub fn usable(&self, now: Timestamp) -> Option<Arc<Credential>> {
        self.current.load_full().filter(|credential| credential.expires_at.is_none_or(|end| now < end))
    }

    /// The current generation, expired or not, for metrics.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Credential>> {
        self.current.load_full()
    }

    /// Replaces the current generation by the next one.
    pub fn replace(&self, next: Credential) {
        self.current.store(Some(Arc::new(next)));
    }
}

/// An `Authorization` value that logs print as `Sensitive`.
///
/// # Errors
/// If `text` holds bytes that no header value may hold.
pub(crate) fn authorization(text: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}
