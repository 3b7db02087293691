//! How an explanation reads: as lines for people, as JSON for programs.

use serde_json::{Value, json};

use super::arguments::{CallerSource, ResolvedRequest};
use crate::gate::policy::{Denial, Explanation, Outcome, PolicyDecision, PolicyReport, Resource, RuleReport};

/// An explanation, line by line.
pub(super) fn text(request: &ResolvedRequest, explanation: &Explanation<'_>, allowed: bool) -> Vec<String> {
    let caller = &request.caller;
    let mut lines = vec![
        format!("principal  {}", caller.principal.name),
        format!("action     {}", request.action),
        format!("resource   {} {}", kind(&request.resource), request.resource.id()),
        String::new(),
    ];
    match caller.source {
        CallerSource::Verified => lines.push("the token's signature was checked".into()),
        CallerSource::Unverified => lines.push("the token was only decoded: its signature was not checked".into()),
        CallerSource::Hypothetical => {}
    }
    lines
        .extend(caller.objection.map(|error| format!("a gate would refuse it with 401 ({}): {error}", error.reason())));
    roles(explanation, request, &mut lines);
    policies(explanation, &mut lines);
    lines.push(String::new());
    let answer = match (allowed, &explanation.decision.denial) {
        (true, _) => "allowed".to_owned(),
        (false, None) => "denied: the token would not be taken (401), though policy would allow it".to_owned(),
        (false, Some(Denial::Separation(..))) if given(request) => {
            format!("denied: separation of duty: of {} some are kept apart", explanation.decision.roles.join(", "))
        }
        (false, Some(denial)) => format!("denied: {}", why(denial)),
    };
    lines.push(answer);
    lines.extend(explanation.shadow.as_ref().map(|decision| shadow(decision, &explanation.decision)));
    lines
}

/// Whether the roles are those of the command line, which no rule gives.
fn given(request: &ResolvedRequest) -> bool {
    request.caller.source == CallerSource::Hypothetical && request.caller.principal.roles.is_some()
}

fn roles(explanation: &Explanation<'_>, request: &ResolvedRequest, lines: &mut Vec<String>) {
    if explanation.rules.is_empty() && request.caller.principal.roles.is_some() {
        lines.push("role rules: not asked, since the roles are given".into());
    } else {
        lines.push("role rules (roles.toml):".into());
        lines.extend(explanation.rules.iter().flat_map(rule));
    }
    let held = match &*explanation.decision.roles {
        [] => "none".to_owned(),
        roles => roles.join(", "),
    };
    lines.push(format!("roles decided with: {held}"));
}

fn rule(rule: &RuleReport) -> Vec<String> {
    let mark = if rule.gives { "+" } else { "-" };
    let mut lines = vec![format!("  {mark} rule {} {} `{}`", rule.number, gives(rule), rule.role)];
    if let Some(issuers) = &rule.other_issuers {
        lines.push(format!("      it is for tokens of {} alone", issuers.join(", ")));
    }
    for condition in &rule.conditions {
        let found =
            condition.found.as_deref().map_or_else(|| "there is no such claim".into(), |f| format!("it is {f}"));
        let met = if condition.met { "met" } else { "not met" };
        lines.push(format!("      {met}: {}; {found}", condition.text));
    }
    lines
}

fn gives(rule: &RuleReport) -> &'static str {
    if rule.gives { "gives" } else { "does not give" }
}

/// Which policies stand under a title.
type PolicyFilter = fn(&PolicyReport<'_>) -> bool;

fn policies(explanation: &Explanation<'_>, lines: &mut Vec<String>) {
    if explanation.policies.is_empty() {
        lines.push("policies: not asked, since the roles deny it already".into());
        return;
    }
    let of = |filter: PolicyFilter| explanation.policies.iter().filter(move |policy| filter(policy));
    let groups: [(&str, PolicyFilter); 5] = [
        ("policies that forbid it:", |p| p.outcome == Outcome::Applies && !p.source.permits()),
        ("policies that permit it:", |p| p.outcome == Outcome::Applies && p.source.permits()),
        ("policies that could not be evaluated:", |p| matches!(p.outcome, Outcome::Fails { .. })),
        ("policies whose conditions are not met:", |p| matches!(p.outcome, Outcome::Unmet { .. })),
        ("policies about it, but for others:", for_others),
    ];
    for (title, filter) in groups {
        let mut found = of(filter).peekable();
        if found.peek().is_some() {
            lines.push(title.into());
        }
        found.for_each(|policy| lines.extend(one(policy)));
    }
    let count = explanation
        .policies
        .iter()
        .filter(|p| matches!(p.outcome, Outcome::Elsewhere { .. }) && !for_others(p))
        .count();
    lines.push(format!("{count} more of {} are about something else", explanation.policies.len()));
}

/// Whether a policy is about the very action and resource, and permits it to others.
fn for_others(policy: &PolicyReport<'_>) -> bool {
    let principal_alone = |parts: &[&str]| parts == ["principal"];
    policy.source.permits() && matches!(&policy.outcome, Outcome::Elsewhere { parts } if principal_alone(parts))
}

fn one(policy: &PolicyReport<'_>) -> Vec<String> {
    let source = policy.source;
    let mut lines = vec![format!("  {} ({}:{})", source.name, source.file.display(), source.line)];
    match &policy.outcome {
        Outcome::Fails { error } => lines.push(format!("      {error}")),
        Outcome::Unmet { conditions } if !conditions.is_empty() => {
            let numbers: Vec<String> = conditions.iter().map(ToString::to_string).collect();
            lines.push(format!("      not met, of its `when` and `unless`: {}", numbers.join(", ")));
        }
        _ => {}
    }
    lines.extend(source.text.lines().map(|line| format!("      {line}")));
    lines
}

fn shadow(shadow: &PolicyDecision, enforced: &PolicyDecision) -> String {
    let answer =
        shadow.denial.as_ref().map_or_else(|| "allow it".to_owned(), |denial| format!("deny it: {}", why(denial)));
    let by = if shadow.policies.is_empty() { String::new() } else { format!(" (by {})", shadow.policies.join(", ")) };
    let differs = if shadow.allowed == enforced.allowed { "" } else { "; this differs" };
    format!("the shadow policies would {answer}{by}{differs}")
}

/// Why something is denied, for people.
pub(super) fn why(denial: &Denial) -> String {
    match denial {
        Denial::NotPermitted => "no policy permits it".into(),
        Denial::Forbidden => "a policy forbids it".into(),
        Denial::Separation(_, rules) => format!("separation of duty: {rules}"),
        Denial::RoleNotActivated(roles) => {
            format!("one of {} may be active at a time; activate one (`--active-role`)", roles.join(", "))
        }
        Denial::RoleNotHeld(role) => format!("the role `{role}` that it activates is not held"),
        Denial::Error(error) => format!("a policy could not be evaluated: {error}"),
    }
}

fn kind(resource: &Resource) -> &'static str {
    match resource {
        Resource::Exporter(_) => "exporter",
        Resource::Service(_) => "service",
        Resource::Vertex(_) => "vertex",
        Resource::Grant(_) => "grant",
    }
}

/// An explanation as one object.
pub(super) fn json(request: &ResolvedRequest, explanation: &Explanation<'_>, allowed: bool) -> Value {
    let policies: Vec<Value> = explanation.policies.iter().map(policy_json).collect();
    let signature = match request.caller.source {
        CallerSource::Verified => json!("checked"),
        CallerSource::Unverified => json!("not checked"),
        CallerSource::Hypothetical => Value::Null,
    };
    json!({
        "principal": request.caller.principal.name,
        "signature": signature,
        "token_refused": request.caller.objection.map(|error| json!({ "reason": error.reason(), "detail": error.to_string() })),
        "action": request.action,
        "resource": { "kind": kind(&request.resource), "id": request.resource.id() },
        "decision": if allowed { "allow" } else { "deny" },
        "reason": explanation.decision.denial.as_ref().map(Denial::reason),
        "detail": explanation.decision.denial.as_ref().map(why),
        "roles": explanation.decision.roles,
        "deciding": explanation.decision.policies,
        "rules": explanation.rules,
        "policies": policies,
        "shadow": explanation.shadow.as_ref().map(|decision| json!({
            "decision": if decision.allowed { "allow" } else { "deny" },
            "reason": decision.denial.as_ref().map(Denial::reason),
            "roles": decision.roles,
            "deciding": decision.policies,
        })),
    })
}

fn policy_json(policy: &PolicyReport<'_>) -> Value {
    let mut explanation = json!({
        "id": policy.source.name,
        "effect": if policy.source.permits() { "permit" } else { "forbid" },
        "file": policy.source.file.display().to_string(),
        "line": policy.source.line,
        "text": policy.source.text,
    });
    if let (Some(explanation), Ok(Value::Object(outcome))) =
        (explanation.as_object_mut(), serde_json::to_value(&policy.outcome))
    {
        explanation.extend(outcome);
    }
    explanation
}
