//! Composes the gate as an issuer: its keys, its belief in its own tokens, and what needs its signature.

use std::sync::Arc;

use super::reuse::{Kept, keep};
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

/// The long-lived parts of `[token_issuer]`.
pub(super) struct Issuing {
    settings: IssueSettings,
    pub(super) signing: Arc<Kept<signing::Settings, Signing>>,
    pub(super) self_issued: Arc<Kept<SelfIssuedSettings, SelfIssued>>,
}

/// What the gate's own tokens are believed by.
#[derive(PartialEq)]
pub(super) struct SelfIssuedSettings {
    url: String,
    audience: String,
    issuers: Vec<Arc<str>>,
    keys: signing::Settings,
}

impl Issuing {
    /// Carries over from `before` what did not change. Tokens of the gate are believed of principals of these
    /// `issuers`.
    pub(super) fn new(
        settings: IssueSettings,
        issuers: Vec<Arc<str>>,
        before: Option<&Self>,
        telemetry: &Arc<Telemetry>,
    ) -> Self {
        let telemetry = telemetry.clone();
        let make = |settings: &signing::Settings| Signing::open(settings.clone());
        let known: Vec<_> = before.map(|before| before.signing.clone()).into_iter().collect();
        let task = |signing: Arc<Signing>| async move { signing.run(&telemetry).await };
        let signing = keep(&known, settings.keys.clone(), make, task);

        let wanted = SelfIssuedSettings {
            url: settings.url.clone(),
            audience: settings.audiences.first().cloned().unwrap_or_default(),
            issuers,
            keys: settings.keys.clone(),
        };
        let make = |own: &SelfIssuedSettings| {
            SelfIssued::new(&own.url, &own.audience, own.issuers.clone(), signing.value.clone())
        };
        let known: Vec<_> = before.map(|before| before.self_issued.clone()).into_iter().collect();
        let self_issued = keep(&known, wanted, make, |issued| async move { issued.follow_key_changes().await });
        Self { settings, signing, self_issued }
    }

    /// What a request sees of it.
    pub(super) fn token_issuer(&self) -> TokenIssuer {
        let IssueSettings { url, audiences, lifetime, .. } = &self.settings;
        TokenIssuer::new(url, audiences, *lifetime, self.signing.value.clone())
    }

    /// Who signs the subject tokens that Google is shown.
    pub(super) fn signer(&self) -> SubjectTokenSigner {
        SubjectTokenSigner { url: self.settings.url.clone(), signing: self.signing.value.clone() }
    }

    /// Whether both believe the gate's own tokens in the same way.
    pub(super) fn same_belief(now: Option<&Self>, before: Option<&Self>) -> bool {
        now.map(|now| Arc::as_ptr(&now.self_issued)) == before.map(|before| Arc::as_ptr(&before.self_issued))
    }
}
