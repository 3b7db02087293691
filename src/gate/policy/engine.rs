//! The decision engine: roles from claims, then Cedar on principal, action, resource and context.
//!
//! Promises: a request is denied unless a policy permits it, and denied if a policy reports an error. A principal with two
//! statically separated roles is denied in every case. Pure: no I/O, and no clock.

use std::{collections::BTreeSet, sync::Arc};

use super::{
    cedar,
    cedar_request::Labels,
    decision::PolicyDecision,
    decision_cache::{CacheEntry, DecisionCache},
    obligations::Obligation,
    policy_file::{PolicyFile, PolicyProblem},
    request::AccessRequest,
    roles::{self, Roles},
    slice,
    source_text::PolicySource,
};
use crate::principal::Principal;

/// Roles and policies, compiled.
pub struct Policy {
    pub(super) roles: Roles,
    pub(super) cedar: cedar::CedarPolicies,
    pub(super) cache: DecisionCache,
    /// What is asked besides, and decides nothing.
    pub(super) shadow: Option<Box<Self>>,
}

impl Policy {
    /// Compiles roles and policies. `actions` are those that routes can ask about: each must be in the schema.
    ///
    /// # Errors
    /// Every problem with the schema and the policies.
    pub fn new<'a>(
        roles: Roles,
        schema: &PolicyFile,
        policies: &[PolicyFile],
        actions: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Vec<PolicyProblem>> {
        let cedar = cedar::CedarPolicies::new(schema, policies, actions)?;
        Ok(Self { roles, cedar, cache: DecisionCache::new(), shadow: None })
    }

    /// The same policies with other roles.
    #[must_use]
    pub fn with_roles(self, roles: Roles) -> Self {
        Self { roles, cache: DecisionCache::new(), ..self }
    }

    /// The same policies, told the labels of these exporters.
    #[must_use]
    pub fn with_labels(mut self, exporters: impl Iterator<Item = (Arc<str>, Vec<(String, String)>)>) -> Self {
        self.cedar.labels = exporters.collect();
        let shadow = self.shadow.take().map(|shadow| Box::new(shadow.labelled(&self.cedar.labels)));
        Self { cache: DecisionCache::new(), shadow, ..self }
    }

    /// The roles that a principal holds, whichever it activates. Sorted.
    #[must_use]
    pub fn held_roles(&self, principal: &Principal, granted: &[Arc<str>]) -> Arc<[Arc<str>]> {
        roles::sorted(&self.roles.held(principal, granted))
    }

    /// The same of a principal's own roles, with those that its token of this gate leaves out since another one was
    /// activated for it: what separation goes by. Sorted.
    #[must_use]
    pub fn all_held_roles(&self, principal: &Principal) -> Arc<[Arc<str>]> {
        roles::sorted(&[self.roles.held(principal, &[]), self.roles.left_out(principal)].concat())
    }

    /// The rules and lists of roles.toml.
    #[must_use]
    pub fn roles(&self) -> &Roles {
        &self.roles
    }

    /// Every policy as its file has it, in the order of files and lines.
    #[must_use]
    pub fn sources(&self) -> &[PolicySource] {
        &self.cedar.sources
    }

    /// The policies' names, as rulings give them.
    #[must_use]
    pub fn names(&self) -> BTreeSet<Arc<str>> {
        self.cedar.policies()
    }

    /// The guardrails that policies name.
    #[must_use]
    pub fn guardrail_names(&self) -> BTreeSet<&str> {
        self.cedar.obligations.names()
    }

    /// The same policies with guardrails behind the names. Until then a permit that names one denies.
    ///
    /// # Errors
    /// Names that no guardrail has, and guardrails that a permit gives nothing to act on.
    pub fn with_guardrails(mut self, guardrails: Vec<Obligation>) -> Result<Self, Vec<PolicyProblem>> {
        let guardrails: Vec<Arc<Obligation>> = guardrails.into_iter().map(Arc::new).collect();
        let problems = self.cedar.obligations.bind(&guardrails);
        if problems.is_empty() { Ok(Self { cache: DecisionCache::new(), ..self }) } else { Err(problems) }
    }

    /// Whether a policy speaks of this role.
    #[must_use]
    pub fn mentions_role(&self, role: &str) -> bool {
        self.cedar.mentioned.contains(role)
    }

    /// The actions that a name stands for: the one that is called so, and all that are inside a group of that name. None
    /// where the schema does not know it.
    #[must_use]
    pub fn actions_in(&self, name: &str) -> BTreeSet<Box<str>> {
        self.cedar.inside(name)
    }

    /// Whether some rule gives this role.
    #[must_use]
    pub fn gives_role(&self, role: &str) -> bool {
        self.roles.rules.iter().any(|rule| *rule.role == *role)
    }

    /// Answers a question, from memory where the same was asked before.
    pub fn decide(&self, request: AccessRequest<'_>) -> Arc<PolicyDecision> {
        let decide = |slice: &slice::Slice, roles| self.cedar.evaluate_slice(slice, request, roles);
        self.cache.decide(request, || self.prepare(request), decide)
    }

    /// The role in `held` that is separated from `role`; `None` if there is none.
    #[must_use]
    pub fn conflicting_role<'h>(&self, held: &'h [Arc<str>], role: &str) -> Option<&'h Arc<str>> {
        self.roles.conflicting_role(held, role)
    }

    /// Answers a question by evaluating roles and policies.
    #[must_use]
    pub fn evaluate(&self, request: AccessRequest<'_>) -> PolicyDecision {
        match self.roles.of(&request) {
            Ok(roles) => self.cedar.evaluate(request, roles),
            Err(denial) => denial.into(),
        }
    }

    /// The roles and the policies that decide a question.
    fn prepare(&self, request: AccessRequest<'_>) -> CacheEntry {
        let ruled = |decision| CacheEntry::Decided(Arc::new(decision));
        match self.roles.of(&request) {
            Ok(roles) => match self.cedar.slice(&request, &roles) {
                Ok(slice) => CacheEntry::ContextDependent { roles, slice, id: None },
                Err(error) => ruled(cedar::failed(error.to_string(), roles)),
            },
            Err(denial) => ruled(denial.into()),
        }
    }

    /// The shadow set knows the same exporters as the enforced one.
    fn labelled(mut self, labels: &Labels) -> Self {
        self.cedar.labels = labels.clone();
        Self { cache: DecisionCache::new(), ..self }
    }
}
