//! Role rules of roles.toml: claim conditions that give a role.
//!
//! Promises: a rule holds only where each of its conditions does; a claim that is missing or of another type meets none.
//! Text is compared byte by byte, a number is never text. Pure.

use std::{fmt, net::IpAddr, sync::Arc};

use ipnet::IpNet;
use serde_json::Value;

use crate::principal::Principal;

/// Longest role, in bytes.
const MAX_ROLE: usize = 128;

/// Whether a text can be a role: it stands in headers, tokens and records as it is.
#[must_use]
pub(crate) fn is_role(text: &str) -> bool {
    (1..=MAX_ROLE).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/-".contains(&b))
}

/// Where in the claims a condition looks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimPath {
    /// A claim by its exact name, dots and all.
    Name(Box<str>),
    /// The segments of a JSON pointer (RFC 6901) into nested claims. In a list a number is a position, as the RFC says;
    /// any other name is looked for in each of its items, and one that fits is enough.
    Pointer(Box<[Box<str>]>),
}

/// What a claim must be. A list is as good as its best item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimMatcher {
    /// This very text.
    Text(Box<str>),
    /// This whole number, written without a fraction.
    Number(i64),
    /// This truth.
    Truth(bool),
    /// A text that begins so.
    Prefix(Box<str>),
    /// An IP address of this block. An IPv4 address that is written as IPv6 counts as what it is.
    Within(IpNet),
}

/// One claim and what it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimCondition {
    /// The claim that is looked at.
    pub claim: ClaimPath,
    /// What it must be.
    pub matcher: ClaimMatcher,
}

/// One rule: principals of these issuers that meet all conditions hold this role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleRule {
    /// The role it gives.
    pub role: Arc<str>,
    /// The issuers whose claims it reads; `None` for every one.
    pub issuers: Option<Vec<String>>,
    /// At least one.
    pub conditions: Vec<ClaimCondition>,
}

impl ClaimPath {
    /// Reads a claim as roles.toml names it: a name, or a pointer where it begins with a slash.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        // RFC 6901 section 4: `~1` first, so that `~01` is `~1`
        let segment = |text: &str| text.replace("~1", "/").replace("~0", "~").into();
        match text.strip_prefix('/') {
            Some(pointer) => Self::Pointer(pointer.split('/').map(segment).collect()),
            None => Self::Name(text.into()),
        }
    }

    /// The claim itself, whatever is looked for within it.
    #[must_use]
    pub fn top(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Pointer(path) => path.first().map_or("", |first| first),
        }
    }
}

impl ClaimCondition {
    /// Whether these claims meet it.
    #[must_use]
    pub fn holds(&self, claims: &Value) -> bool {
        match &self.claim {
            ClaimPath::Name(name) => claims.get(&**name).is_some_and(|claim| self.matcher.takes_any(claim)),
            ClaimPath::Pointer(path) => self.holds_below(claims, path),
        }
    }

    fn holds_below(&self, value: &Value, path: &[Box<str>]) -> bool {
        let Some((first, rest)) = path.split_first() else { return self.matcher.takes_any(value) };
        match value {
            Value::Object(members) => members.get(&**first).is_some_and(|member| self.holds_below(member, rest)),
            Value::Array(items) => match position(first) {
                Some(at) => items.get(at).is_some_and(|item| self.holds_below(item, rest)),
                None => items.iter().any(|item| item.is_object() && self.holds_below(item, path)),
            },
            _ => false,
        }
    }

    /// Whether claims that meet this condition also meet `other`.
    fn implies(&self, other: &Self) -> bool {
        self.claim == other.claim && self.matcher.implies(&other.matcher)
    }
}

/// A position in a list (RFC 6901 section 4): digits without a zero before them.
fn position(segment: &str) -> Option<usize> {
    let is_one = segment.bytes().all(|b| b.is_ascii_digit()) && (segment == "0" || !segment.starts_with('0'));
    is_one.then(|| segment.parse().ok()).flatten()
}

impl ClaimMatcher {
    fn takes_any(&self, claim: &Value) -> bool {
        match claim {
            Value::Array(items) => items.iter().any(|item| self.takes(item)),
            one => self.takes(one),
        }
    }

    fn takes(&self, value: &Value) -> bool {
        match (self, value) {
            (Self::Text(expected), Value::String(text)) => **expected == **text,
            (Self::Number(expected), Value::Number(number)) => number.as_i64() == Some(*expected),
            (Self::Truth(expected), Value::Bool(truth)) => expected == truth,
            (Self::Prefix(prefix), Value::String(text)) => text.starts_with(&**prefix),
            (Self::Within(block), Value::String(text)) => within(block, text),
            _ => false,
        }
    }

    fn implies(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(text) | Self::Prefix(text), Self::Prefix(shorter)) => text.starts_with(&**shorter),
            (Self::Text(text), Self::Within(block)) => within(block, text),
            (Self::Within(block), Self::Within(wider)) => wider.contains(block),
            _ => self == other,
        }
    }
}

fn within(block: &IpNet, text: &str) -> bool {
    text.parse::<IpAddr>().is_ok_and(|address| block.contains(&address.to_canonical()))
}

impl RoleRule {
    /// Whether it gives this principal its role.
    pub(super) fn matches(&self, principal: &Principal, claims: &Value) -> bool {
        self.issuers.as_ref().is_none_or(|list| list.iter().any(|issuer| **issuer == *principal.issuer))
            && !self.conditions.is_empty()
            && self.conditions.iter().all(|condition| condition.holds(claims))
    }

    /// Whether this rule gives the role to every principal that `other` gives it to, so that `other` has no effect.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let all_issuers = match (&self.issuers, &other.issuers) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some(ours), Some(theirs)) => theirs.iter().all(|issuer| ours.contains(issuer)),
        };
        let implied = |condition: &ClaimCondition| other.conditions.iter().any(|theirs| theirs.implies(condition));
        self.role == other.role && all_issuers && self.conditions.iter().all(implied)
    }
}

impl fmt::Display for ClaimPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Pointer(path) => {
                path.iter().try_for_each(|segment| write!(f, "/{}", segment.replace('~', "~0").replace('/', "~1")))
            }
        }
    }
}

/// As roles.toml has it, such as `value = "scrape"`.
impl fmt::Display for ClaimMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "value = {text:?}"),
            Self::Number(number) => write!(f, "value = {number}"),
            Self::Truth(truth) => write!(f, "value = {truth}"),
            Self::Prefix(prefix) => write!(f, "prefix = {prefix:?}"),
            Self::Within(block) => write!(f, "cidr = \"{block}\""),
        }
    }
}

/// As roles.toml has it, such as `claim = "roles", value = "scrape"`.
impl fmt::Display for ClaimCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "claim = {:?}, {}", self.claim.to_string(), self.matcher)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(claim: &str, matcher: ClaimMatcher) -> ClaimCondition {
        ClaimCondition { claim: ClaimPath::parse(claim), matcher }
    }

    fn text(value: &str) -> ClaimMatcher {
        ClaimMatcher::Text(value.into())
    }

    fn prefix(value: &str) -> ClaimMatcher {
        ClaimMatcher::Prefix(value.into())
    }

    fn cidr(value: &str) -> ClaimMatcher {
        ClaimMatcher::Within(value.parse().unwrap())
    }

    #[test]
    fn a_condition_holds_for_the_claim_it_names_and_no_other() {
        let check = |claim: &str, matcher: ClaimMatcher, claims: &str, expected: bool| {
            let found = condition(claim, matcher.clone()).holds(&serde_json::from_str(claims).unwrap());
            assert_eq!(found, expected, "{claim} {matcher} on {claims}");
        };
        check("roles", text("a"), r#"{"roles":"a"}"#, true);
        check("roles", text("a"), r#"{"roles":["b","a"]}"#, true);
        check("roles", text("a"), r#"{"roles":["ab"]}"#, false);
        check("roles", text("a"), r#"{"roles":[["a"]]}"#, false);
        check("roles", text("a"), r#"{"roles":{"a":true}}"#, false);
        check("roles", text("A"), r#"{"roles":"a"}"#, false);
        check("https://x.test/a.b", text("a"), r#"{"https://x.test/a.b":"a"}"#, true);
        check("level", ClaimMatcher::Number(3), r#"{"level":3}"#, true);
        check("level", ClaimMatcher::Number(3), r#"{"level":[1,3]}"#, true);
        check("level", ClaimMatcher::Number(3), r#"{"level":"3"}"#, false);
        check("level", ClaimMatcher::Number(3), r#"{"level":3.5}"#, false);
        check("level", ClaimMatcher::Number(-3), r#"{"level":-3}"#, true);
        check("level", text("3"), r#"{"level":3}"#, false);
        check("admin", ClaimMatcher::Truth(true), r#"{"admin":true}"#, true);
        check("admin", ClaimMatcher::Truth(true), r#"{"admin":"true"}"#, false);
        check("admin", ClaimMatcher::Truth(true), r#"{"admin":1}"#, false);
        check("admin", ClaimMatcher::Truth(false), r#"{}"#, false);
        check("admin", ClaimMatcher::Truth(false), r#"{"admin":null}"#, false);
        check("ref", prefix("refs/tags/"), r#"{"ref":"refs/tags/v1"}"#, true);
        check("ref", prefix("refs/tags/"), r#"{"ref":["x","refs/tags/v1"]}"#, true);
        check("ref", prefix("refs/tags/"), r#"{"ref":"xrefs/tags/v1"}"#, false);
        check("ref", prefix("1"), r#"{"ref":12}"#, false);
        check("ip", cidr("10.0.0.0/8"), r#"{"ip":"10.200.3.4"}"#, true);
        check("ip", cidr("10.0.0.0/8"), r#"{"ip":["192.0.2.1","10.0.0.0"]}"#, true);
        check("ip", cidr("10.0.0.0/8"), r#"{"ip":"11.0.0.0"}"#, false);
        check("ip", cidr("10.0.0.0/8"), r#"{"ip":"10.0.0.0/16"}"#, false);
        check("ip", cidr("10.0.0.0/8"), r#"{"ip":"::ffff:10.1.2.3"}"#, true);
        check("ip", cidr("0.0.0.0/0"), r#"{"ip":"2001:db8::1"}"#, false);
        check("ip", cidr("2001:db8::/32"), r#"{"ip":"2001:DB8::1"}"#, true);
        check("ip", cidr("2001:db8::/32"), r#"{"ip":"2001:db9::1"}"#, false);
        check("ip", cidr("::/0"), r#"{"ip":"10.1.2.3"}"#, false);
        check("/realm/roles", text("a"), r#"{"realm":{"roles":["a"]}}"#, true);
        check("/realm/roles", text("a"), r#"{"realm/roles":"a","realm":{}}"#, false);
        check("/a~1b/c~0d", text("x"), r#"{"a/b":{"c~d":"x"}}"#, true);
        check("/a~01", text("x"), r#"{"a~1":"x"}"#, true);
        // through lists: a position, or each item's member
        check("/groups/1", text("b"), r#"{"groups":["a","b"]}"#, true);
        check("/groups/1", text("a"), r#"{"groups":["a","b"]}"#, false);
        check("/groups/01", text("b"), r#"{"groups":["a","b"]}"#, false);
        check("/groups/name", text("b"), r#"{"groups":[{"name":"a"},{"name":"b"}]}"#, true);
        check("/groups/name", text("b"), r#"{"groups":[{"id":"b"}]}"#, false);
        check("/groups/roles/name", text("r"), r#"{"groups":[{"roles":[{"name":"q"},{"name":"r"}]}]}"#, true);
        check("/groups/name", text("b"), r#"{"groups":[[{"name":"b"}]]}"#, false);
        check("/groups/name", text("b"), r#"{"groups":"name"}"#, false);
    }

    #[test]
    fn a_rule_that_another_covers_is_known() {
        let rule = |issuers: Option<&[&str]>, conditions: &[(&str, ClaimMatcher)]| RoleRule {
            role: "r".into(),
            issuers: issuers.map(|list| list.iter().map(|i| (*i).to_owned()).collect()),
            conditions: conditions.iter().map(|(claim, matcher)| condition(claim, matcher.clone())).collect(),
        };
        let check = |first: &RoleRule, second: &RoleRule, expected: bool| {
            assert_eq!(first.covers(second), expected, "{first:?} over {second:?}");
        };
        let any = |claim: &str, matcher: ClaimMatcher| rule(None, &[(claim, matcher)]);
        check(&any("c", text("a")), &any("c", text("a")), true);
        check(&any("c", text("a")), &rule(Some(&["x"]), &[("c", text("a"))]), true);
        check(&rule(Some(&["x"]), &[("c", text("a"))]), &any("c", text("a")), false);
        check(&rule(Some(&["x", "y"]), &[("c", text("a"))]), &rule(Some(&["y"]), &[("c", text("a"))]), true);
        check(&any("c", text("a")), &any("d", text("a")), false);
        check(&any("c", text("a")), &RoleRule { role: "other".into(), ..any("c", text("a")) }, false);
        check(&any("c", prefix("a/")), &any("c", prefix("a/b")), true);
        check(&any("c", prefix("a/b")), &any("c", prefix("a/")), false);
        check(&any("c", prefix("a/")), &any("c", text("a/b")), true);
        check(&any("c", cidr("10.0.0.0/8")), &any("c", cidr("10.1.0.0/16")), true);
        check(&any("c", cidr("10.1.0.0/16")), &any("c", cidr("10.0.0.0/8")), false);
        check(&any("c", cidr("10.0.0.0/8")), &any("c", text("10.1.2.3")), true);
        // who meets more meets less
        let both = rule(None, &[("c", text("a")), ("d", prefix("b"))]);
        check(&any("c", text("a")), &both, true);
        check(&both, &any("c", text("a")), false);
        check(&rule(None, &[("d", prefix("b")), ("c", text("a"))]), &both, true);
    }

    #[test]
    fn a_claim_is_shown_as_it_was_written() {
        for text in ["roles", "https://x.test/a", "/a/b", "/a~1b/c~0d", "/a~01"] {
            assert_eq!(ClaimPath::parse(text).to_string(), text);
        }
    }
}
