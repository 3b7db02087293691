//! How an explanation reads: as lines for people, as JSON for programs.

use serde_json::{Value, json};

use super::arguments::{Ready, Source};
use crate::gate::policy::{Denial, Explanation, Outcome, PolicyDecision, PolicyTold, Resource, RuleTold};

/// An explanation, line by line.
pub(super) fn text(ready: &Ready, told: &Explanation<'_>, allowed: bool) -> Vec<String> {
    let who = &ready.who;
    let mut lines = vec![
        format!("principal  {}", who.principal.name),
        format!("action     {}", ready.action),
        format!("resource   {} {}", kind(&ready.resource), ready.resource.id()),
        String::new(),
    ];
    match who.source {
        Source::Verified => lines.push("the token's signature was checked".into()),
        Source::Unverified => lines.push("the token was only decoded: its signature was not checked".into()),
        Source::Supposed => {}
    }
    lines.extend(who.objection.map(|error| format!("a gate would refuse it with 401 ({}): {error}", error.reason())));
    roles(told, ready, &mut lines);
    policies(told, &mut lines);
    lines.push(String::new());
    let answer = match (allowed, &told.ruling.denial) {
        (true, _) => "allowed".to_owned(),
        (false, None) => "denied: the token would not be taken (401), though policy would allow it".to_owned(),
        (false, Some(Denial::Separation(_))) if given(ready) => {
            format!("denied: separation of duty: of {} some are kept apart", told.ruling.roles.join(", "))
        }
        (false, Some(denial)) => format!("denied: {}", why(denial)),
    };
    lines.push(answer);
    lines.extend(told.shadow.as_ref().map(|ruling| shadow(ruling, &told.ruling)));
    lines
}

/// Whether the roles are those of the command line, which no rule gives.
fn given(ready: &Ready) -> bool {
    ready.who.source == Source::Supposed && ready.who.principal.roles.is_some()
}

fn roles(told: &Explanation<'_>, ready: &Ready, lines: &mut Vec<String>) {
    if told.rules.is_empty() && ready.who.principal.roles.is_some() {
        lines.push("role rules: not asked, since the roles are given".into());
    } else {
        lines.push("role rules (roles.toml):".into());
        lines.extend(told.rules.iter().flat_map(rule));
    }
    let held = match &*told.ruling.roles {
        [] => "none".to_owned(),
        roles => roles.join(", "),
    };
    lines.push(format!("roles decided with: {held}"));
}

fn rule(rule: &RuleTold) -> Vec<String> {
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

fn gives(rule: &RuleTold) -> &'static str {
    if rule.gives { "gives" } else { "does not give" }
}

/// Which policies stand under a title.
type Wanted = fn(&PolicyTold<'_>) -> bool;

fn policies(told: &Explanation<'_>, lines: &mut Vec<String>) {
    if told.policies.is_empty() {
        lines.push("policies: not asked, since the roles deny it already".into());
        return;
    }
    let of = |wanted: Wanted| told.policies.iter().filter(move |policy| wanted(policy));
    let groups: [(&str, Wanted); 5] = [
        ("policies that forbid it:", |p| p.outcome == Outcome::Applies && !p.written.permits()),
        ("policies that permit it:", |p| p.outcome == Outcome::Applies && p.written.permits()),
        ("policies that could not be evaluated:", |p| matches!(p.outcome, Outcome::Fails { .. })),
        ("policies whose conditions are not met:", |p| matches!(p.outcome, Outcome::Unmet { .. })),
        ("policies about it, but for others:", for_others),
    ];
    for (title, wanted) in groups {
        let mut found = of(wanted).peekable();
        if found.peek().is_some() {
            lines.push(title.into());
        }
        found.for_each(|policy| lines.extend(one(policy)));
    }
    let count =
        told.policies.iter().filter(|p| matches!(p.outcome, Outcome::Elsewhere { .. }) && !for_others(p)).count();
    lines.push(format!("{count} more of {} are about something else", told.policies.len()));
}

/// Whether a policy is about the very action and resource, and permits it to others.
fn for_others(policy: &PolicyTold<'_>) -> bool {
    let principal_alone = |parts: &[&str]| parts == ["principal"];
    policy.written.permits() && matches!(&policy.outcome, Outcome::Elsewhere { parts } if principal_alone(parts))
}

fn one(policy: &PolicyTold<'_>) -> Vec<String> {
    let written = policy.written;
    let mut lines = vec![format!("  {} ({}:{})", written.name, written.file.display(), written.line)];
    match &policy.outcome {
        Outcome::Fails { error } => lines.push(format!("      {error}")),
        Outcome::Unmet { conditions } if !conditions.is_empty() => {
            let numbers: Vec<String> = conditions.iter().map(ToString::to_string).collect();
            lines.push(format!("      not met, of its `when` and `unless`: {}", numbers.join(", ")));
        }
        _ => {}
    }
    lines.extend(written.text.lines().map(|line| format!("      {line}")));
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
        Denial::Separation(rules) => format!("separation of duty: {rules}"),
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
pub(super) fn json(ready: &Ready, told: &Explanation<'_>, allowed: bool) -> Value {
    let policies: Vec<Value> = told.policies.iter().map(policy_json).collect();
    let signature = match ready.who.source {
        Source::Verified => json!("checked"),
        Source::Unverified => json!("not checked"),
        Source::Supposed => Value::Null,
    };
    json!({
        "principal": ready.who.principal.name,
        "signature": signature,
        "token_refused": ready.who.objection.map(|error| json!({ "reason": error.reason(), "detail": error.to_string() })),
        "action": ready.action,
        "resource": { "kind": kind(&ready.resource), "id": ready.resource.id() },
        "decision": if allowed { "allow" } else { "deny" },
        "reason": told.ruling.denial.as_ref().map(Denial::reason),
        "detail": told.ruling.denial.as_ref().map(why),
        "roles": told.ruling.roles,
        "deciding": told.ruling.policies,
        "rules": told.rules,
        "policies": policies,
        "shadow": told.shadow.as_ref().map(|ruling| json!({
            "decision": if ruling.allowed { "allow" } else { "deny" },
            "reason": ruling.denial.as_ref().map(Denial::reason),
            "roles": ruling.roles,
            "deciding": ruling.policies,
        })),
    })
}

fn policy_json(policy: &PolicyTold<'_>) -> Value {
    let mut told = json!({
        "id": policy.written.name,
        "effect": if policy.written.permits() { "permit" } else { "forbid" },
        "file": policy.written.file.display().to_string(),
        "line": policy.written.line,
        "text": policy.written.text,
    });
    if let (Some(told), Ok(Value::Object(outcome))) = (told.as_object_mut(), serde_json::to_value(&policy.outcome)) {
        told.extend(outcome);
    }
    told
}
