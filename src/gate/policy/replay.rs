//! Differences between two policy sets: in their files, and in their decisions on recorded requests.
//!
//! Promises: each question is put to both, so what is told as changed is changed by the policies alone. Memory grows with
//! the number of different changes, not with that of questions. Pure.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use http::Method;
use serde::Serialize;

use super::{
    decision::{Denial, PolicyDecision},
    engine::Policy,
    request::{AccessRequest, BodyNames, RequestContext, Resource},
    rule::RoleRule,
    source_text::PolicySource,
};
use crate::{clock::Timestamp, peer::Certificate, principal::Principal};

/// An access request from an audit record.
pub(crate) struct RecordedRequest {
    /// The caller, with the roles that it held.
    pub principal: Principal,
    /// The one role that it activated, where it did.
    pub active_role: Option<Box<str>>,
    /// The Cedar action.
    pub action: Arc<str>,
    /// To what.
    pub resource: Resource,
    /// When.
    pub at: Timestamp,
    /// From where.
    pub peer: IpAddr,
    /// The HTTP method.
    pub method: Method,
    /// Whether the connection was encrypted.
    pub tls: bool,
    /// The body's length in bytes, where it was known.
    pub size: Option<u64>,
    /// The client's certificate, as far as policy goes by it.
    pub certificate: Option<Certificate>,
    /// What the body named, where it was looked at.
    pub names: Option<BodyNames>,
}

impl RecordedRequest {
    fn access_request(&self) -> AccessRequest<'_> {
        let context = RequestContext {
            now: self.at,
            peer: self.peer,
            tls: self.tls,
            certificate: self.certificate.as_ref(),
            method: &self.method,
            size: self.size,
            names: self.names.as_ref(),
        };
        let principal = &self.principal;
        let action = &self.action;
        let resource = &self.resource;
        AccessRequest {
            principal,
            granted_roles: &[],
            active_role: self.active_role.as_deref(),
            action,
            resource,
            context,
        }
    }
}

/// A decision that comes out otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Change {
    /// `issuer-name:subject`.
    pub principal: Arc<str>,
    /// The Cedar action.
    pub action: Arc<str>,
    /// The resource's id.
    pub resource: Arc<str>,
    /// What the old policies say.
    pub old: DecisionSummary,
    /// What the new ones say.
    pub new: DecisionSummary,
}

/// One side of a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct DecisionSummary {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The policies that decide; none where nothing permits.
    pub policies: Arc<[Arc<str>]>,
    /// Why not, as a stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl From<&PolicyDecision> for DecisionSummary {
    fn from(decision: &PolicyDecision) -> Self {
        let reason = decision.denial.as_ref().map(Denial::reason);
        Self { allowed: decision.allowed, policies: decision.policies.clone(), reason }
    }
}

/// How often a change comes up, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ChangeCount {
    /// How many requests it is about.
    pub count: u64,
    /// The first of them.
    pub first: Timestamp,
    /// The last of them.
    pub last: Timestamp,
}

/// Questions put to two sets of policies.
pub(crate) struct Replay<'p> {
    old: &'p Policy,
    new: &'p Policy,
    changes: HashMap<Change, ChangeCount>,
}

impl<'p> Replay<'p> {
    /// Puts questions to these two.
    #[must_use]
    pub(crate) fn new(old: &'p Policy, new: &'p Policy) -> Self {
        Self { old, new, changes: HashMap::new() }
    }

    /// Puts one question to both; gives what the old policies say.
    pub(crate) fn evaluate(&mut self, recorded: &RecordedRequest) -> Arc<PolicyDecision> {
        let old = self.old.decide(recorded.access_request());
        let new = self.new.decide(recorded.access_request());
        if old.allowed != new.allowed {
            let change = Change {
                principal: recorded.principal.name.clone(),
                action: recorded.action.clone(),
                resource: recorded.resource.id().clone(),
                old: old.as_ref().into(),
                new: new.as_ref().into(),
            };
            let seen =
                self.changes.entry(change).or_insert(ChangeCount { count: 0, first: recorded.at, last: recorded.at });
            seen.count += 1;
            seen.first = seen.first.min(recorded.at);
            seen.last = seen.last.max(recorded.at);
        }
        old
    }

    /// Every change, by principal, action and resource.
    #[must_use]
    pub(crate) fn changes(self) -> Vec<(Change, ChangeCount)> {
        let mut changes: Vec<_> = self.changes.into_iter().collect();
        changes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        changes
    }
}

/// One thing that differs between two policy directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// What it is.
    pub kind: DifferenceKind,
    /// How it differs.
    pub status: DifferenceStatus,
    /// A policy's id, a rule or a list of roles as it is written.
    pub name: String,
    /// File and line, for policies: of the old one where it was removed, else of the new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// What can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DifferenceKind {
    /// A policy.
    Policy,
    /// A rule of roles.toml.
    Rule,
    /// A list of roles of which a principal may hold one.
    Static,
    /// A list of roles of which one is activated.
    Dynamic,
    /// A guardrail that permits of both sets name.
    Guardrail,
    /// An action that both schemas have, and the groups that it is in.
    Action,
}

/// How something differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DifferenceStatus {
    /// It is in the new directory only.
    Added,
    /// It is in the old directory only.
    Removed,
    /// It is in both under the same id and says something else.
    Changed,
}

/// What differs between two sets, beyond layout and comments: policies by their ids, then rules, then separation, then
/// what guardrails do, and in which groups actions are.
#[must_use]
pub(crate) fn differences(old: &Policy, new: &Policy) -> Vec<Difference> {
    let mut found = policies(old, new);
    let rules = |policy: &Policy| policy.roles().rules.iter().map(rule_text).collect::<Vec<_>>();
    let lists = |lists: &[Vec<Arc<str>>]| lists.iter().map(|list| list.join(", ")).collect::<Vec<_>>();
    let before = old.roles();
    let after = new.roles();
    for (kind, before, after) in [
        (DifferenceKind::Rule, rules(old), rules(new)),
        (DifferenceKind::Static, lists(&before.static_separation), lists(&after.static_separation)),
        (DifferenceKind::Dynamic, lists(&before.dynamic_separation), lists(&after.dynamic_separation)),
    ] {
        let missing = |these: &[String], those: &[String], status| -> Vec<Difference> {
            let missing = these.iter().filter(|one| !those.contains(one));
            missing.map(|name| Difference { kind, status, name: name.clone(), place: None }).collect()
        };
        found.extend(missing(&before, &after, DifferenceStatus::Removed));
        found.extend(missing(&after, &before, DifferenceStatus::Added));
    }
    let changed =
        |kind, name: &str| Difference { kind, status: DifferenceStatus::Changed, name: name.to_owned(), place: None };
    let before = old.cedar.obligations.bound();
    let after = new.cedar.obligations.bound();
    let others = before.iter().filter(|(name, rail)| after.get(*name).is_some_and(|other| other != *rail));
    found.extend(others.map(|(name, _)| changed(DifferenceKind::Guardrail, name)));
    let before = old.cedar.groups();
    let after = new.cedar.groups();
    let others = before.iter().filter(|(name, groups)| after.get(*name).is_some_and(|other| other != *groups));
    found.extend(others.map(|(name, _)| changed(DifferenceKind::Action, name)));
    found
}

fn policies(old: &Policy, new: &Policy) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut add = |status, source: &PolicySource| {
        let place = Some(format!("{}:{}", source.file.display(), source.line));
        found.push(Difference { kind: DifferenceKind::Policy, status, name: source.name.to_string(), place });
    };
    for before in old.sources() {
        match new.sources().iter().find(|after| after.name == before.name) {
            None => add(DifferenceStatus::Removed, before),
            Some(after) if after.policy.to_json().ok() != before.policy.to_json().ok() => {
                add(DifferenceStatus::Changed, after)
            }
            Some(_) => {}
        }
    }
    let is_new = |after: &&PolicySource| !old.sources().iter().any(|before| before.name == after.name);
    new.sources().iter().filter(is_new).for_each(|after| add(DifferenceStatus::Added, after));
    found
}

/// A rule on one line.
fn rule_text(rule: &RoleRule) -> String {
    let issuers = rule.issuers.as_ref().map_or_else(|| "*".to_owned(), |issuers| issuers.join(", "));
    let conditions: Vec<String> = rule.conditions.iter().map(ToString::to_string).collect();
    format!("role = \"{}\", issuers = [{issuers}], {}", rule.role, conditions.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gate::policy::{
        ClaimCondition, ClaimMatcher, ClaimPath, Guardrail, Obligation, PolicyFile, Roles, ScrapeGuardrail,
    };

    fn policy(text: &str, roles: Roles) -> Policy {
        let schema = "entity Role; entity Principal in [Role] { issuer: String, subject: String }; entity Exporter;
            type Request = { peer: ipaddr, method: String, tls: Bool, time: datetime, size?: Long };
            action Read appliesTo { principal: Principal, resource: Exporter, context: Request };";
        let file = |text: &str| PolicyFile { path: "a.cedar".into(), text: text.into() };
        Policy::new(roles, &file(schema), &[file(text)], std::iter::empty()).unwrap()
    }

    fn recorded(subject: &str, roles: &[&str], second: i64) -> RecordedRequest {
        let roles = roles.iter().map(|role| Arc::from(*role)).collect();
        RecordedRequest {
            principal: Principal::hypothetical("corp", subject, "{}", Some(roles)),
            active_role: None,
            action: "Read".into(),
            resource: Resource::Exporter("e".into()),
            at: Timestamp::from_second(second).unwrap(),
            peer: IpAddr::from([127, 0, 0, 1]),
            method: Method::GET,
            tls: true,
            size: None,
            certificate: None,
            names: None,
        }
    }

    #[test]
    fn precisely_what_comes_out_otherwise_is_told_once_with_its_count_and_times() {
        let old = policy("@id(\"all\") permit (principal, action, resource);", Roles::default());
        let apart = Roles { static_separation: vec![vec!["a".into(), "b".into()]], ..Roles::default() };
        let text = "@id(\"late\") permit (principal, action, resource) when { context.time > datetime(\"1970-01-01T00:00:05Z\") };";
        let new = policy(text, apart);
        let mut replay = Replay::new(&old, &new);
        for recorded in [
            recorded("x", &["a"], 3),
            recorded("x", &["a"], 2),
            recorded("x", &["a"], 9),
            recorded("y", &["a", "b"], 9),
        ] {
            assert!(replay.evaluate(&recorded).allowed);
        }
        let found: Vec<_> = replay
            .changes()
            .into_iter()
            .map(|(change, seen)| {
                let old = change.old.policies.join(",");
                let new = change.new.reason.unwrap();
                (change.principal.to_string(), old, new, seen.count, seen.first.as_second(), seen.last.as_second())
            })
            .collect();
        let all = || "all".to_owned();
        assert_eq!(
            found,
            [
                ("corp:x".to_owned(), all(), "not_permitted", 2, 2, 3),
                ("corp:y".to_owned(), all(), "separation_of_duty", 1, 9, 9),
            ]
        );
    }

    #[test]
    fn what_guardrails_do_and_where_actions_belong_is_part_of_a_set() {
        let schema = |group: &str| {
            let kinds = "entity Role; entity Principal in [Role] { issuer: String, subject: String }; entity Exporter;";
            let text = format!(
                "{kinds} action scrape, observe; action \"Exporter.Scrape\" in [{group}] appliesTo {{ principal: Principal, \
                 resource: Exporter, context: {{}} }};"
            );
            PolicyFile { path: "schema".into(), text }
        };
        let set = |group: &str, hide: &str| {
            let text = "@oblige(\"g\") permit (principal, action, resource);".to_owned();
            let files = [PolicyFile { path: "a".into(), text }];
            let duty = ScrapeGuardrail { drop_labels: vec![hide.into()], ..ScrapeGuardrail::default() };
            let policy = Policy::new(Roles::default(), &schema(group), &files, std::iter::empty()).unwrap();
            policy.with_guardrails(vec![Obligation { name: "g".into(), guardrail: Guardrail::Scrape(duty) }]).unwrap()
        };
        let found =
            |old, new| differences(&old, &new).into_iter().map(|d| (d.kind, d.status, d.name)).collect::<Vec<_>>();
        assert_eq!(found(set("scrape", "user"), set("scrape", "user")), []);
        let guardrail = (DifferenceKind::Guardrail, DifferenceStatus::Changed, "g".to_owned());
        assert_eq!(found(set("scrape", "user"), set("scrape", "host")), [guardrail]);
        let action = (DifferenceKind::Action, DifferenceStatus::Changed, "Exporter.Scrape".to_owned());
        assert_eq!(found(set("scrape", "user"), set("observe", "user")), [action]);
    }

    #[test]
    fn layout_is_no_difference_and_all_else_is() {
        let rule = |value: &str| RoleRule {
            role: "r".into(),
            issuers: None,
            conditions: vec![ClaimCondition {
                claim: ClaimPath::parse("c"),
                matcher: ClaimMatcher::Text(value.into()),
            }],
        };
        let roles = |value: &str, apart: &[&str]| Roles {
            rules: vec![rule(value)],
            static_separation: vec![apart.iter().map(|role| Arc::from(*role)).collect()],
            ..Roles::default()
        };
        let keep = "@id(\"keep\") permit (principal, action, resource);";
        let old = policy(
            &format!(
                "{keep} @id(\"gone\") forbid (principal, action, resource);\n@id(\"same\") permit (principal, action, resource) when {{ context.tls }};"
            ),
            roles("a", &["a", "b"]),
        );
        let new = policy(
            &format!(
                "// more\n\n{keep}\n@id(\"new\") forbid (principal, action, resource);\n@id(\"same\")\npermit (principal, action, resource)\nunless {{ context.tls }};"
            ),
            roles("b", &["a", "c"]),
        );
        assert_eq!(differences(&old, &old), []);
        let found: Vec<_> = differences(&old, &new).into_iter().map(|d| (d.kind, d.status, d.name)).collect();
        let name = |text: &str| text.to_owned();
        assert_eq!(
            found,
            [
                (DifferenceKind::Policy, DifferenceStatus::Removed, name("gone")),
                (DifferenceKind::Policy, DifferenceStatus::Changed, name("same")),
                (DifferenceKind::Policy, DifferenceStatus::Added, name("new")),
                (
                    DifferenceKind::Rule,
                    DifferenceStatus::Removed,
                    name("role = \"r\", issuers = [*], claim = \"c\", value = \"a\"")
                ),
                (
                    DifferenceKind::Rule,
                    DifferenceStatus::Added,
                    name("role = \"r\", issuers = [*], claim = \"c\", value = \"b\"")
                ),
                (DifferenceKind::Static, DifferenceStatus::Removed, name("a, b")),
                (DifferenceKind::Static, DifferenceStatus::Added, name("a, c")),
            ]
        );
    }
}
