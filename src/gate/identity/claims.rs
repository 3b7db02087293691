//! Claims of a token, from a JWT or from an introspection response (RFC 7662).
//!
//! Promises: a claim of the wrong type is refused, not converted; a duplicate member refuses the claims set
//! (`strict_json`). Claims are compared byte by byte. Pure: no I/O, no clock.

use std::{fmt, time::Duration};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};

use super::{
    confirmation::Cnf,
    rules::{Rules, TokenError},
    strict_json::{self, Object, is_duplicate_member, is_too_deep},
};
use crate::clock::{self, Timestamp};

/// Longest subject in bytes. OpenID Connect Core section 2 stops at 255; Kubernetes' service accounts need more.
const MAX_SUBJECT: usize = 1024;

/// The claims that are checked here. The others stay in the text.
#[derive(Debug, Default)]
pub(super) struct Claims {
    pub(super) iss: Option<String>,
    pub(super) sub: Option<String>,
    pub(super) aud: Option<Vec<String>>,
    pub(super) exp: Option<f64>,
    pub(super) nbf: Option<f64>,
    pub(super) iat: Option<f64>,
    pub(super) cnf: Cnf,
    /// Whether `events` is present: the token is a security event token (RFC 8417), such as a logout token.
    pub(super) is_event: bool,
    /// Only in an introspection response.
    pub(super) active: Option<bool>,
    /// Only in an introspection response.
    pub(super) token_type: Option<String>,
}

impl Claims {
    /// Parses a claims set.
    ///
    /// # Errors
    /// If it is not one JSON object with each member once and each claim of its type.
    pub(super) fn read(text: &str) -> Result<Self, TokenError> {
        if is_too_deep(text) {
            return Err(TokenError::Claims);
        }
        strict_json::read(text)
            .map_err(|e| if is_duplicate_member(&e) { TokenError::Duplicate } else { TokenError::Claims })
    }

    /// Whether `aud` contains one of the issuer's audiences (RFC 7519 section 4.1.3, RFC 8725 section 3.9, RFC 9700 section
    /// 2.3).
    pub(super) fn is_for(&self, audiences: &[String]) -> bool {
        self.aud.iter().flatten().any(|aud| audiences.iter().any(|ours| ours == aud))
    }

    /// `iat`; unverified if the token is.
    pub(super) fn issued_at(&self) -> Option<Timestamp> {
        self.iat.and_then(numeric_date)
    }

    /// Checks `exp`, `nbf` and `iat` against `now`. Returns `exp`, if present.
    ///
    /// # Errors
    /// If the token has expired, is not valid yet, was issued in the future, or one of the claims is not a date.
    pub(super) fn check_times(&self, leeway: Duration, now: Timestamp) -> Result<Option<Timestamp>, TokenError> {
        let date = |seconds: Option<f64>| seconds.map(|s| numeric_date(s).ok_or(TokenError::Claims)).transpose();
        let exp = date(self.exp)?;
        let nbf = date(self.nbf)?;
        let iat = date(self.iat)?;
        // RFC 7519 section 4.1.4: not on or after `exp`
        if exp.is_some_and(|exp| clock::after(exp, leeway) <= now) {
            return Err(TokenError::Expired);
        }
        // section 4.1.5; an `iat` in the future (section 4.1.6) comes from an unreliable clock
        let future = |at: Option<Timestamp>| at.is_some_and(|at| at > clock::after(now, leeway));
        if future(nbf) || future(iat) {
            return Err(TokenError::NotYetValid);
        }
        Ok(exp)
    }
}

/// Checks that a subject is safe in a log and in a policy.
///
/// # Errors
/// If it is missing, empty, longer than [`MAX_SUBJECT`], or contains a control character.
pub(super) fn check_subject(subject: Option<String>) -> Result<String, TokenError> {
    let subject = subject.filter(|s| !s.is_empty()).ok_or(TokenError::Claims)?;
    let invalid = subject.len() > MAX_SUBJECT || subject.chars().any(char::is_control);
    if invalid { Err(TokenError::Subject) } else { Ok(subject) }
}

/// Checks the claims that the issuer's section requires: exact values, or only that they are there.
///
/// # Errors
/// When one is missing or has another value; a list that holds the value is another value.
pub(super) fn check_required_claims(text: &str, rules: &Rules) -> Result<(), TokenError> {
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
pub(super) fn numeric_date(seconds: f64) -> Option<Timestamp> {
    #[allow(clippy::cast_possible_truncation, reason = "the range is checked first")]
    (seconds.is_finite() && (0.0..253_402_300_800.0).contains(&seconds))
        .then(|| Timestamp::from_second(seconds as i64).ok())
        .flatten()
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

impl<'de> Object<'de> for Claims {
    const NAME: &'static str = "a claims set";

    fn member<A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<bool, A::Error> {
        match name {
            "iss" => self.iss = Some(map.next_value()?),
            "sub" => self.sub = Some(map.next_value()?),
            "aud" => self.aud = Some(map.next_value::<Audience>()?.0),
            "exp" => self.exp = Some(map.next_value()?),
            "nbf" => self.nbf = Some(map.next_value()?),
            "iat" => self.iat = Some(map.next_value()?),
            "cnf" => self.cnf = map.next_value()?,
            "events" => {
                self.is_event = true;
                // its value is read as any other's is
                return Ok(false);
            }
            "active" => self.active = Some(map.next_value()?),
            "token_type" => self.token_type = Some(map.next_value()?),
            _ => return Ok(false),
        }
        Ok(true)
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
            assert_eq!(check_required_claims(text, &rules(required)).is_ok(), expected, "{required:?} of {text}");
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
    fn dates_are_checked_with_leeway_on_both_sides() {
        let check = |claims: &str, expected: Result<Option<i64>, TokenError>| {
            let found = Claims::read(claims)
                .unwrap()
                .check_times(Duration::from_secs(60), Timestamp::from_second(1000).unwrap());
            assert_eq!(found.map(|at| at.map(Timestamp::as_second)), expected, "{claims}");
        };
        check(r#"{"exp":941}"#, Ok(Some(941)));
        check(r#"{"exp":940}"#, Err(TokenError::Expired));
        check(r#"{"exp":941.9,"nbf":1060,"iat":1060}"#, Ok(Some(941)));
        check(r#"{"nbf":1061}"#, Err(TokenError::NotYetValid));
        check(r#"{"iat":1061}"#, Err(TokenError::NotYetValid));
        check(r#"{"exp":-1}"#, Err(TokenError::Claims));
        check(r#"{"exp":1e18}"#, Err(TokenError::Claims));
        check("{}", Ok(None));
    }
}
