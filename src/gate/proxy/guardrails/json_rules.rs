//! Streaming check of a JSON body against the field rules of a predict guardrail. Pure.
//!
//! Promises: a field is found under every name by which Google reads it: in protobuf's JSON `maxOutputTokens` and
//! `max_output_tokens` are the same field. A body with a duplicate member is refused, because readers differ in which one
//! they take; so is a body that is not a JSON object. It never builds the document.

use std::{collections::HashSet, fmt};

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use crate::gate::{
    policy::{Pointer, PredictGuardrail},
    proxy::request_body::INSTANCE_MEMBERS,
};

/// The rule that a body violates.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RuleViolation {
    /// The body is not a JSON object, or has a duplicate member.
    Unreadable(String),
    /// This field is forbidden.
    Forbidden(Box<str>),
    /// This field is required.
    Missing(Box<str>),
    /// This field is greater than the maximum, or not a number.
    TooMuch(Box<str>, String),
    /// The body has this many instances.
    Instances(u64),
}

/// Checks a body against a guardrail.
pub(super) fn check(duty: &PredictGuardrail, body: &[u8]) -> Result<(), RuleViolation> {
    let rules = duty
        .forbid
        .iter()
        .map(|pointer| (pointer, FieldRule::Forbid))
        .chain(duty.max.iter().map(|(pointer, most)| (pointer, FieldRule::Max(most.as_f64().unwrap_or_default()))))
        .chain(duty.require.iter().map(|pointer| (pointer, FieldRule::Require)))
        .collect::<Vec<_>>();
    let mut check = RuleCheck { met: vec![false; rules.len()], rules, instances: 0, violation: None };
    let active = (0..check.rules.len()).map(|rule| (rule, 0)).collect();
    let mut reader = serde_json::Deserializer::from_slice(body);
    let read = CheckedValue { check: &mut check, active, depth: Depth::Top }
        .deserialize(&mut reader)
        .and_then(|_| reader.end());
    read.map_err(|error| RuleViolation::Unreadable(error.to_string()))?;
    if let Some(violation) = check.violation {
        return Err(violation);
    }
    if duty.max_instances.is_some_and(|most| check.instances > most) {
        return Err(RuleViolation::Instances(check.instances));
    }
    let missing = check.rules.iter().zip(&check.met).find(|((_, rule), met)| *rule == FieldRule::Require && !**met);
    missing.map_or(Ok(()), |((pointer, _), _)| Err(RuleViolation::Missing(pointer.text.clone())))
}

#[derive(Clone, Copy, PartialEq)]
enum FieldRule {
    Forbid,
    Max(f64),
    Require,
}

struct RuleCheck<'a> {
    rules: Vec<(&'a Pointer, FieldRule)>,
    /// The rules whose field was found.
    met: Vec<bool>,
    instances: u64,
    /// The first violation.
    violation: Option<RuleViolation>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Depth {
    Top,
    /// A member of the outermost object whose elements are instances.
    Counted,
    Elsewhere,
}

/// One value, and the rules whose path leads to it or below it, each with the number of segments already matched.
struct CheckedValue<'l, 'a> {
    check: &'l mut RuleCheck<'a>,
    active: Vec<(usize, usize)>,
    depth: Depth,
}

/// A value as rules see it.
enum Scalar<'v> {
    Null,
    Number(f64),
    Text(&'v str),
    Other,
}

impl CheckedValue<'_, '_> {
    /// The rules whose path continues in the member or element of this name.
    fn towards(&self, name: &str) -> Vec<(usize, usize)> {
        let leads = |&(rule, depth): &(usize, usize)| {
            let (pointer, kind) = self.check.rules.get(rule)?;
            let fits = match pointer.segments.get(depth)? {
                None => true,
                Some(segment) if *kind == FieldRule::Require => camel(segment) == camel(name),
                Some(segment) => squashed(segment) == squashed(name),
            };
            fits.then_some((rule, depth + 1))
        };
        self.active.iter().filter_map(leads).collect()
    }

    /// Whether this path of a `require` rule must lead through one member only: of two spellings a reader may take the other.
    fn is_required(&self, &(rule, depth): &(usize, usize)) -> bool {
        let Some((pointer, kind)) = self.check.rules.get(rule) else { return false };
        let segment = depth.checked_sub(1).and_then(|before| pointer.segments.get(before));
        *kind == FieldRule::Require && segment.is_some_and(Option::is_some)
    }

    /// Checks this value against the rules whose path ends here.
    fn arrive(&mut self, scalar: &Scalar<'_>) {
        for &(rule, depth) in &self.active {
            let Some((pointer, kind)) = self.check.rules.get(rule).copied() else { continue };
            if pointer.segments.len() != depth {
                continue;
            }
            let violation = match (kind, scalar) {
                (FieldRule::Forbid, _) => Some(RuleViolation::Forbidden(pointer.text.clone())),
                // null means absent
                (FieldRule::Max(_) | FieldRule::Require, Scalar::Null) => None,
                (FieldRule::Max(most), scalar) => {
                    // protobuf's JSON also reads numbers in quotes
                    let number = match scalar {
                        Scalar::Number(number) => Some(*number),
                        Scalar::Text(text) => text.parse().ok(),
                        _ => None,
                    };
                    let fits = number.is_some_and(|number| (0.0..=most).contains(&number));
                    (!fits).then(|| RuleViolation::TooMuch(pointer.text.clone(), most.to_string()))
                }
                (FieldRule::Require, _) => {
                    if let Some(met) = self.check.met.get_mut(rule) {
                        *met = true;
                    }
                    None
                }
            };
            if self.check.violation.is_none() {
                self.check.violation = violation;
            }
        }
    }

    fn scalar<E: Error>(mut self, scalar: &Scalar<'_>) -> Result<u64, E> {
        if self.depth == Depth::Top {
            return Err(E::custom("the body is not a JSON object"));
        }
        self.arrive(scalar);
        Ok(1)
    }
}

impl<'de> DeserializeSeed<'de> for CheckedValue<'_, '_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<u64, D::Error> {
        from.deserialize_any(self)
    }
}

/// Returns the number of instances of a value: a list's elements, else one.
impl<'de> Visitor<'de> for CheckedValue<'_, '_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> Result<u64, A::Error> {
        if self.depth == Depth::Top {
            return Err(A::Error::custom("the body is not a JSON object"));
        }
        self.arrive(&Scalar::Other);
        let mut count: u64 = 0;
        loop {
            let active = if self.active.is_empty() { Vec::new() } else { self.towards(&count.to_string()) };
            let element = CheckedValue { check: self.check, active, depth: Depth::Elsewhere };
            if sequence.next_element_seed(element)?.is_none() {
                return Ok(count);
            }
            count += 1;
        }
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<u64, A::Error> {
        self.arrive(&Scalar::Other);
        let mut names: HashSet<Box<str>> = HashSet::new();
        let mut led: Vec<(usize, usize)> = Vec::new();
        while let Some(name) = map.next_key::<Box<str>>()? {
            let counted = self.depth == Depth::Top && INSTANCE_MEMBERS.contains(&&*name);
            let depth = if counted { Depth::Counted } else { Depth::Elsewhere };
            let active = self.towards(&name);
            for way in active.iter().filter(|way| self.is_required(way)) {
                if led.contains(way) {
                    return Err(A::Error::custom("a required member occurs in two spellings"));
                }
                led.push(*way);
            }
            let count = map.next_value_seed(CheckedValue { check: self.check, active, depth })?;
            if counted {
                self.check.instances = self.check.instances.saturating_add(count);
            }
            if !names.insert(name) {
                return Err(A::Error::custom("an object has a duplicate member"));
            }
        }
        Ok(1)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<u64, E> {
        self.scalar(&Scalar::Text(text))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<u64, E> {
        self.scalar(&Scalar::Other)
    }

    #[allow(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
    fn visit_i64<E: Error>(self, number: i64) -> Result<u64, E> {
        self.scalar(&Scalar::Number(number as f64))
    }

    #[allow(clippy::cast_precision_loss, reason = "limits are far below 2^53")]
    fn visit_u64<E: Error>(self, number: u64) -> Result<u64, E> {
        self.scalar(&Scalar::Number(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<u64, E> {
        self.scalar(&Scalar::Number(number))
    }

    fn visit_unit<E: Error>(self) -> Result<u64, E> {
        self.scalar(&Scalar::Null)
    }
}

/// Protobuf's JSON name of a field: `_x` is `X`.
fn camel(name: &str) -> String {
    let mut camel = String::with_capacity(name.len());
    let mut raised = false;
    for c in name.chars() {
        match c {
            '_' => raised = true,
            c if raised => {
                camel.push(c.to_ascii_uppercase());
                raised = false;
            }
            c => camel.push(c),
        }
    }
    camel
}

/// A form that equates more spellings than any reader does: forbidden fields are found in every spelling.
fn squashed(name: &str) -> String {
    name.chars().filter(|c| *c != '_').map(|c| c.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duty(require: &[&str], forbid: &[&str], max: &[(&str, i64)], max_instances: Option<u64>) -> PredictGuardrail {
        let pointers = |texts: &[&str]| texts.iter().map(|text| Pointer::parse(text).unwrap()).collect();
        let max = max.iter().map(|(text, most)| (Pointer::parse(text).unwrap(), (*most).into())).collect();
        PredictGuardrail { max_instances, max_bytes: None, require: pointers(require), forbid: pointers(forbid), max }
    }

    #[track_caller]
    fn check(duty: &PredictGuardrail, body: &str, expected: Result<(), RuleViolation>) {
        assert_eq!(super::check(duty, body.as_bytes()), expected, "{body}");
    }

    #[test]
    fn a_forbidden_field_is_found_in_every_spelling_and_place() {
        let tools = duty(&[], &["/tools"], &[], None);
        let violation = || Err(RuleViolation::Forbidden("/tools".into()));
        check(&tools, r#"{"contents":[{"tools":1}],"other":{"tools":1}}"#, Ok(()));
        for body in
            [r#"{"tools":[]}"#, r#"{"tools":null}"#, r#"{"t\u006fols":1}"#, r#"{"to_ols":1}"#, r#"{"a":1,"Tools":1}"#]
        {
            check(&tools, body, violation());
        }
        let deep = duty(&[], &["/contents/*/parts/*/fileData"], &[], None);
        check(&deep, r#"{"contents":[{"parts":[{"text":"x"}]}]}"#, Ok(()));
        let violation = Err(RuleViolation::Forbidden("/contents/*/parts/*/fileData".into()));
        check(&deep, r#"{"contents":[{"parts":[{}]},{"parts":[{"text":"x"},{"file_data":{}}]}]}"#, violation);
    }

    #[test]
    fn a_number_is_no_larger_than_it_may_be_however_it_is_written() {
        let tokens = duty(&[], &[], &[("/generationConfig/maxOutputTokens", 100)], None);
        let body = |value: &str| format!(r#"{{"generationConfig":{{"maxOutputTokens":{value}}}}}"#);
        for fits in ["100", "0", "1e2", "\"100\"", "99.5", "null"] {
            check(&tokens, &body(fits), Ok(()));
        }
        check(&tokens, "{}", Ok(()));
        let violation = || Err(RuleViolation::TooMuch("/generationConfig/maxOutputTokens".into(), "100".into()));
        for not in ["101", "-1", "1e99", "\"101\"", "\"many\"", "[]", "{}", "true", "\"NaN\"", "\"inf\""] {
            check(&tokens, &body(not), violation());
        }
        check(&tokens, r#"{"generation_config":{"max_output_tokens":101}}"#, violation());
        check(&tokens, r#"{"generationConfig":{"maxOutputTokens":1,"max_output_tokens":101}}"#, violation());
    }

    #[test]
    fn a_required_field_is_there_with_a_value() {
        let seed = duty(&["/parameters/seedValue"], &[], &[], None);
        let missing = || Err(RuleViolation::Missing("/parameters/seedValue".into()));
        check(&seed, r#"{"parameters":{"seedValue":0}}"#, Ok(()));
        check(&seed, r#"{"parameters":{"seed_value":{}}}"#, Ok(()));
        for body in
            ["{}", r#"{"parameters":{"seedValue":null}}"#, r#"{"parameters":{"seedvalue":1}}"#, r#"{"seedValue":1}"#]
        {
            check(&seed, body, missing());
        }
    }

    #[test]
    fn instances_are_counted_wherever_google_takes_them_from() {
        let two = duty(&[], &[], &[], Some(2));
        check(&two, r#"{"instances":[{"instances":[1,2,3]},2]}"#, Ok(()));
        check(&two, r#"{"contents":[1,2,3]}"#, Ok(()));
        check(&two, r#"{"instances":[1,2,3]}"#, Err(RuleViolation::Instances(3)));
        check(&two, r#"{"instances":[1],"inputs":[1,2]}"#, Err(RuleViolation::Instances(3)));
        check(&duty(&[], &[], &[], Some(0)), r#"{"instances":"x"}"#, Err(RuleViolation::Instances(1)));
    }

    #[test]
    fn a_body_with_two_readings_is_refused() {
        let tools = duty(&[], &["/tools"], &[], Some(9));
        for body in [
            r#"{"a":1,"a":2}"#,
            r#"{"a":{"b":1,"\u0062":2}}"#,
            r#"[{"tools":1}]"#,
            "\"text\"",
            "{} {}",
            "{\"a\":1,}",
            "",
            "{\"a\":\"\u{0}\"}",
        ] {
            let found = super::check(&tools, body.as_bytes());
            assert!(matches!(found, Err(RuleViolation::Unreadable(_))), "{body}: {found:?}");
        }
        assert!(matches!(super::check(&tools, b"{\"a\":\"\xff\"}"), Err(RuleViolation::Unreadable(_))));
        let tokens = duty(&["/generationConfig/maxOutputTokens"], &[], &[], None);
        let twice = r#"{"generationConfig":{"maxOutputTokens":1},"generation_config":{}}"#;
        let found = super::check(&tokens, twice.as_bytes());
        assert!(matches!(found, Err(RuleViolation::Unreadable(_))), "{found:?}");
        check(&tokens, r#"{"generationConfig":{"maxOutputTokens":1,"a_b":1,"aB":2},"x":{},"X":{}}"#, Ok(()));
    }
}
