//! Evaluation with Cedar: schema and policies are compiled once; a request is evaluated by those that can apply.
//!
//! Promises: denied unless a policy permits and none forbids; denied when any policy reports an error. Pure.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use cedar_policy::{Authorizer, Decision, Entities, Entity, Policy, PolicyId, PolicySetError, Request};

use super::{
    cedar_request::{Labels, Types},
    compile::{Compiled, compile},
    context_attributes::ContextAttributes,
    decision::{Denial, PolicyDecision},
    obligations::bind::ObligationBindings,
    policy_file::{PolicyFile, PolicyProblem},
    request::AccessRequest,
    slice::{Index, Slice},
    source_text::PolicySource,
};

/// Compiled policies.
pub(super) struct CedarPolicies {
    index: Index,
    names: HashMap<PolicyId, Arc<str>>,
    actions: HashMap<Box<str>, Entity>,
    authorizer: Authorizer,
    types: Types,
    /// Of exporters, which policies see as tags.
    pub(super) labels: Labels,
    /// Each policy as its file has it.
    pub(super) sources: Vec<PolicySource>,
    /// The roles that policies speak of.
    pub(super) mentioned: HashSet<Box<str>>,
    /// What permits oblige to.
    pub(super) obligations: ObligationBindings,
}

impl CedarPolicies {
    pub(super) fn new<'a>(
        schema_file: &PolicyFile,
        files: &[PolicyFile],
        needed: impl Iterator<Item = &'a str>,
    ) -> Result<Self, Vec<PolicyProblem>> {
        let of_schema = |text: String| vec![PolicyProblem { file: schema_file.path.clone(), line: 0, text }];
        let compiled = compile(schema_file, files, needed)?;
        let mut policies = Self::of(compiled, files).map_err(|e| of_schema(e.to_string()))?;
        let bad_annotations = std::mem::take(&mut policies.obligations.problems);
        if bad_annotations.is_empty() { Ok(policies) } else { Err(bad_annotations) }
    }

    /// Sorts what was compiled; `files` is where it came from.
    pub(super) fn of(compiled: Compiled, files: &[PolicyFile]) -> Result<Self, Box<dyn std::error::Error>> {
        let Compiled { schema, set, names, sources } = compiled;
        let types = Types::new()?;
        let entities = schema.action_entities()?;
        let ancestors = |uid: &_| entities.ancestors(uid).into_iter().flatten().cloned().collect();
        let index = Index::new(set.policies(), &types.principal, entities.iter(), ancestors);
        let obligations = ObligationBindings::read(&set, files, &entities);
        let actions: HashMap<Box<str>, Entity> =
            entities.iter().map(|action| (action.uid().id().unescaped().into(), action.clone())).collect();
        let literals = set.policies().flat_map(Policy::entity_literals);
        let roles = literals.filter(|uid| *uid.type_name() == types.role);
        let mentioned = roles.map(|uid| uid.id().unescaped().into()).collect();
        let authorizer = Authorizer::new();
        let labels = Labels::new();
        Ok(Self { index, names, actions, authorizer, types, labels, sources, mentioned, obligations })
    }

    /// The policies that can apply to a question that is decided with these roles.
    pub(super) fn slice(
        &self,
        access: &AccessRequest<'_>,
        roles: &[Arc<str>],
    ) -> Result<Arc<Slice>, Box<PolicySetError>> {
        let principal = [self.types.principal(&access.principal.name)].into_iter();
        let principal = principal.chain(roles.iter().map(|role| self.types.role(role)));
        let resource = self.types.resource(access.resource);
        let action = self.actions.get(&**access.action).map(Entity::uid);
        self.index.slice(action.as_ref(), principal, self.types.kind(access.resource), &resource)
    }

    /// What the policies are called.
    pub(super) fn policies(&self) -> BTreeSet<Arc<str>> {
        self.names.values().cloned().collect()
    }

    /// Denies where Cedar denies or reports any error.
    pub(super) fn evaluate(&self, access: AccessRequest<'_>, roles: Arc<[Arc<str>]>) -> PolicyDecision {
        match self.slice(&access, &roles) {
            Ok(slice) => self.evaluate_slice(&slice, access, roles),
            Err(error) => failed(error.to_string(), roles),
        }
    }

    /// The same with the policies that can apply at hand.
    pub(super) fn evaluate_slice(
        &self,
        slice: &Slice,
        access: AccessRequest<'_>,
        roles: Arc<[Arc<str>]>,
    ) -> PolicyDecision {
        let Some(action) = self.actions.get(&**access.action) else {
            return failed(format!("the schema lacks the action `{}`", access.action), roles);
        };
        let (request, entities) = match self.types.to_cedar(access, action, &roles, &self.labels, slice.reads) {
            Ok(translated) => translated,
            Err(error) => return failed(error.to_string(), roles),
        };
        let answer = self.authorizer.is_authorized(&request, &slice.set, &entities);
        let mut errors: Vec<String> = answer.diagnostics().errors().map(ToString::to_string).collect();
        if !errors.is_empty() {
            errors.sort_unstable();
            return failed(errors.join("; "), roles);
        }
        let mut policies: Vec<Arc<str>> =
            answer.diagnostics().reason().filter_map(|id| self.names.get(id).cloned()).collect();
        policies.sort_unstable();
        let denial = match answer.decision() {
            Decision::Allow => None,
            Decision::Deny if policies.is_empty() => Some(Denial::NotPermitted),
            Decision::Deny => Some(Denial::Forbidden),
        };
        let obligations = match denial {
            None => self.obligations.of(answer.diagnostics().reason(), access.action),
            Some(_) => Ok(Arc::default()),
        };
        match obligations {
            Ok(obligations) => {
                PolicyDecision { allowed: denial.is_none(), roles, policies: policies.into(), obligations, denial }
            }
            Err(text) => failed(text, roles),
        }
    }

    /// The actions that a name stands for: the one that is called so, and all that are inside a group of that name.
    pub(super) fn inside(&self, name: &str) -> BTreeSet<Box<str>> {
        let is_inside = |action: &Entity| {
            let (_, _, groups) = action.clone().into_inner();
            groups.iter().any(|group| group.id().unescaped() == name)
        };
        let inside = self.actions.iter().filter(|(id, action)| ***id == *name || is_inside(action));
        inside.map(|(id, _)| id.clone()).collect()
    }

    /// Each action with all groups that it is in.
    pub(super) fn groups(&self) -> BTreeMap<&str, BTreeSet<String>> {
        let groups = |action: &Entity| {
            let (_, _, groups) = action.clone().into_inner();
            groups.iter().map(ToString::to_string).collect()
        };
        self.actions.iter().map(|(id, action)| (&**id, groups(action))).collect()
    }

    /// The whole question in Cedar's words, whatever policies read of it; nothing where it has none.
    pub(super) fn to_cedar(&self, access: AccessRequest<'_>, roles: &[Arc<str>]) -> Option<(Request, Entities)> {
        let action = self.actions.get(&**access.action)?;
        self.types.to_cedar(access, action, roles, &self.labels, ContextAttributes::ALL).ok()
    }

    /// Decides by all policies and with all context: what every other way must agree with.
    #[cfg(test)]
    pub(super) fn evaluate_all(&self, access: AccessRequest<'_>, roles: Arc<[Arc<str>]>) -> PolicyDecision {
        self.evaluate_slice(&self.index.whole(), access, roles)
    }
}

pub(super) fn failed(text: String, roles: Arc<[Arc<str>]>) -> PolicyDecision {
    PolicyDecision {
        allowed: false,
        roles,
        policies: Arc::default(),
        obligations: Arc::default(),
        denial: Some(Denial::Error(text)),
    }
}
