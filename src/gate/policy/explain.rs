//! Explanations of decisions: the rules that give roles, the policies that decide, and the unmet conditions of others.
//!
//! Promises: the answer is the one that the gate gives, by the same evaluation; what is told besides comes of evaluating
//! each policy alone, whole and in parts, never of reading it. Pure, and far slower than deciding: for commands.

use std::sync::Arc;

use cedar_policy::{Authorizer, Decision, Entities, Policy as CedarPolicy, PolicySet, Request};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    cedar::CedarPolicies, decision::PolicyDecision, engine::Policy, request::AccessRequest, rule::RoleRule,
    source_text::PolicySource,
};

/// Most of a claim that is shown, in bytes.
const MAX_CLAIM_BYTES: usize = 200;

/// An answer and where it comes from.
pub struct Explanation<'p> {
    /// The answer.
    pub decision: PolicyDecision,
    /// What the shadow set would have ruled, where there is one.
    pub shadow: Option<PolicyDecision>,
    /// Each rule of roles.toml, in its order; none where the roles did not come from claims.
    pub rules: Vec<RuleReport>,
    /// Each policy, in the order of files and lines; none where the roles already deny.
    pub policies: Vec<PolicyReport<'p>>,
}

/// One rule of roles.toml, as it looks at one principal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RuleReport {
    /// Its place in the file, from 1.
    pub number: usize,
    /// The role that it gives.
    pub role: Arc<str>,
    /// Whether it gives it to this principal.
    pub gives: bool,
    /// The issuers that it is for, where the principal's is none of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_issuers: Option<Vec<String>>,
    /// Its conditions.
    pub conditions: Vec<ConditionReport>,
}

/// One condition of a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConditionReport {
    /// As roles.toml has it.
    pub text: String,
    /// Whether the claims meet it.
    pub met: bool,
    /// The claim as it is, shortened; `None` where there is none.
    pub found: Option<String>,
}

/// One policy, as it looks at one question.
pub struct PolicyReport<'p> {
    /// The policy.
    pub source: &'p PolicySource,
    /// What comes of it.
    pub outcome: Outcome,
}

/// What comes of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome")]
pub enum Outcome {
    /// It applies: it permits or forbids.
    Applies,
    /// It could not be evaluated, so everything is denied.
    Fails {
        /// What Cedar says.
        error: String,
    },
    /// Its scope fits, but not all of its conditions: these, from 1, in their order.
    Unmet {
        /// The conditions.
        conditions: Vec<usize>,
    },
    /// Its scope is about something else: these parts of it.
    Elsewhere {
        /// Of `principal`, `action` and `resource` those that do not fit.
        parts: Vec<&'static str>,
    },
}

impl Policy {
    /// Answers a question, and says why.
    #[must_use]
    pub fn explain(&self, access: AccessRequest<'_>) -> Explanation<'_> {
        let decision = self.evaluate(access);
        let rules = if access.principal.roles.is_some() { Vec::new() } else { self.rule_reports(&access) };
        let has_roles = self.roles.of(&access).is_ok();
        let policies = if has_roles { self.cedar.policy_reports(access, &decision.roles) } else { Vec::new() };
        let shadow = self.shadow.as_ref().map(|shadow| shadow.evaluate(access));
        Explanation { decision, shadow, rules, policies }
    }

    fn rule_reports(&self, access: &AccessRequest<'_>) -> Vec<RuleReport> {
        let claims = serde_json::from_str(&access.principal.claims).unwrap_or(Value::Null);
        let report = |(place, rule): (usize, &RoleRule)| {
            let issuer = &*access.principal.issuer;
            let conditions = rule.conditions.iter().map(|condition| ConditionReport {
                text: condition.to_string(),
                met: condition.holds(&claims),
                found: claims.get(condition.claim.top()).map(|claim| short(&claim.to_string())),
            });
            RuleReport {
                number: place + 1,
                role: rule.role.clone(),
                gives: rule.matches(access.principal, &claims),
                other_issuers: rule.issuers.clone().filter(|issuers| !issuers.iter().any(|one| one == issuer)),
                conditions: conditions.collect(),
            }
        };
        self.roles.rules.iter().enumerate().map(report).collect()
    }
}

fn short(text: &str) -> String {
    match text.get(..text.floor_char_boundary(MAX_CLAIM_BYTES)) {
        Some(beginning) if beginning.len() < text.len() => format!("{beginning}…"),
        _ => text.to_owned(),
    }
}

impl CedarPolicies {
    fn policy_reports(&self, access: AccessRequest<'_>, roles: &[Arc<str>]) -> Vec<PolicyReport<'_>> {
        let Some((request, entities)) = self.to_cedar(access, roles) else { return Vec::new() };
        let evaluator = SinglePolicyEvaluator { request, entities, authorizer: Authorizer::new() };
        self.sources.iter().map(|source| PolicyReport { source, outcome: evaluator.outcome(&source.policy) }).collect()
    }
}

/// A question in Cedar's words, to be put to one policy at a time.
struct SinglePolicyEvaluator {
    request: Request,
    entities: Entities,
    authorizer: Authorizer,
}

impl SinglePolicyEvaluator {
    fn outcome(&self, policy: &CedarPolicy) -> Outcome {
        match self.applies(policy) {
            Ok(true) => return Outcome::Applies,
            Err(error) => return Outcome::Fails { error },
            Ok(false) => {}
        }
        let Ok(whole) = policy.to_json() else { return Outcome::Unmet { conditions: Vec::new() } };
        let parts = ["principal", "action", "resource"];
        let parts: Vec<_> = parts.into_iter().filter(|part| !self.fits(&only(&whole, part, None))).collect();
        if !parts.is_empty() {
            return Outcome::Elsewhere { parts };
        }
        let count = whole.get("conditions").and_then(Value::as_array).map_or(0, Vec::len);
        let unmet = (0..count).filter(|at| !self.fits(&only(&whole, "", Some(*at))));
        Outcome::Unmet { conditions: unmet.map(|at| at + 1).collect() }
    }

    fn fits(&self, part: &Value) -> bool {
        CedarPolicy::from_json(None, part.clone()).is_ok_and(|policy| self.applies(&policy).unwrap_or(false))
    }

    /// Whether a policy alone is satisfied.
    fn applies(&self, policy: &CedarPolicy) -> Result<bool, String> {
        let set = PolicySet::from_policies([policy.clone()]).map_err(|error| error.to_string())?;
        let answer = self.authorizer.is_authorized(&self.request, &set, &self.entities);
        match answer.diagnostics().errors().next() {
            Some(error) => Err(error.to_string()),
            None => Ok(answer.decision() == Decision::Allow || answer.diagnostics().reason().next().is_some()),
        }
    }
}

/// A policy that asks for nothing but one part of another's scope, or one of its conditions.
fn only(whole: &Value, part: &str, condition: Option<usize>) -> Value {
    let all = json!({ "op": "All" });
    let scope = |name: &str| whole.get(name).filter(|_| name == part).unwrap_or(&all).clone();
    let conditions = whole.get("conditions").and_then(Value::as_array);
    let kept: Vec<Value> = condition.and_then(|at| conditions?.get(at).cloned()).into_iter().collect();
    json!({
        "effect": "permit", "principal": scope("principal"), "action": scope("action"), "resource": scope("resource"),
        "conditions": kept,
    })
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        gate::policy::{ClaimCondition, ClaimMatcher, ClaimPath, Denial, PolicyFile, RequestContext, Resource, Roles},
        principal::Principal,
    };

    const SCHEMA: &str = "entity Role; entity Principal in [Role] { issuer: String, subject: String }; entity Exporter;
        type Request = { peer: ipaddr, method: String, tls: Bool, time: datetime, size?: Long };
        action scrape;
        action Read, Write in [scrape] appliesTo { principal: Principal, resource: Exporter, context: Request };";

    const POLICIES: &str = r#"// a comment
@id("reads")
permit (principal in Role::"reader", action == Action::"Read", resource);

@id("writes")
permit (principal in Role::"writer", action == Action::"Write", resource == Exporter::"e")
when { context.tls } when { context.method == "POST" } unless { principal.subject == "s" };

@id("large")
forbid (principal, action, resource) when { context has size && context.size * 9223372036854775807 > 0 };
"#;

    fn policy() -> Policy {
        let file = |path: &str, text: &str| PolicyFile { path: path.into(), text: text.into() };
        let rule = |role: &str, issuers: Option<&str>, claim: &str| RoleRule {
            role: role.into(),
            issuers: issuers.map(|name| vec![name.to_owned()]),
            conditions: vec![ClaimCondition {
                claim: ClaimPath::parse(claim),
                matcher: ClaimMatcher::Text("yes".into()),
            }],
        };
        let roles = Roles {
            rules: vec![rule("reader", None, "reads"), rule("writer", Some("corp"), "/may/write")],
            static_separation: vec![vec!["reader".into(), "writer".into()]],
            ..Roles::default()
        };
        let policies = [file("a.cedar", POLICIES)];
        Policy::new(roles, &file("schema", SCHEMA), &policies, std::iter::empty()).unwrap()
    }

    fn check(claims: &str, action: &str, size: Option<u64>, with: impl FnOnce(Explanation<'_>)) {
        let policy = policy();
        let principal = Principal::hypothetical("corp", "s", claims, None);
        let action = action.into();
        let resource = Resource::Exporter("e".into());
        let context = RequestContext { size, ..RequestContext::test(IpAddr::from([127, 0, 0, 1])) };
        let access = AccessRequest {
            principal: &principal,
            granted_roles: &[],
            active_role: None,
            action: &action,
            resource: &resource,
            context,
        };
        with(policy.explain(access));
    }

    fn outcomes(report: &Explanation<'_>) -> Vec<Outcome> {
        report.policies.iter().map(|policy| policy.outcome.clone()).collect()
    }

    #[test]
    fn each_policy_tells_what_it_lacks() {
        check(r#"{"reads":["yes"]}"#, "Read", None, |report| {
            assert!(report.decision.allowed);
            let parts = vec!["principal", "action"];
            let unmet = Outcome::Unmet { conditions: vec![1] };
            assert_eq!(outcomes(&report), [Outcome::Applies, Outcome::Elsewhere { parts }, unmet]);
            let places: Vec<_> = report.policies.iter().map(|p| (&*p.source.name, p.source.line)).collect();
            assert_eq!(places, [("reads", 2), ("writes", 5), ("large", 9)]);
            assert!(report.policies[0].source.text.starts_with("@id(\"reads\")\npermit"));
        });
        check(r#"{"may":{"write":"yes"}}"#, "Write", None, |report| {
            assert_eq!(report.decision.denial, Some(Denial::NotPermitted));
            assert_eq!(outcomes(&report)[1], Outcome::Unmet { conditions: vec![2, 3] });
        });
        check(r#"{"reads":"yes"}"#, "Read", Some(3), |report| {
            assert!(matches!(report.decision.denial, Some(Denial::Error(_))));
            assert!(matches!(&outcomes(&report)[2], Outcome::Fails { error } if error.contains("overflow")));
        });
    }

    #[test]
    fn each_rule_tells_what_it_found() {
        check(r#"{"reads":"no","may":{"write":"yes"}}"#, "Read", None, |report| {
            let [reads, writes] = report.rules.as_slice() else { panic!("{:?}", report.rules) };
            assert_eq!((reads.gives, reads.conditions[0].found.as_deref()), (false, Some("\"no\"")));
            assert_eq!((writes.gives, &writes.other_issuers), (true, &None));
            assert_eq!(writes.conditions[0].found.as_deref(), Some(r#"{"write":"yes"}"#));
        });
        check(r#"{"reads":"yes","may":{"write":"yes"}}"#, "Read", None, |report| {
            assert!(matches!(report.decision.denial, Some(Denial::Separation(..))));
            assert!(report.policies.is_empty() && report.rules.iter().all(|rule| rule.gives));
        });
    }

    #[test]
    fn a_long_claim_is_shortened() {
        assert_eq!(short(&"é".repeat(MAX_CLAIM_BYTES)).len(), MAX_CLAIM_BYTES + '…'.len_utf8());
        assert_eq!(short("short"), "short");
    }
}
