//! Role resolution: from claims and grants to the roles of a request.
//!
//! Promises: roles that are kept apart are never active together, wherever they come from: static lists refuse a
//! principal with two (NIST RBAC, static separation of duty), dynamic ones want one of them activated for the request
//! (dynamic separation). What is activated is the only role of the request. The order of rules changes no answer. Pure.

use std::{fmt, sync::Arc};

use serde_json::Value;

use super::{
    decision::{Denial, PolicyDecision},
    request::AccessRequest,
    rule::RoleRule,
};
use crate::principal::Principal;

/// The claim in a token of this gate that names all roles that were held when it was given for one of them.
pub(crate) const HELD_ROLES_CLAIM: &str = "held_roles";

/// All rules, and the lists of roles that are kept apart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// In the file's order; decisions do not depend on it.
    pub rules: Vec<RoleRule>,
    /// Of each list a principal may hold one role.
    pub static_separation: Vec<Vec<Arc<str>>>,
    /// Of each list a principal may hold several roles and activates one for each request.
    pub dynamic_separation: Vec<Vec<Arc<str>>>,
}

/// Why a request has no roles to be decided with.
pub(super) struct RoleDenial {
    /// Those that are held.
    pub(super) roles: Arc<[Arc<str>]>,
    pub(super) denial: Denial,
}

impl From<RoleDenial> for PolicyDecision {
    fn from(RoleDenial { roles, denial }: RoleDenial) -> Self {
        Self { allowed: false, roles, policies: Arc::default(), obligations: Arc::default(), denial: Some(denial) }
    }
}

/// Where a role comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The rule in this place of the file, from 0.
    Rule(usize),
    /// A token that this gate gave, which carries its roles.
    Token,
    /// A grant, for a time.
    Grant,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rule(place) => write!(f, "rule {}", place + 1),
            Self::Token => f.write_str("the token of this gate"),
            Self::Grant => f.write_str("a grant"),
        }
    }
}

impl Roles {
    /// The roles that a question is decided with, sorted.
    pub(super) fn of(&self, request: &AccessRequest<'_>) -> Result<Arc<[Arc<str>]>, RoleDenial> {
        let held = self.held(request.principal, request.granted_roles);
        let all = [self.left_out(request.principal), held.clone()].concat();
        for separated in &self.static_separation {
            let mut both = separated.iter().filter_map(|role| all.iter().find(|(held, _)| held == role));
            if let (Some((a, first)), Some((b, second))) = (both.next(), both.next()) {
                let text = format!("{first} gives `{a}` and {second} gives `{b}`, which are kept apart");
                return Err(RoleDenial {
                    roles: sorted(&all),
                    denial: Denial::Separation([a.clone(), b.clone()], text),
                });
            }
        }
        let roles = sorted(&held);
        let denied = |denial| Err(RoleDenial { roles: roles.clone(), denial });
        if let Some(active) = request.active_role {
            return match roles.iter().find(|role| ***role == *active) {
                Some(role) => Ok([role.clone()].into()),
                None => denied(Denial::RoleNotHeld(active.into())),
            };
        }
        for separated in &self.dynamic_separation {
            let both: Vec<Arc<str>> = separated.iter().filter(|role| roles.contains(role)).cloned().collect();
            if both.len() > 1 {
                return denied(Denial::RoleNotActivated(both.into()));
            }
        }
        Ok(roles)
    }

    /// The role in `held` that is separated from `role`; `None` if there is none.
    pub(super) fn conflicting_role<'h>(&self, held: &'h [Arc<str>], role: &str) -> Option<&'h Arc<str>> {
        let lists = || self.static_separation.iter().filter(|separated| separated.iter().any(|one| **one == *role));
        held.iter().find(|other| ***other != *role && lists().any(|separated| separated.contains(other)))
    }

    /// Each role that is held, with where it comes from; a role that comes from several places stands for each.
    pub(super) fn held(&self, principal: &Principal, granted: &[Arc<str>]) -> Vec<(Arc<str>, Origin)> {
        let mut held: Vec<(Arc<str>, Origin)> = match &principal.roles {
            // what the gate wrote itself; it may have been set apart since
            Some(given) => given.iter().map(|role| (role.clone(), Origin::Token)).collect(),
            None => {
                let claims = serde_json::from_str(&principal.claims).unwrap_or(Value::Null);
                let earned = self.rules.iter().enumerate().filter(|(_, rule)| rule.matches(principal, &claims));
                earned.map(|(place, rule)| (rule.role.clone(), Origin::Rule(place))).collect()
            }
        };
        held.extend(granted.iter().map(|role| (role.clone(), Origin::Grant)));
        held
    }

    /// The roles that a token of this gate is without because another one was activated when it was given. They are
    /// still held: activating a role is no way out of static separation, not with a token either.
    pub(super) fn left_out(&self, principal: &Principal) -> Vec<(Arc<str>, Origin)> {
        if principal.roles.is_none() {
            return Vec::new();
        }
        let claims: Value = serde_json::from_str(&principal.claims).unwrap_or(Value::Null);
        let held =
            claims.get(HELD_ROLES_CLAIM).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        held.map(|role| (role.into(), Origin::Token)).collect()
    }
}

/// The roles alone, each once.
pub(super) fn sorted(held: &[(Arc<str>, Origin)]) -> Arc<[Arc<str>]> {
    let mut roles: Vec<Arc<str>> = held.iter().map(|(role, _)| role.clone()).collect();
    roles.sort_unstable();
    roles.dedup();
    roles.into()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::gate::policy::{ClaimCondition, ClaimMatcher, ClaimPath, RequestContext, Resource};

    const BOTH: &str = r#"{"realm":{"roles":["model"]},"roles":["writer"]}"#;

    fn roles() -> Roles {
        let rule = |role: &str, issuers: Option<&str>, claim: &str, value: &str| RoleRule {
            role: role.into(),
            issuers: issuers.map(|i| vec![i.to_owned()]),
            conditions: vec![ClaimCondition {
                claim: ClaimPath::parse(claim),
                matcher: ClaimMatcher::Text(value.into()),
            }],
        };
        Roles {
            rules: vec![
                rule("ingest", None, "roles", "writer"),
                rule("infer", Some("corp"), "/realm/roles", "model"),
                rule("scrape", None, "https://x.test/role", "reader"),
            ],
            static_separation: vec![vec!["ingest".into(), "infer".into()]],
            dynamic_separation: vec![vec!["scrape".into(), "train".into(), "audit".into()]],
        }
    }

    fn of(
        roles: &Roles,
        principal: &Principal,
        granted: &[&str],
        active: Option<&str>,
    ) -> Result<Arc<[Arc<str>]>, RoleDenial> {
        let granted: Vec<Arc<str>> = granted.iter().map(|role| (*role).into()).collect();
        let action = "scrape".into();
        let resource = Resource::Exporter("e".into());
        let context = RequestContext::test(IpAddr::from([127, 0, 0, 1]));
        roles.of(&AccessRequest {
            principal,
            granted_roles: &granted,
            active_role: active,
            action: &action,
            resource: &resource,
            context,
        })
    }

    fn check(principal: &Principal, granted: &[&str], active: Option<&str>, expected: Result<&[&str], Denial>) {
        match (of(&roles(), principal, granted, active), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.iter().map(|r| &**r).collect::<Vec<_>>(), expected),
            (Err(found), Err(expected)) => assert_eq!(found.denial, expected),
            (found, expected) => panic!("{:?} is not {expected:?}", found.map_err(|u| u.denial)),
        }
    }

    fn given(roles: &[&str]) -> Principal {
        let roles = Some(roles.iter().map(|r| Arc::from(*r)).collect());
        Principal { roles, ..Principal::test("corp", r#"{"roles":["writer"]}"#) }
    }

    fn separated(text: &str) -> Denial {
        let mut names = text.split('`').skip(1).step_by(2).map(Arc::from);
        let roles = [names.next().unwrap(), names.next().unwrap()];
        Denial::Separation(roles, format!("{text}, which are kept apart"))
    }

    #[test]
    fn claims_earn_roles_exactly_and_roles_kept_apart_are_never_held_together() {
        let check = |issuer, claims, expected| check(&Principal::test(issuer, claims), &[], None, expected);
        check("corp", r#"{"roles":["writer","other"]}"#, Ok(&["ingest"]));
        check("corp", r#"{"roles":["writers"]}"#, Ok(&[]));
        check("corp", r#"{"realm":{"roles":["model"]}}"#, Ok(&["infer"]));
        check("other", r#"{"realm":{"roles":["model"]}}"#, Ok(&[]));
        check("other", r#"{"https://x.test/role":"reader","roles":["writer"]}"#, Ok(&["ingest", "scrape"]));
        check("corp", "not json", Ok(&[]));
        check("corp", BOTH, Err(separated("rule 1 gives `ingest` and rule 2 gives `infer`")));
    }

    #[test]
    fn roles_that_the_gate_itself_gave_are_taken_as_they_are_but_stay_apart() {
        check(&given(&["infer"]), &[], None, Ok(&["infer"]));
        check(&given(&[]), &[], None, Ok(&[]));
        let twice = separated("the token of this gate gives `ingest` and the token of this gate gives `infer`");
        check(&given(&["infer", "ingest"]), &[], None, Err(twice));
        let choice = Denial::RoleNotActivated(["scrape".into(), "train".into()].into());
        check(&given(&["scrape", "train"]), &[], None, Err(choice));
        check(&given(&["scrape", "train"]), &[], Some("train"), Ok(&["train"]));
    }

    #[test]
    fn what_a_token_of_the_gate_leaves_out_stays_held() {
        let narrowed = Principal {
            claims: r#"{"roles":["scrape"],"held_roles":["ingest","scrape"]}"#.into(),
            ..given(&["scrape"])
        };
        check(&narrowed, &[], None, Ok(&["scrape"]));
        check(&narrowed, &[], Some("ingest"), Err(Denial::RoleNotHeld("ingest".into())));
        check(&narrowed, &["observe"], None, Ok(&["observe", "scrape"]));
        let refused = separated("the token of this gate gives `ingest` and a grant gives `infer`");
        check(&narrowed, &["infer"], None, Err(refused));
        // nobody but the gate says so
        let claims = r#"{"https://x.test/role":"reader","held_roles":["ingest"]}"#;
        check(&Principal::test("corp", claims), &["infer"], None, Ok(&["infer", "scrape"]));
    }

    #[test]
    fn what_is_granted_is_added_and_stays_as_separate_as_what_is_earned() {
        let writer = Principal::test("corp", r#"{"roles":["writer"]}"#);
        check(&writer, &["observe"], None, Ok(&["ingest", "observe"]));
        check(&writer, &["ingest"], None, Ok(&["ingest"]));
        check(&writer, &["infer"], None, Err(separated("rule 1 gives `ingest` and a grant gives `infer`")));
        check(&writer, &["infer"], Some("infer"), Err(separated("rule 1 gives `ingest` and a grant gives `infer`")));
        let choice = Denial::RoleNotActivated(["scrape".into(), "train".into()].into());
        check(&writer, &["train", "scrape"], None, Err(choice));
        check(&writer, &["train", "scrape"], Some("scrape"), Ok(&["scrape"]));
        check(&given(&["train"]), &["scrape"], Some("scrape"), Ok(&["scrape"]));
    }

    #[test]
    fn of_roles_kept_apart_for_a_request_one_is_active_and_then_it_alone() {
        let reader = Principal::test("corp", r#"{"https://x.test/role":"reader","roles":["writer"]}"#);
        check(&reader, &[], None, Ok(&["ingest", "scrape"]));
        check(&reader, &[], Some("scrape"), Ok(&["scrape"]));
        check(&reader, &[], Some("ingest"), Ok(&["ingest"]));
        check(&reader, &[], Some("train"), Err(Denial::RoleNotHeld("train".into())));
        check(&reader, &["train"], Some("ingest"), Ok(&["ingest"]));
        let choice = Denial::RoleNotActivated(["scrape".into(), "train".into(), "audit".into()].into());
        check(&reader, &["audit", "train"], None, Err(choice));
        // static separation is about what is held: nobody activates a way out of it
        check(&Principal::test("corp", BOTH), &[], Some("ingest"), {
            Err(separated("rule 1 gives `ingest` and rule 2 gives `infer`"))
        });
    }

    #[test]
    fn the_order_of_rules_and_lists_changes_no_answer() {
        let straight = roles();
        let mut turned = roles();
        turned.rules.reverse();
        turned.static_separation.reverse();
        turned.static_separation.iter_mut().for_each(|list| list.reverse());
        turned.dynamic_separation.iter_mut().for_each(|list| list.reverse());
        for claims in [BOTH, r#"{"roles":["writer"],"https://x.test/role":"reader"}"#, "{}"] {
            for granted in [&[][..], &["train"], &["infer"]] {
                for active in [None, Some("train"), Some("scrape")] {
                    let principal = Principal::test("corp", claims);
                    let found = [&straight, &turned].map(|roles| of(roles, &principal, granted, active));
                    let [a, b] = found.map(|f| f.map_err(|u| (u.roles, std::mem::discriminant(&u.denial))));
                    assert_eq!(a, b, "{claims} {granted:?} {active:?}");
                }
            }
        }
    }
}
