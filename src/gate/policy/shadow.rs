//! Shadow policies: a second set that evaluates the same requests and decides nothing.
//!
//! Promises: its decision is reported and never enforced: a [`PolicyDecision`] of the
//! enforced set never depends on it. It denies where it cannot be evaluated, as the enforced set does.

use std::sync::Arc;

use super::{decision::PolicyDecision, engine::Policy, request::AccessRequest};

/// What the shadow set would have ruled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShadowDecision {
    /// Its ruling.
    pub decision: Arc<PolicyDecision>,
    /// Whether it would have decided otherwise.
    pub differs: bool,
}

impl Policy {
    /// The same, with `shadow` asked besides.
    #[must_use]
    pub fn with_shadow(self, shadow: Self) -> Self {
        Self { shadow: Some(Box::new(shadow)), ..self }
    }

    /// What the shadow set would have ruled where the enforced one ruled this; `None` where there is no shadow set.
    #[must_use]
    pub fn shadow(&self, request: AccessRequest<'_>, enforced: &PolicyDecision) -> Option<ShadowDecision> {
        let decision = self.shadow.as_ref()?.decide(request);
        let differs = decision.allowed != enforced.allowed;
        Some(ShadowDecision { decision, differs })
    }

    /// Whether there is a shadow set.
    #[must_use]
    pub fn has_shadow(&self) -> bool {
        self.shadow.is_some()
    }
}
