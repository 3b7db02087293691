//! The gate as a token issuer: its signing keys, the validation of its own tokens, and what signs with its keys.

use std::sync::Arc;

use super::reuse::{Reused, reuse};
use crate::{
    config::IssueSettings,
    gate::{
        credentials::SubjectTokenSigner,
        identity::SelfIssued,
        proxy::TokenIssuer,
        signing::{self, Signing},
    },
    telemetry::Telemetry,
};

/// The parts that `[token_issuer]` needs.
pub(super) struct TokenIssuance {
    settings: IssueSettings,
    pub(super) signing: Arc<Reused<signing::Settings, Signing>>,
    pub(super) self_issued: Arc<Reused<SelfIssuedSettings, SelfIssued>>,
}

/// What the validation of the gate's own tokens is made from.
#[derive(PartialEq)]
pub(super) struct SelfIssuedSettings {
    url: String,
    audience: String,
    issuers: Vec<Arc<str>>,
    keys: signing::Settings,
}

impl TokenIssuance {
    /// Reuses from `before` the parts whose settings are equal. The gate accepts its own tokens only if their principal
    /// comes from one of `issuers`.
    pub(super) fn new(
        settings: IssueSettings,
        issuers: Vec<Arc<str>>,
        before: Option<&Self>,
        telemetry: &Arc<Telemetry>,
    ) -> Self {
        let telemetry = telemetry.clone();
        let signing = reuse(
            before.map(|before| &before.signing),
            settings.keys.clone(),
            |settings| Signing::open(settings.clone()),
            |signing| async move { signing.run(&telemetry).await },
        );
        let self_issued = SelfIssuedSettings {
            url: settings.url.clone(),
            audience: settings.audiences.first().cloned().unwrap_or_default(),
            issuers,
            keys: settings.keys.clone(),
        };
        let self_issued = reuse(
            before.map(|before| &before.self_issued),
            self_issued,
            |of| SelfIssued::new(&of.url, &of.audience, of.issuers.clone(), signing.value.clone()),
            |self_issued| async move { self_issued.follow_key_changes().await },
        );
        Self { settings, signing, self_issued }
    }

    /// What requests use of it.
    pub(super) fn token_issuer(&self) -> TokenIssuer {
        let IssueSettings { url, audiences, lifetime, .. } = &self.settings;
        TokenIssuer::new(url, audiences, *lifetime, self.signing.value.clone())
    }

    /// Signs the subject tokens that Google's STS exchanges.
    pub(super) fn signer(&self) -> SubjectTokenSigner {
        SubjectTokenSigner { url: self.settings.url.clone(), signing: self.signing.value.clone() }
    }
}
