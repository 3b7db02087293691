//! From `@oblige("NAME")` on a permit to the obligations of a ruling.
//!
//! Promises: the obligations of all permits that decided hold together, so that one permit never relieves of what
//! another obliges to. A name that nothing stands behind denies: an annotation is never passed over. What could have no
//! effect is a problem when the policies are compiled.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use cedar_policy::{ActionConstraint, Effect, Entities, EntityUid, Policy, PolicyId, PolicySet};

use super::guardrail::{GuardrailKind, Obligation};
use crate::gate::policy::{
    compile::file_of,
    policy_file::{PolicyFile, PolicyProblem},
};

const ANNOTATION: &str = "oblige";

/// What each policy obliges to.
pub(in crate::gate::policy) struct ObligationBindings {
    permits: HashMap<PolicyId, PermitAnnotation>,
    /// The kind of guardrail that acts on an action, where one does.
    kinds: HashMap<Box<str>, GuardrailKind>,
    /// What is wrong with the annotations themselves.
    pub(in crate::gate::policy) problems: Vec<PolicyProblem>,
}

/// A permit's annotation.
struct PermitAnnotation {
    names: Vec<Box<str>>,
    file: std::path::PathBuf,
    line: usize,
    /// The kinds that act on what its scope allows.
    reaches: Vec<GuardrailKind>,
    /// What the names stand for; nothing until [`ObligationBindings::bind`].
    bound: Vec<Arc<Obligation>>,
}

impl ObligationBindings {
    /// Reads every annotation. `files` are where they stand, `actions` the schema's, with their groups.
    pub(in crate::gate::policy) fn read(set: &PolicySet, files: &[PolicyFile], actions: &Entities) -> Self {
        let of_schema: Vec<(EntityUid, GuardrailKind)> =
            actions.iter().filter_map(|action| Some((action.uid(), kind(actions, &action.uid())?))).collect();
        let mut permits = HashMap::new();
        let mut problems = Vec::new();
        for policy in set.policies() {
            let Some(said) = policy.annotation(ANNOTATION) else { continue };
            let name = file_of(policy.id());
            let text = files.iter().find(|file| file.path.to_string_lossy() == name).map(|file| &*file.text);
            let file = std::path::PathBuf::from(name);
            let line = text.map_or(0, |text| line_of(text, said));
            let mut problem = |text: &str| {
                problems.push(PolicyProblem { file: file.clone(), line, text: text.to_owned() });
            };
            if policy.effect() == Effect::Forbid {
                problem("`@oblige` stands on a `forbid`, which lets nothing pass; put it on a `permit`");
            }
            let names: Vec<Box<str>> = said.split(',').map(|name| name.trim().into()).collect();
            if names.iter().any(|name| name.is_empty()) {
                problem("`@oblige` names nothing; write the names of guardrails: `@oblige(\"first, second\")`");
            }
            let reaches = reaches(policy, actions, &of_schema);
            permits.insert(policy.id().clone(), PermitAnnotation { names, file, line, reaches, bound: Vec::new() });
        }
        let kinds = of_schema.into_iter().map(|(uid, kind)| (uid.id().unescaped().into(), kind)).collect();
        Self { permits, kinds, problems }
    }

    /// The guardrails that permits name.
    pub(in crate::gate::policy) fn names(&self) -> BTreeSet<&str> {
        self.permits.values().flat_map(|permit| permit.names.iter().map(|name| &**name)).collect()
    }

    /// The guardrails behind the names.
    pub(in crate::gate::policy) fn bound(&self) -> BTreeMap<&str, &Obligation> {
        let bound = self.permits.values().flat_map(|permit| &permit.bound);
        bound.map(|guardrail| (&*guardrail.name, &**guardrail)).collect()
    }

    /// Puts guardrails behind the names. A name without one, and a guardrail that its permit gives nothing to act on, is
    /// a problem.
    pub(in crate::gate::policy) fn bind(&mut self, guardrails: &[Arc<Obligation>]) -> Vec<PolicyProblem> {
        let mut problems = Vec::new();
        for permit in self.permits.values_mut() {
            permit.bound.clear();
            for name in &permit.names {
                let found = guardrails.iter().find(|guardrail| *guardrail.name == **name);
                let text = match found {
                    None => format!("`@oblige` names the guardrail `{name}`, which guardrails.toml does not define"),
                    Some(guardrail) if !permit.reaches.contains(&guardrail.guardrail.kind()) => {
                        let (kind, acts_on) = guardrail.guardrail.kind().description();
                        format!(
                            "the guardrail `{name}` can have no effect here: [{kind}.{name}] acts on {acts_on}, which \
                             this permit's scope does not allow"
                        )
                    }
                    Some(guardrail) => {
                        permit.bound.push(guardrail.clone());
                        continue;
                    }
                };
                problems.push(PolicyProblem { file: permit.file.clone(), line: permit.line, text });
            }
        }
        problems.sort_by(|a, b| (&a.file, a.line, &a.text).cmp(&(&b.file, b.line, &b.text)));
        problems
    }

    /// What the permits that decided oblige to when this action is done: each guardrail once, by name.
    ///
    /// # Errors
    /// With a name that nothing stands behind.
    pub(in crate::gate::policy) fn of<'a>(
        &self,
        decided: impl Iterator<Item = &'a PolicyId>,
        action: &str,
    ) -> Result<Arc<[Arc<Obligation>]>, String> {
        if self.permits.is_empty() {
            return Ok(Arc::default());
        }
        let kind = self.kinds.get(action);
        let mut obligations: Vec<Arc<Obligation>> = Vec::new();
        for permit in decided.filter_map(|id| self.permits.get(id)) {
            let unbound = permit.names.iter().find(|name| permit.bound.iter().all(|bound| *bound.name != ***name));
            if let Some(name) = unbound {
                return Err(format!("the guardrail `{name}` is not defined"));
            }
            obligations.extend(permit.bound.iter().filter(|bound| Some(&bound.guardrail.kind()) == kind).cloned());
        }
        obligations.sort_by(|a, b| a.name.cmp(&b.name));
        obligations.dedup_by(|a, b| a.name == b.name);
        Ok(obligations.into())
    }
}

/// The kind of guardrail that acts on an action.
fn kind(actions: &Entities, action: &EntityUid) -> Option<GuardrailKind> {
    match action.id().unescaped() {
        "Exporter.Scrape" | "Predictions.Scrape" => Some(GuardrailKind::Scrape),
        "RemoteWrite.Write" => Some(GuardrailKind::Write),
        _ => {
            let mut groups = actions.ancestors(action)?;
            groups.any(|group| group.id().unescaped() == "infer").then_some(GuardrailKind::Predict)
        }
    }
}

/// The kinds that act on something a policy's scope allows.
fn reaches(policy: &Policy, actions: &Entities, of_schema: &[(EntityUid, GuardrailKind)]) -> Vec<GuardrailKind> {
    let within = |action: &EntityUid| match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(one) => one == *action,
        ActionConstraint::In(groups) => {
            groups.iter().any(|group| group == action || actions.is_ancestor_of(group, action))
        }
    };
    of_schema.iter().filter(|(action, _)| within(action)).map(|(_, kind)| *kind).collect()
}

/// The line of the annotation with this value; 0 where it is written in another way.
fn line_of(text: &str, said: &str) -> usize {
    let at = text.match_indices("@oblige").find(|(at, _)| {
        let rest = text.get(at + "@oblige".len()..).unwrap_or_default();
        let value = rest.trim_start().strip_prefix('(').and_then(|rest| rest.trim_start().strip_prefix('"'));
        value.map_or(said.is_empty(), |value| value.starts_with(said))
    });
    at.map_or(0, |(at, _)| text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        gate::policy::{
            AccessRequest, Denial, Guardrail, PolicyDecision, PredictGuardrail, RequestContext, Resource, Roles,
            ScrapeGuardrail,
        },
        principal::Principal,
    };

    const SCHEMA: &str = "entity Role; entity Principal in [Role] { issuer: String, subject: String }; entity Exporter; \
        type R = { peer: ipaddr, method: String, tls: Bool, time: datetime, size?: Long }; action scrape, infer; \
        action \"Exporter.Scrape\" in [scrape] appliesTo { principal: Principal, resource: Exporter, context: R }; \
        action \"Exporter.Discover\" in [scrape] appliesTo { principal: Principal, resource: Exporter, context: R }; \
        action \"P.Predict\" in [infer] appliesTo { principal: Principal, resource: Exporter, context: R };";

    fn guardrails() -> Vec<Obligation> {
        let of = |name: &str, guardrail| Obligation { name: name.into(), guardrail };
        vec![
            of("s1", Guardrail::Scrape(ScrapeGuardrail::default())),
            of("s2", Guardrail::Scrape(ScrapeGuardrail::default())),
            of("p1", Guardrail::Predict(PredictGuardrail::default())),
        ]
    }

    fn policy(text: &str) -> Result<crate::gate::policy::Policy, Vec<PolicyProblem>> {
        let file = |path: &str, text: &str| PolicyFile { path: path.into(), text: text.into() };
        let schema = file("schema", SCHEMA);
        crate::gate::policy::Policy::new(Roles::default(), &schema, &[file("a.cedar", text)], std::iter::empty())
    }

    fn ask(policy: &crate::gate::policy::Policy, action: &str) -> PolicyDecision {
        let action = action.into();
        let resource = Resource::Exporter("app".into());
        policy.evaluate(AccessRequest {
            principal: &Principal::test("corp", "{}"),
            granted_roles: &[],
            active_role: None,
            action: &action,
            resource: &resource,
            context: RequestContext::test(IpAddr::from([127, 0, 0, 1])),
        })
    }

    fn check(text: &str, action: &str, expected: &[&str]) {
        let policy = policy(text).unwrap().with_guardrails(guardrails()).unwrap_or_else(|p| panic!("{text}: {p:?}"));
        let decision = ask(&policy, action);
        assert!(decision.allowed, "{text}: {decision:?}");
        let names: Vec<&str> = decision.obligations.iter().map(|obligation| &*obligation.name).collect();
        assert_eq!(names, expected, "{text}");
    }

    fn check_problems(text: &str, expected: &[(usize, &str)]) {
        let found = policy(text).and_then(|policy| policy.with_guardrails(guardrails()));
        let problems = found.map(drop).expect_err(text);
        assert_eq!(problems.len(), expected.len(), "{problems:?}");
        for (problem, (line, part)) in problems.iter().zip(expected) {
            assert_eq!((problem.file.to_str(), problem.line), (Some("a.cedar"), *line), "{problem:?}");
            assert!(problem.text.contains(part), "{problem:?}");
        }
    }

    #[test]
    fn the_obligations_of_every_permit_that_decided_hold() {
        let all = "permit (principal, action, resource);";
        check(all, "Exporter.Scrape", &[]);
        let both = format!("{all} @oblige(\"s2, s1\") permit (principal, action in Action::\"scrape\", resource);");
        check(&both, "Exporter.Scrape", &["s1", "s2"]);
        check(&both, "P.Predict", &[]);
        let other = "@oblige(\"s1\") permit (principal, action, resource); \
                     @oblige(\"s2\") permit (principal, action, resource) when { resource == Exporter::\"app\" }; \
                     @oblige(\"s2\") permit (principal, action, resource) when { context.tls };";
        check(other, "Exporter.Scrape", &["s1", "s2"]);
        let not = "@oblige(\"s1\") permit (principal, action, resource) when { resource == Exporter::\"x\" };";
        check(&format!("{all} {not}"), "Exporter.Scrape", &[]);
    }

    #[test]
    fn a_guardrail_concerns_the_actions_of_its_kind() {
        let mixed = "@oblige(\"s1,p1\") permit (principal, action, resource);";
        check(mixed, "Exporter.Scrape", &["s1"]);
        check(mixed, "P.Predict", &["p1"]);
        check(mixed, "Exporter.Discover", &[]);
    }

    #[test]
    fn an_annotation_with_nothing_behind_it_denies() {
        let unbound = policy("@oblige(\"s1\") permit (principal, action, resource);").unwrap();
        let decision = ask(&unbound, "Exporter.Scrape");
        assert_eq!(decision.denial, Some(Denial::Error("the guardrail `s1` is not defined".into())), "{decision:?}");
        assert!(!decision.allowed);
    }

    #[test]
    fn an_annotation_that_guards_nothing_is_a_problem_with_its_place() {
        check_problems("\n\n@oblige(\"s9\")\npermit (principal, action, resource);", &[(3, "`s9`")]);
        let scope = "@id(\"x\")\n@oblige(\"s1, p1\") permit (principal, action == Action::\"P.Predict\", resource);";
        check_problems(scope, &[(2, "`s1` can have no effect here")]);
        let discover = "@oblige(\"s1\") permit (principal, action == Action::\"Exporter.Discover\", resource);";
        check_problems(discover, &[(1, "can have no effect")]);
        check_problems("@oblige(\"s1\") forbid (principal, action, resource);", &[(1, "stands on a `forbid`")]);
        check_problems("@oblige(\"s1,\") permit (principal, action, resource);", &[(1, "names nothing")]);
        check_problems("@oblige permit (principal, action, resource);", &[(1, "names nothing")]);
    }
}
