//! The parts of a gate that have background tasks or state, which the next configuration may reuse.

use std::sync::Arc;

use super::{
    authentication::Authentication, credentials::CredentialRefreshers, data::Pipeline, issuers::RunningIssuer,
    token_issuance::TokenIssuance,
};
use crate::{
    gate::{
        identity::{Identity, Issuer},
        limits::Limits,
        signing::{self, Signing},
    },
    secret::CredentialSlot,
};

/// The parts of one configuration; the default, before a start, has none.
#[derive(Default)]
pub(super) struct Background {
    pub(super) issuers: Vec<RunningIssuer>,
    pub(super) token_issuance: Option<TokenIssuance>,
    pub(super) authentication: Option<Authentication>,
    pub(super) credentials: CredentialRefreshers,
    pub(super) pipeline: Option<Arc<Pipeline>>,
    pub(super) limits: Option<Limits>,
}

impl Background {
    pub(super) fn issuers(&self) -> impl Iterator<Item = &Issuer> {
        self.issuers.iter().map(|issuer| &*issuer.value)
    }

    pub(super) fn signing(&self) -> Option<&Signing> {
        self.token_issuance.as_ref().map(|issuance| &*issuance.signing.value)
    }

    /// The gate's own credentials.
    pub(super) fn credential_slots(&self) -> impl Iterator<Item = &CredentialSlot> {
        self.credentials.gate.iter().map(|refresher| &refresher.value.slot)
    }

    /// The names of credentials that each caller has one of, with the number of callers.
    pub(super) fn caller_counts(&self) -> impl Iterator<Item = (&str, usize)> {
        let refreshers = self.credentials.callers.iter();
        refreshers.map(|refresher| (&**refresher.value.slots.name(), refresher.value.slots.callers()))
    }

    /// The parts' names in `/readyz`.
    pub(super) fn components(&self) -> Vec<String> {
        let issuers = self.issuers().flat_map(Issuer::components);
        let signing = self.token_issuance.iter().map(|_| signing::COMPONENT.to_owned());
        let callers = self.credentials.callers.iter().map(|refresher| refresher.value.component());
        let gate = self.credentials.gate.iter().map(|refresher| refresher.value.component());
        issuers.chain(signing).chain(callers).chain(gate).collect()
    }

    /// Closes the parts that `next` does not reuse: their keys and sessions no longer count, and streams that they
    /// authenticated end. Call it when `next` is served already, so that no request finds a closed part.
    pub(super) fn retire(&self, next: &Self) {
        for issuer in &self.issuers {
            if !next.issuers.iter().any(|reused| Arc::ptr_eq(issuer, reused)) {
                issuer.value.close();
            }
        }
        if let Some(TokenIssuance { self_issued, .. }) = &self.token_issuance
            && !next.token_issuance.as_ref().is_some_and(|next| Arc::ptr_eq(self_issued, &next.self_issued))
        {
            self_issued.value.close();
        }
        if let Some(sessions) = self.identity().and_then(Identity::sessions) {
            sessions.retire(next.identity().and_then(Identity::sessions).map(|next| &**next));
        }
    }

    fn identity(&self) -> Option<&Identity> {
        self.authentication.as_ref().map(|authentication| &*authentication.identity)
    }
}
