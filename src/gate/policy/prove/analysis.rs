//! Policies and conditions that properties are proved about, as Cedar expressions. Pure.

use std::{collections::HashMap, sync::Arc};

use cedar_policy::{Policy, PolicyId, PolicySet, ValidationMode, Validator};
use serde_json::Value;

use super::{
    environments::{Environment, Environments, RequestSlot},
    expression::{Action, PolicyExpression, all, allowed, and, entity, not, truth, variable, within},
};
use crate::gate::policy::{
    compile,
    policy_file::{PolicyFile, PolicyProblem},
    roles::Roles,
};

/// What proofs are about: the policies of a directory and which of its roles are kept apart.
pub(crate) struct AnalyzedPolicies {
    pub(super) name: String,
    pub(super) policies: PolicySet,
    pub(super) names: HashMap<PolicyId, Arc<str>>,
    pub(super) clauses: Vec<PolicyExpression>,
    /// True where a principal's roles may decide a request together.
    pub(super) lawful: Value,
}

/// A Cedar expression over a request.
pub(crate) struct RequestCondition(PolicyExpression);

/// A set and a schema that statements can be read against.
pub(crate) struct Analysis {
    pub(super) world: Environments,
    pub(super) set: AnalyzedPolicies,
}

impl AnalyzedPolicies {
    /// Reads policies; `name` is what a counterexample calls them.
    ///
    /// # Errors
    /// Every problem of the files.
    pub(crate) fn new(name: &str, files: &[PolicyFile], roles: &Roles) -> Result<Self, Vec<PolicyProblem>> {
        let (policies, names, mut problems) = compile::read(files);
        let mut clauses = Vec::new();
        for policy in policies.policies() {
            match PolicyExpression::new(policy) {
                Ok(clause) => clauses.push(clause),
                Err(error) => {
                    let file = compile::file_of(policy.id()).into();
                    let text = error.to_string();
                    problems.push(PolicyProblem { file, line: 0, text });
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let holds = |role: &str| within(&variable("principal"), &entity("Role", role));
        let pairs = roles.static_separation.iter().chain(&roles.dynamic_separation).flat_map(|list| {
            let later = |n: usize| list.iter().skip(n + 1);
            list.iter().enumerate().flat_map(move |(n, one)| later(n).map(move |other| (one, other)))
        });
        let lawful = all(&pairs.map(|(one, other)| not(&and(&holds(one), &holds(other)))).collect::<Vec<_>>());
        Ok(Self { name: name.into(), policies, names, clauses, lawful })
    }

    /// Where it allows, for each action of the world.
    pub(super) fn of_each(&self, world: &Environments) -> Vec<Value> {
        world.actions.iter().map(|action| allowed(&self.clauses, &RequestSlot::Alone.of(action))).collect()
    }

    /// A policy's name and the file it is in.
    pub(super) fn named(&self, id: &PolicyId) -> String {
        let name = self.names.get(id).map_or_else(|| id.to_string(), ToString::to_string);
        format!("`{name}` ({})", compile::file_of(id))
    }
}

impl Analysis {
    /// A set under its schema.
    ///
    /// # Errors
    /// What is wrong with the schema.
    pub(crate) fn new(schema: &PolicyFile, set: AnalyzedPolicies) -> Result<Self, PolicyProblem> {
        let world = Environments::new(&schema.text);
        let world = world.map_err(|e| PolicyProblem { file: schema.path.clone(), line: 0, text: e.to_string() })?;
        Ok(Self { world, set })
    }

    /// Whether there are actions in this group.
    #[must_use]
    pub(crate) fn is_group(&self, group: &str) -> bool {
        self.world.of_group(group).next().is_some()
    }

    /// Whether the schema has this action in this group.
    #[must_use]
    pub(crate) fn is_in(&self, action: &str, group: &str) -> bool {
        let found = self.world.actions.iter().find(|known| *known.id == *action);
        found.is_some_and(|known| known.within.iter().any(|uid| uid.id().unescaped() == group))
    }

    /// Reads a condition such as `principal in Role::"scrape" && action in Action::"administer"`.
    ///
    /// # Errors
    /// Why it is none, or that no request can meet it: what is said of nothing is proved of nothing.
    pub(crate) fn condition(&self, text: &str) -> Result<RequestCondition, String> {
        let policy = format!("permit (principal, action, resource) when {{\n{text}\n}};");
        let policy = Policy::parse(None, policy).map_err(|e| format!("no Cedar expression: {e}"))?;
        let set = PolicySet::from_policies([policy.clone()]).map_err(|e| e.to_string())?;
        let verdict = Validator::new(self.world.schema.clone()).validate(&set, ValidationMode::Strict);
        if let Some(error) = verdict.validation_errors().next() {
            // it has no name that its writer knows
            let error = error.to_string().replace(&format!("for policy `{}`, ", policy.id()), "");
            return Err(format!("does not fit the schema: {error}"));
        }
        let clause = PolicyExpression::new(&policy).map_err(|e| e.to_string())?;
        let condition = RequestCondition(clause);
        let met =
            |e: &Environment| self.world.actions.get(e.action).is_some_and(|action| condition.at(action).is_some());
        if !self.world.environments.iter().any(met) {
            return Err("no action that the schema knows meets it, so that it would be proved of nothing".into());
        }
        Ok(condition)
    }

    /// Whether another directory's policies fit this schema, under which the two are compared.
    ///
    /// # Errors
    /// Where they do not.
    pub(crate) fn fits(&self, other: &AnalyzedPolicies) -> Result<(), String> {
        let verdict = Validator::new(self.world.schema.clone()).validate(&other.policies, ValidationMode::Strict);
        let errors: Vec<String> = verdict.validation_errors().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }
}

impl RequestCondition {
    /// What it says of this action; nothing where that cannot meet it. One that errors is not met, so that a part that
    /// is false decides, wherever it stands: for policies that is not so.
    pub(super) fn at(&self, action: &Action) -> Option<Value> {
        let value = self.0.at(&RequestSlot::Alone.of(action));
        (!never_true(&value)).then_some(value)
    }
}

pub(super) fn never_true(value: &Value) -> bool {
    let side = |name: &str| value.get("&&").and_then(|and| and.get(name)).is_some_and(never_true);
    *value == truth(false) || side("left") || side("right")
}
