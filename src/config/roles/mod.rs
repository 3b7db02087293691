//! `roles.toml`: rules that derive roles from claims, and separation of duty between roles.
//!
//! Promises: a rule that can never match is a problem. A rule without effect is at least a warning: one that another
//! rule covers, or whose role no policy mentions.

use std::sync::Arc;

use ipnet::IpNet;
use serde_json::Value;

use super::reader::Section;
use crate::gate::{
    identity::{self, certificate},
    policy::{ClaimCondition, ClaimMatcher, ClaimPath, Policy, RoleRule, Roles, is_role},
};

/// Claims that differ from token to token: a condition on them matches one token at most.
const OF_ONE_TOKEN: [&str; 7] = ["exp", "nbf", "iat", "jti", "nonce", "at_hash", "c_hash"];

/// Lists of roles that are separated from each other.
type RoleSets = Vec<Vec<Arc<str>>>;

/// The known claims of each issuer that rules may name.
pub(super) struct KnownClaims(Vec<IssuerClaims>);

struct IssuerClaims {
    /// The name of the `[[issuer]]` or `[[certificate]]`.
    name: String,
    /// Claims that always have this value.
    fixed: Value,
    /// The only claims that exist; `None` if others may.
    only: Option<[&'static str; 2]>,
}

/// The known claims of a configuration's issuers and certificates.
pub(super) fn known_claims<'a>(
    issuers: impl Iterator<Item = &'a identity::Settings>,
    certificates: &[certificate::CertificateRule],
) -> KnownClaims {
    let of_issuer = |settings: &identity::Settings| {
        let required = settings.rules.required.iter().filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        let fixed = required.chain([("iss".to_owned(), settings.rules.issuer.as_str().into())]).collect();
        IssuerClaims { name: settings.name.clone(), fixed: Value::Object(fixed), only: None }
    };
    let of_certificate = |rule: &certificate::CertificateRule| IssuerClaims {
        name: (*rule.name).to_owned(),
        fixed: Value::Null,
        only: Some(match rule.names {
            certificate::SanPattern::Spiffe { .. } => ["spiffe_id", "x5t#S256"],
            certificate::SanPattern::Dns { .. } => ["dns_names", "x5t#S256"],
        }),
    };
    KnownClaims(issuers.map(of_issuer).chain(certificates.iter().map(of_certificate)).collect())
}

impl IssuerClaims {
    fn can_meet(&self, condition: &ClaimCondition) -> bool {
        let top = condition.claim.top();
        self.only.is_none_or(|only| only.contains(&top))
            && (self.fixed.get(top).is_none() || condition.holds(&self.fixed))
    }
}

/// Reads `roles.toml`. `policy` uses its roles; `None` if it has problems.
pub(super) fn roles(top: &Section<'_>, claims: Option<&KnownClaims>, policy: Option<&Policy>) -> Roles {
    let sections = top.sections("rule");
    let rules: Vec<RoleRule> = sections.iter().map(|section| rule(section, claims)).collect();
    let separation = top.section("separation_of_duty");
    let (separate, dynamic) = separation.as_ref().map(|section| separation_of(section, &rules, policy)).unzip();
    let roles = Roles {
        static_separation: separate.unwrap_or_default(),
        dynamic_separation: dynamic.unwrap_or_default(),
        rules,
    };
    for (n, (section, rule)) in sections.iter().zip(&roles.rules).enumerate() {
        warn_without_effect(section, rule, n, &roles, policy);
    }
    roles
}

fn rule(section: &Section<'_>, claims: Option<&KnownClaims>) -> RoleRule {
    let role = section.required("role", "scrape");
    if !role.is_empty() && !is_role(&role) {
        section.problem(
            "role",
            "write at most 128 of the characters `a-z A-Z 0-9 . _ : / -`, so that it fits into a header",
        );
    }
    let issuers = issuers(section, claims);
    let conditions = conditions(section);
    let named = |issuer: &&IssuerClaims| issuers.as_ref().is_none_or(|list| list.contains(&issuer.name));
    for condition in &conditions {
        let said: Vec<&IssuerClaims> = claims.iter().flat_map(|claims| &claims.0).filter(named).collect();
        if !said.is_empty() && !said.iter().any(|issuer| issuer.can_meet(condition)) {
            let text = format!(
                "no token or certificate of these issuers can ever meet `{condition}`, so this rule has no effect"
            );
            section.problem(if section.has("all") { "all" } else { "claim" }, text);
        }
    }
    section.finish();
    RoleRule { role: role.into(), issuers, conditions }
}

/// The names of the issuers; `None` for every issuer.
fn issuers(section: &Section<'_>, claims: Option<&KnownClaims>) -> Option<Vec<String>> {
    let listed = section.strings("issuers").unwrap_or_default();
    if !section.has("issuers") {
        section.problem("issuers", "missing; write the issuers' names, or `issuers = [\"*\"]` for every one");
    }
    let every = listed.iter().any(|name| name == "*");
    if every && listed.len() > 1 {
        section.problem("issuers", "`*` is every issuer, so the other names have no effect; leave them out, or `*`");
    }
    let known: Option<Vec<&str>> = claims.map(|known| known.0.iter().map(|issuer| issuer.name.as_str()).collect());
    for unknown in listed.iter().filter(|name| !every && known.as_ref().is_some_and(|k| !k.contains(&name.as_str()))) {
        let known = known.as_deref().unwrap_or_default().join(", ");
        let text = format!("no issuer is called `{unknown}`, so this rule has no effect; write one of: {known}");
        section.problem("issuers", text);
    }
    (!every).then_some(listed)
}

/// The condition of the rule itself, or those in `all`.
fn conditions(section: &Section<'_>) -> Vec<ClaimCondition> {
    if !section.has("all") {
        return condition(section).into_iter().collect();
    }
    for key in ["claim", "value", "prefix", "cidr"] {
        if section.has(key) {
            section.problem(key, "a rule has one condition or `all`, not both; move this into the list");
        }
    }
    let mut conditions: Vec<ClaimCondition> = Vec::new();
    let items = section.sections("all");
    if items.is_empty() {
        section.problem("all", "write the conditions: `all = [ { claim = \"ref\", prefix = \"refs/tags/\" }, … ]`");
    }
    for item in items {
        if let Some(found) = condition(&item) {
            if conditions.contains(&found) {
                item.problem("claim", format!("`{found}` is listed twice; leave one out"));
            }
            conditions.push(found);
        }
        item.finish();
    }
    conditions
}

fn condition(section: &Section<'_>) -> Option<ClaimCondition> {
    let claim = section.required("claim", "roles");
    if claim.starts_with('/') && claim.replace("~0", "").replace("~1", "").contains('~') {
        section.problem("claim", "in a JSON pointer `~` is written `~0`, and `/` within a name `~1`");
    }
    let claim = ClaimPath::parse(&claim);
    if OF_ONE_TOKEN.contains(&claim.top()) {
        section.problem("claim", format!("`{}` differs from token to token, so a rule cannot use it", claim.top()));
    }
    let matcher = matcher(section)?;
    Some(ClaimCondition { claim, matcher })
}

fn matcher(section: &Section<'_>) -> Option<ClaimMatcher> {
    let value = section.has("value");
    let prefix = section.has("prefix");
    let cidr = section.has("cidr");
    if [value, prefix, cidr].iter().filter(|there| **there).count() != 1 {
        let text =
            "write one of `value = \"scrape\"`, `prefix = \"refs/tags/\"` and `cidr = \"10.0.0.0/8\"` beside the claim";
        let surplus = if prefix {
            "prefix"
        } else if cidr {
            "cidr"
        } else {
            "value"
        };
        section.problem(surplus, text);
        return None;
    }
    if prefix {
        return section.string("prefix").map(|text| ClaimMatcher::Prefix(text.into()));
    }
    if cidr {
        return block(section).map(ClaimMatcher::Within);
    }
    match section.scalar("value")? {
        Value::String(text) if text.is_empty() => {
            section.problem("value", "write a string between quotes, not empty");
            None
        }
        Value::String(text) => Some(ClaimMatcher::Text(text.into())),
        Value::Bool(truth) => Some(ClaimMatcher::Truth(truth)),
        number => number.as_i64().map(ClaimMatcher::Number),
    }
}

fn block(section: &Section<'_>) -> Option<IpNet> {
    let text = section.string("cidr")?;
    let block: Option<IpNet> = text.parse().ok();
    match block {
        None => section.problem("cidr", format!("`{text}` is not a CIDR block; write one such as `10.0.0.0/8`")),
        // 10.1.2.3/8 may be meant as 10.0.0.0/8 or as 10.1.2.3/32
        Some(block) if block.trunc() != block => {
            section.problem("cidr", format!("the address has bits beyond the prefix; write `{}`", block.trunc()));
        }
        Some(_) => {}
    }
    block
}

fn separation_of(section: &Section<'_>, rules: &[RoleRule], policy: Option<&Policy>) -> (RoleSets, RoleSets) {
    let read = |key: &'static str| -> RoleSets {
        let lists: RoleSets =
            section.string_lists(key).into_iter().map(|list| list.into_iter().map(Into::into).collect()).collect();
        check_lists(section, key, &lists, rules, policy);
        lists
    };
    let fixed = read("static");
    let dynamic = read("dynamic");
    for (list, other) in dynamic.iter().flat_map(|list| fixed.iter().map(move |other| (list, other))) {
        let both: Vec<String> =
            list.iter().filter(|role| other.contains(role)).map(|role| format!("`{role}`")).collect();
        if both.len() > 1 {
            let text = format!(
                "no principal has both {}, because `static` keeps them apart; leave one list out",
                both.join(" and ")
            );
            section.problem("dynamic", text);
        }
    }
    section.finish();
    (fixed, dynamic)
}

fn check_lists(
    section: &Section<'_>,
    key: &'static str,
    lists: &[Vec<Arc<str>>],
    rules: &[RoleRule],
    policy: Option<&Policy>,
) {
    for list in lists {
        if list.len() < 2 {
            section.problem(key, "a list of separated roles needs at least two roles");
        }
        for (n, role) in list.iter().enumerate() {
            if list.iter().take(n).any(|earlier| earlier == role) {
                section.problem(key, format!("the role `{role}` is twice in a list; leave one out"));
            } else if !rules.iter().any(|rule| rule.role == *role) {
                // a role that policies mention may be granted for a time; any other is misspelt
                let text = format!("no rule gives the role `{role}`, so its separation has no effect");
                match policy {
                    Some(policy) if policy.mentions_role(role) => {
                        section.warning(key, format!("{text} unless it is granted"))
                    }
                    _ => section.problem(key, text),
                }
            }
        }
    }
}

/// Warns about a rule without effect.
fn warn_without_effect(section: &Section<'_>, rule: &RoleRule, place: usize, roles: &Roles, policy: Option<&Policy>) {
    if rule.conditions.is_empty() || rule.role.is_empty() {
        return;
    }
    let covering = |(other, earlier): (usize, &RoleRule)| {
        // of two equal rules the second has no effect
        let covers = other != place && earlier.covers(rule) && (other < place || !rule.covers(earlier));
        covers.then_some(other)
    };
    if let Some(other) = roles.rules.iter().enumerate().find_map(covering) {
        let text = format!(
            "`rule[{}]` gives `{}` to every principal that this rule matches, so this one has no effect",
            other, rule.role
        );
        section.warning("role", text);
    }
    let separated =
        roles.static_separation.iter().chain(&roles.dynamic_separation).flatten().any(|role| *role == rule.role);
    if policy.is_some_and(|policy| !policy.mentions_role(&rule.role)) && !separated {
        let text = format!("no policy mentions the role `{}`, so the role has no effect", rule.role);
        section.warning("role", text);
    }
}

#[cfg(test)]
mod tests;
