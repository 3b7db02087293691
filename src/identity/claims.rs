//! What is said of a token: by itself, where it is a signed JWT, or by its issuer, where that was asked (RFC 7662).
//!
//! Promises: a member that stands twice is refused, since two readers could disagree on it; so is an object of very
//! many members, of very deep nesting, or that is not UTF-8 (RFC 8725 section 3.7). A claim of the wrong type is
//! refused, not converted. Pure: no I/O, no clock. Never: a claim compared otherwise than byte by byte.

use std::{borrow::Cow, fmt, time::Duration};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{
    confirmation::Cnf,
    jwt::{Rules, TokenError},
};
use crate::clock::{self, Timestamp};

/// Most members of a header or a claims set. Each is compared with those before it, before any signature is looked at.
pub(super) const MAX_MEMBERS: usize = 128;
/// Most objects and lists within each other. What reads claims later stops at 128.
const MAX_DEPTH: usize = 32;
/// Longest subject in bytes. OpenID Connect Core section 2 stops at 255; Kubernetes' service accounts need more.
const MAX_SUBJECT: usize = 1024;

/// The claims that decisions are made on. The rest stays in the text.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) iss: Option<String>,
    pub(super) sub: Option<String>,
    pub(super) aud: Option<Vec<String>>,
    pub(super) exp: Option<f64>,
    pub(super) nbf: Option<f64>,
    pub(super) iat: Option<f64>,
    pub(super) cnf: Cnf,
    /// Whether there are `events`: it is a security event token (RFC 8417), such as a logout token.
    pub(super) is_event: bool,
    /// Of an introspection's answer only.
    pub(super) active: Option<bool>,
    /// Of an introspection's answer only.
    pub(super) token_type: Option<String>,
}

impl Claims {
    /// Reads a claims set.
    ///
    /// # Errors
    /// When it is not one JSON object with each member once and each claim of its type.
    pub(super) fn read(text: &str) -> Result<Self, TokenError> {
        if is_too_deep(text) {
            return Err(TokenError::Claims);
        }
        serde_json::from_str(text)
            .map_err(|e| if stands_twice(&e) { TokenError::Duplicate } else { TokenError::Claims })
    }

    /// Whether one of the issuer's audiences is meant (RFC 7519 section 4.1.3, RFC 8725 section 3.9, RFC 9700 section
    /// 2.3).
    pub(super) fn is_for(&self, audiences: &[String]) -> bool {
        self.aud.iter().flatten().any(|aud| audiences.iter().any(|ours| ours == aud))
    }

    /// When it was issued, as it says; unverified as long as the token is.
    pub(super) fn issued_at(&self) -> Option<Timestamp> {
        self.iat.and_then(instant)
    }

    /// Checks `exp`, `nbf` and `iat` against `now`; gives `exp`, where there is one.
    ///
    /// # Errors
    /// When it has expired, is not valid yet, was issued in the future, or one of them is no date.
    pub(super) fn timely(&self, leeway: Duration, now: Timestamp) -> Result<Option<Timestamp>, TokenError> {
        let date = |seconds: Option<f64>| seconds.map(|s| instant(s).ok_or(TokenError::Claims)).transpose();
        let (exp, nbf, iat) = (date(self.exp)?, date(self.nbf)?, date(self.iat)?);
        // RFC 7519 section 4.1.4: not on or after `exp`
        if exp.is_some_and(|exp| clock::after(exp, leeway) <= now) {
            return Err(TokenError::Expired);
        }
        // section 4.1.5; and what was issued in the future (section 4.1.6) was dated by a clock that nobody can go by
        let future = |at: Option<Timestamp>| at.is_some_and(|at| at > clock::after(now, leeway));
        if future(nbf) || future(iat) {
            return Err(TokenError::NotYet);
        }
        Ok(exp)
    }
}

/// A subject that a log can hold and a policy can name.
///
/// # Errors
/// When it is missing, empty, very long, or holds a control character.
pub(super) fn subject(subject: Option<String>) -> Result<String, TokenError> {
    let subject = subject.filter(|s| !s.is_empty()).ok_or(TokenError::Claims)?;
    let strange = subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control);
    if strange { Err(TokenError::Subject) } else { Ok(subject) }
}

/// Checks the claims that the issuer's section requires: exact values, or only that they are there.
///
/// # Errors
/// When one is missing or has another value; a list that holds the value is another value.
pub(super) fn required(text: &str, rules: &Rules) -> Result<(), TokenError> {
    if rules.required.is_empty() {
        return Ok(());
    }
    let claims: serde_json::Value = serde_json::from_str(text).map_err(|_| TokenError::Claims)?;
    let holds = |(name, wanted): &(String, Option<serde_json::Value>)| match (claims.get(name), wanted) {
        (None | Some(serde_json::Value::Null), _) => false,
        (Some(_), None) => true,
        (Some(found), Some(wanted)) => found == wanted,
    };
    if rules.required.iter().all(holds) { Ok(()) } else { Err(TokenError::RequiredClaim) }
}

/// A NumericDate (RFC 7519 section 2): seconds since 1970, perhaps with a fraction.
pub(super) fn instant(seconds: f64) -> Option<Timestamp> {
    #[allow(clippy::cast_possible_truncation, reason = "the range is checked first")]
    (seconds.is_finite() && (0.0..253_402_300_800.0).contains(&seconds))
        .then(|| Timestamp::from_second(seconds as i64).ok())
        .flatten()
}

const TWICE: &str = "a member stands twice";

/// Whether reading ended because a member stands twice.
pub(super) fn stands_twice(error: &serde_json::Error) -> bool {
    error.to_string().starts_with(TWICE)
}

/// Whether objects and lists are nested deeper than any issuer nests them. Looks at brackets alone: what is not JSON is
/// refused by whoever reads it.
pub(super) fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'{' | b'[' if !quoted => depth += 1,
            b'}' | b']' if !quoted => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// Reads a JSON object member by member: each name at most once, and no more than anybody needs.
pub(super) fn members<'de, A: MapAccess<'de>>(
    map: &mut A,
    mut member: impl FnMut(&str, &mut A) -> Result<bool, A::Error>,
) -> Result<(), A::Error> {
    let mut seen: Vec<Text<'de>> = Vec::with_capacity(16);
    while let Some(name) = map.next_key::<Text<'de>>()? {
        if seen.iter().any(|other| other.0 == name.0) {
            return Err(serde::de::Error::custom(TWICE));
        }
        if seen.len() == MAX_MEMBERS {
            return Err(serde::de::Error::custom("there are too many members"));
        }
        if !member(&name.0, map)? {
            // read whole: what is only skipped may hold a broken escape or an endless number, which whoever reads the
            // claims later would stop at
            map.next_value::<serde_json::Value>()?;
        }
        seen.push(name);
    }
    Ok(())
}

/// A string, borrowed where it has no escapes.
pub(super) struct Text<'a>(pub(super) Cow<'a, str>);

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        from.deserialize_str(Borrow)
    }
}

/// `aud`: one string or a list of strings (RFC 7519 section 4.1.3).
struct Audience(Vec<String>);

impl<'de> Deserialize<'de> for Audience {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Audience;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E>(self, text: &str) -> Result<Audience, E> {
                Ok(Audience(vec![text.to_owned()]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Audience, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = seq.next_element()? {
                    all.push(text);
                }
                Ok(Audience(all))
            }
        }
        from.deserialize_any(OneOrMany)
    }
}

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Claims;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a claims set")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Claims, A::Error> {
                let mut claims = Claims::default();
                members(&mut map, |name, map| {
                    match name {
                        "iss" => claims.iss = Some(map.next_value()?),
                        "sub" => claims.sub = Some(map.next_value()?),
                        "aud" => claims.aud = Some(map.next_value::<Audience>()?.0),
                        "exp" => claims.exp = Some(map.next_value()?),
                        "nbf" => claims.nbf = Some(map.next_value()?),
                        "iat" => claims.iat = Some(map.next_value()?),
                        "cnf" => claims.cnf = map.next_value()?,
                        "events" => {
                            claims.is_event = true;
                            // its value is read as any other's is
                            return Ok(false);
                        }
                        "active" => claims.active = Some(map.next_value()?),
                        "token_type" => claims.token_type = Some(map.next_value()?),
                        _ => return Ok(false),
                    }
                    Ok(true)
                })?;
                Ok(claims)
            }
        }
        from.deserialize_map(Members)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules(required: &[(&str, Option<serde_json::Value>)]) -> Rules {
        let required = required.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Rules { required, ..Rules::default() }
    }

    #[test]
    fn a_required_claim_is_compared_exactly() {
        let check = |required: &[(&str, Option<serde_json::Value>)], text: &str, expected: bool| {
            assert_eq!(super::required(text, &rules(required)).is_ok(), expected, "{required:?} of {text}");
        };
        let tenant = [("tid", Some(json!("t-1")))];
        check(&tenant, r#"{"tid":"t-1"}"#, true);
        check(&tenant, r#"{"tid":"t-1 "}"#, false);
        check(&tenant, r#"{"tid":["t-1"]}"#, false);
        check(&tenant, r#"{"TID":"t-1"}"#, false);
        check(&tenant, r#"{"a":{"tid":"t-1"}}"#, false);
        check(&[("email_verified", Some(json!(true)))], r#"{"email_verified":true}"#, true);
        check(&[("email_verified", Some(json!(true)))], r#"{"email_verified":"true"}"#, false);
        check(&[("jti", None)], r#"{"jti":7}"#, true);
        check(&[("jti", None)], r#"{"jti":null}"#, false);
        check(&[("jti", None), ("client_id", None)], r#"{"jti":"a"}"#, false);
        check(&[], "{}", true);
    }

    #[test]
    fn brackets_within_strings_are_no_depth() {
        let nested = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert!(!is_too_deep(&nested(MAX_DEPTH - 1)) && is_too_deep(&nested(MAX_DEPTH)));
        assert!(!is_too_deep(&format!("{{\"a\":\"{}\\\"{}\"}}", "[".repeat(99), "{".repeat(99))));
    }

    #[test]
    fn dates_are_checked_with_leeway_on_both_sides() {
        let check = |claims: &str, expected: Result<Option<i64>, TokenError>| {
            let found =
                Claims::read(claims).unwrap().timely(Duration::from_secs(60), Timestamp::from_second(1000).unwrap());
            assert_eq!(found.map(|at| at.map(Timestamp::as_second)), expected, "{claims}");
        };
        check(r#"{"exp":941}"#, Ok(Some(941)));
        check(r#"{"exp":940}"#, Err(TokenError::Expired));
        check(r#"{"exp":941.9,"nbf":1060,"iat":1060}"#, Ok(Some(941)));
        check(r#"{"nbf":1061}"#, Err(TokenError::NotYet));
        check(r#"{"iat":1061}"#, Err(TokenError::NotYet));
        check(r#"{"exp":-1}"#, Err(TokenError::Claims));
        check(r#"{"exp":1e18}"#, Err(TokenError::Claims));
        check("{}", Ok(None));
    }
}
