//! Two sets of policies side by side: what differs in their files, and what they say to questions that were asked before.
//!
//! Promises: each question is put to both, so what is told as changed is changed by the policies alone. Memory grows with
//! the number of different changes, not with that of questions. Pure.

use std::{collections::HashMap, net::IpAddr, sync::Arc};

use http::Method;
use serde::Serialize;

use super::{
    decision::{Denial, PolicyDecision},
    engine::Policy,
    question::{AccessRequest, BodyNames, RequestContext, Resource},
    rule::RoleRule,
    source_text::Written,
};
use crate::{clock::Timestamp, peer::Certificate, principal::Principal};

/// A question as a record tells it.
pub(crate) struct Past {
    /// Who asked, with the roles that it held.
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

impl Past {
    fn question(&self) -> AccessRequest<'_> {
        let context = RequestContext {
            now: self.at,
            peer: self.peer,
            tls: self.tls,
            certificate: self.certificate.as_ref(),
            method: &self.method,
            size: self.size,
            names: self.names.as_ref(),
        };
        let (principal, action, resource) = (&self.principal, &self.action, &self.resource);
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
    pub old: Decided,
    /// What the new ones say.
    pub new: Decided,
}

/// One side of a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Decided {
    /// Whether it is allowed.
    pub allowed: bool,
    /// The policies that decide; none where nothing permits.
    pub policies: Arc<[Arc<str>]>,
    /// Why not, as a stable word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<&'static str>,
}

impl From<&PolicyDecision> for Decided {
    fn from(ruling: &PolicyDecision) -> Self {
        let reason = ruling.denial.as_ref().map(Denial::reason);
        Self { allowed: ruling.allowed, policies: ruling.policies.clone(), reason }
    }
}

/// How often a change comes up, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
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
    changes: HashMap<Change, Changed>,
}

impl<'p> Replay<'p> {
    /// Puts questions to these two.
    #[must_use]
    pub(crate) fn new(old: &'p Policy, new: &'p Policy) -> Self {
        Self { old, new, changes: HashMap::new() }
    }

    /// Puts one question to both; gives what the old policies say.
    pub(crate) fn ask(&mut self, past: &Past) -> Arc<PolicyDecision> {
        let (old, new) = (self.old.decide(past.question()), self.new.decide(past.question()));
        if old.allowed != new.allowed {
            let change = Change {
                principal: past.principal.name.clone(),
                action: past.action.clone(),
                resource: past.resource.id().clone(),
                old: old.as_ref().into(),
                new: new.as_ref().into(),
            };
            let seen = self.changes.entry(change).or_insert(Changed { count: 0, first: past.at, last: past.at });
            seen.count += 1;
            seen.first = seen.first.min(past.at);
            seen.last = seen.last.max(past.at);
        }
        old
    }

    /// Every change, by principal, action and resource.
    #[must_use]
    pub(crate) fn changes(self) -> Vec<(Change, Changed)> {
        let mut changes: Vec<_> = self.changes.into_iter().collect();
        changes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        changes
    }
}

/// One thing that differs between two policy directories.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Difference {
    /// What it is.
    pub of: Part,
    /// How it differs.
    pub is: Is,
    /// A policy's id, a rule or a list of roles as it is written.
    pub name: String,
    /// File and line, for policies: of the old one where it was removed, else of the new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
}

/// What can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Part {
    /// A policy.
    Policy,
    /// A rule of roles.toml.
    Rule,
    /// A list of roles that nobody may hold together.
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
pub(crate) enum Is {
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
    let rules = |policy: &Policy| policy.roles().rules.iter().map(told).collect::<Vec<_>>();
    let lists = |lists: &[Vec<Arc<str>>]| lists.iter().map(|list| list.join(", ")).collect::<Vec<_>>();
    let (before, after) = (old.roles(), new.roles());
    for (of, before, after) in [
        (Part::Rule, rules(old), rules(new)),
        (Part::Static, lists(&before.static_separation), lists(&after.static_separation)),
        (Part::Dynamic, lists(&before.dynamic_separation), lists(&after.dynamic_separation)),
    ] {
        let missing = |these: &[String], those: &[String], is| -> Vec<Difference> {
            let missing = these.iter().filter(|one| !those.contains(one));
            missing.map(|name| Difference { of, is, name: name.clone(), place: None }).collect()
        };
        found.extend(missing(&before, &after, Is::Removed));
        found.extend(missing(&after, &before, Is::Added));
    }
    let changed = |of, name: &str| Difference { of, is: Is::Changed, name: name.to_owned(), place: None };
    let (before, after) = (old.cedar.obliged.bound(), new.cedar.obliged.bound());
    let others = before.iter().filter(|(name, rail)| after.get(*name).is_some_and(|other| other != *rail));
    found.extend(others.map(|(name, _)| changed(Part::Guardrail, name)));
    let (before, after) = (old.cedar.groups(), new.cedar.groups());
    let others = before.iter().filter(|(name, groups)| after.get(*name).is_some_and(|other| other != *groups));
    found.extend(others.map(|(name, _)| changed(Part::Action, name)));
    found
}

fn policies(old: &Policy, new: &Policy) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut tell = |is, written: &Written| {
        let place = Some(format!("{}:{}", written.file.display(), written.line));
        found.push(Difference { of: Part::Policy, is, name: written.name.to_string(), place });
    };
    for before in old.sources() {
        match new.sources().iter().find(|after| after.name == before.name) {
            None => tell(Is::Removed, before),
            Some(after) if after.policy.to_json().ok() != before.policy.to_json().ok() => tell(Is::Changed, after),
            Some(_) => {}
        }
    }
    let is_new = |after: &&Written| !old.sources().iter().any(|before| before.name == after.name);
    new.sources().iter().filter(is_new).for_each(|after| tell(Is::Added, after));
    found
}

/// A rule on one line.
fn told(rule: &RoleRule) -> String {
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

    fn past(subject: &str, roles: &[&str], second: i64) -> Past {
        let roles = roles.iter().map(|role| Arc::from(*role)).collect();
        Past {
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
        for past in [past("x", &["a"], 3), past("x", &["a"], 2), past("x", &["a"], 9), past("y", &["a", "b"], 9)] {
            assert!(replay.ask(&past).allowed);
        }
        let told: Vec<_> = replay
            .changes()
            .into_iter()
            .map(|(change, seen)| {
                let (old, new) = (change.old.policies.join(","), change.new.reason.unwrap());
                (change.principal.to_string(), old, new, seen.count, seen.first.as_second(), seen.last.as_second())
            })
            .collect();
        let all = || "all".to_owned();
        assert_eq!(
            told,
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
        let told = |old, new| differences(&old, &new).into_iter().map(|d| (d.of, d.is, d.name)).collect::<Vec<_>>();
        assert_eq!(told(set("scrape", "user"), set("scrape", "user")), []);
        let guardrail = (Part::Guardrail, Is::Changed, "g".to_owned());
        assert_eq!(told(set("scrape", "user"), set("scrape", "host")), [guardrail]);
        let action = (Part::Action, Is::Changed, "Exporter.Scrape".to_owned());
        assert_eq!(told(set("scrape", "user"), set("observe", "user")), [action]);
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
        let told: Vec<_> = differences(&old, &new).into_iter().map(|d| (d.of, d.is, d.name)).collect();
        let name = |text: &str| text.to_owned();
        assert_eq!(
            told,
            [
                (Part::Policy, Is::Removed, name("gone")),
                (Part::Policy, Is::Changed, name("same")),
                (Part::Policy, Is::Added, name("new")),
                (Part::Rule, Is::Removed, name("role = \"r\", issuers = [*], claim = \"c\", value = \"a\"")),
                (Part::Rule, Is::Added, name("role = \"r\", issuers = [*], claim = \"c\", value = \"b\"")),
                (Part::Static, Is::Removed, name("a, b")),
                (Part::Static, Is::Added, name("a, c")),
            ]
        );
    }
}
