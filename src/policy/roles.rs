//! From claims to roles, and which roles nobody may hold together.

use std::sync::Arc;

use serde_json::Value;

use crate::principal::Principal;

/// Where in the claims a rule looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// A claim by its exact name, dots and all.
    Name(String),
    /// A JSON pointer (RFC 6901) into nested claims.
    Pointer(String),
}

/// One rule: principals of these issuers with this claim hold this role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The role it gives.
    pub role: Arc<str>,
    /// The issuers whose claims it reads; `None` for every one.
    pub issuers: Option<Vec<String>>,
    /// The claim it looks at.
    pub claim: Claim,
    /// What the claim must equal, or hold where it is a list.
    pub value: String,
}

/// All rules, and the lists of roles that are kept apart (NIST RBAC, static separation of duty).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Roles {
    /// In the file's order; decisions do not depend on it.
    pub rules: Vec<Rule>,
    /// Of each list a principal may hold one role.
    pub separate: Vec<Vec<Arc<str>>>,
}

/// Two rules give a principal roles that are kept apart.
pub(super) struct Conflict {
    pub(super) roles: Arc<[Arc<str>]>,
    pub(super) text: String,
}

impl Roles {
    /// The roles of a principal, sorted.
    pub(super) fn of(&self, principal: &Principal) -> Result<Arc<[Arc<str>]>, Conflict> {
        if let Some(given) = &principal.roles {
            return self.given(given);
        }
        let claims = serde_json::from_str(&principal.claims).unwrap_or(Value::Null);
        let earned: Vec<(usize, &Rule)> =
            self.rules.iter().enumerate().filter(|(_, rule)| rule.matches(principal, &claims)).collect();
        let mut roles: Vec<Arc<str>> = earned.iter().map(|(_, rule)| rule.role.clone()).collect();
        roles.sort_unstable();
        roles.dedup();
        for apart in &self.separate {
            let mut held = apart.iter().filter_map(|role| earned.iter().find(|(_, rule)| rule.role == *role));
            if let (Some((a, first)), Some((b, second))) = (held.next(), held.next()) {
                let text = format!(
                    "rule {} gives `{}` and rule {} gives `{}`, which are kept apart",
                    a + 1,
                    first.role,
                    b + 1,
                    second.role
                );
                return Err(Conflict { roles: roles.into(), text });
            }
        }
        Ok(roles.into())
    }

    /// Roles that this gate gave before: they may have been set apart since.
    fn given(&self, roles: &Arc<[Arc<str>]>) -> Result<Arc<[Arc<str>]>, Conflict> {
        for apart in &self.separate {
            let mut held = apart.iter().filter(|role| roles.contains(role));
            if let (Some(a), Some(b)) = (held.next(), held.next()) {
                let text = format!("the token of this gate gives `{a}` and `{b}`, which are kept apart");
                return Err(Conflict { roles: roles.clone(), text });
            }
        }
        Ok(roles.clone())
    }
}

impl Rule {
    fn matches(&self, principal: &Principal, claims: &Value) -> bool {
        let issuer_fits = self.issuers.as_ref().is_none_or(|list| list.iter().any(|i| **i == *principal.issuer));
        let claim = match &self.claim {
            Claim::Name(name) => claims.get(name),
            Claim::Pointer(pointer) => claims.pointer(pointer),
        };
        issuer_fits
            && match claim {
                Some(Value::String(text)) => *text == self.value,
                Some(Value::Array(items)) => items.iter().any(|item| item.as_str() == Some(&self.value)),
                _ => false,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(issuer: &str, claims: &str, expected: Result<&[&str], &str>) {
        check_principal(&Principal::test(issuer, claims), expected);
    }

    fn check_principal(principal: &Principal, expected: Result<&[&str], &str>) {
        let rule = |role: &str, issuers: Option<&str>, claim: Claim, value: &str| Rule {
            role: role.into(),
            issuers: issuers.map(|i| vec![i.to_owned()]),
            claim,
            value: value.into(),
        };
        let roles = Roles {
            rules: vec![
                rule("ingest", None, Claim::Name("roles".into()), "writer"),
                rule("infer", Some("corp"), Claim::Pointer("/realm/roles".into()), "model"),
                rule("scrape", None, Claim::Name("https://x.test/role".into()), "reader"),
            ],
            separate: vec![vec!["ingest".into(), "infer".into()]],
        };
        match (roles.of(principal), expected) {
            (Ok(found), Ok(expected)) => assert_eq!(found.iter().map(|r| &**r).collect::<Vec<_>>(), expected),
            (Err(conflict), Err(expected)) => assert_eq!(conflict.text, expected),
            (found, expected) => panic!("{:?} is not {expected:?}", found.map_err(|c| c.text)),
        }
    }

    #[test]
    fn roles_that_the_gate_itself_gave_are_taken_as_they_are_but_stay_apart() {
        let given = |roles: &[&str]| {
            let roles = Some(roles.iter().map(|r| Arc::from(*r)).collect());
            Principal { roles, ..Principal::test("corp", r#"{"roles":["writer"]}"#) }
        };
        check_principal(&given(&["infer"]), Ok(&["infer"]));
        check_principal(&given(&[]), Ok(&[]));
        let apart = "the token of this gate gives `ingest` and `infer`, which are kept apart";
        check_principal(&given(&["infer", "ingest"]), Err(apart));
    }

    #[test]
    fn claims_earn_roles_exactly_and_roles_kept_apart_are_never_held_together() {
        check("corp", r#"{"roles":["writer","other"]}"#, Ok(&["ingest"]));
        check("corp", r#"{"roles":"writer"}"#, Ok(&["ingest"]));
        check("corp", r#"{"roles":["writers"]}"#, Ok(&[]));
        check("corp", r#"{"roles":{"writer":true}}"#, Ok(&[]));
        check("corp", r#"{"realm":{"roles":["model"]}}"#, Ok(&["infer"]));
        check("other", r#"{"realm":{"roles":["model"]}}"#, Ok(&[]));
        check("other", r#"{"https://x.test/role":"reader","roles":["writer"]}"#, Ok(&["ingest", "scrape"]));
        check("corp", "not json", Ok(&[]));
        check(
            "corp",
            r#"{"realm":{"roles":["model"]},"roles":["writer"]}"#,
            Err("rule 1 gives `ingest` and rule 2 gives `infer`, which are kept apart"),
        );
    }
}
