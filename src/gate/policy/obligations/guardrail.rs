//! What a permit can oblige the gate to: guardrails on what passes, by name. Pure.
//!
//! Promises: a guardrail says what it does, never to whom: that is the permit's. Each kind is about actions of its own,
//! and several of one kind hold together, so that the stricter wins. What they are held to is in `proxy/guard` and
//! `ingest`.

use std::{borrow::Cow, fmt, sync::Arc};

use serde_json::{Number, Value};

use crate::{principal::Principal, series::NamePattern};

/// One guardrail of `guardrails.toml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obligation {
    /// Its name, as `@oblige` says it.
    pub name: Arc<str>,
    /// What it asks for.
    pub guardrail: Guardrail,
}

/// What a guardrail is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guardrail {
    /// Pages of metrics on their way to the caller.
    Scrape(ScrapeGuardrail),
    /// Series on their way from the caller.
    Write(WriteGuardrail),
    /// Questions to models.
    Predict(PredictGuardrail),
}

/// The kinds of guardrails: each concerns other actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::gate::policy) enum GuardrailKind {
    Scrape,
    Write,
    Predict,
}

impl GuardrailKind {
    /// The section of `guardrails.toml`, and what it acts on.
    pub(in crate::gate::policy) fn description(self) -> (&'static str, &'static str) {
        match self {
            Self::Scrape => ("scrape", "`Exporter.Scrape` and `Predictions.Scrape`"),
            Self::Write => ("write", "`RemoteWrite.Write`"),
            Self::Predict => ("predict", "the actions in `infer`"),
        }
    }
}

impl Guardrail {
    pub(in crate::gate::policy) fn kind(&self) -> GuardrailKind {
        match self {
            Self::Scrape(_) => GuardrailKind::Scrape,
            Self::Write(_) => GuardrailKind::Write,
            Self::Predict(_) => GuardrailKind::Predict,
        }
    }
}

/// What a caller sees of a page of metrics. Names are as [`plain_name`] makes them, except those that are shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrapeGuardrail {
    /// The only families that are shown; `None` for all.
    pub show: Option<Vec<NamePattern>>,
    /// Families that are left out.
    pub hide: Vec<NamePattern>,
    /// Labels that are taken away.
    pub drop_labels: Vec<Box<str>>,
    /// Labels whose values are replaced.
    pub mask_labels: Vec<Box<str>>,
    /// Series that are left out: those with this label and value.
    pub hide_series: Vec<(Box<str>, Box<str>)>,
    /// What masks are made with; there where a label is masked.
    pub mask: Option<MaskKey>,
}

/// What masked values are derived with. Who has it can find out by trying which value a mask stands for.
#[derive(Clone, PartialEq, Eq)]
pub struct MaskKey([u8; blake3::KEY_LEN]);

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MaskKey(..)")
    }
}

impl MaskKey {
    /// Fewest bytes of a secret.
    pub const MIN_BYTES: usize = 32;

    /// A key from a secret; white space around it is not part of it. `None` where it is shorter than
    /// [`Self::MIN_BYTES`].
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        let secret = secret.trim_ascii();
        let long_enough = secret.len() >= Self::MIN_BYTES;
        long_enough.then(|| Self(blake3::derive_key("wicketgate 2026-11 guardrails: masked labels", secret)))
    }

    /// What stands for a label's value: 16 hexadecimal digits, the same for the same label and value.
    #[must_use]
    pub fn mask(&self, label: &str, value: &str) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        // no name holds a zero byte that ends it early: its length comes first
        hasher.update(&(label.len() as u64).to_le_bytes()).update(label.as_bytes()).update(value.as_bytes());
        hasher.finalize().to_hex().chars().take(16).collect()
    }
}

/// A name as exporters spell it for readers that know only the classic names: what is no letter, digit, `_` or `:`
/// becomes `_` (Prometheus, `escaping=underscores`). A reader chooses the spelling, so guardrails compare this one.
#[must_use]
pub(crate) fn plain_name(name: &str) -> Cow<'_, str> {
    let fits =
        |(at, c): (usize, char)| c.is_ascii_alphabetic() || matches!(c, '_' | ':') || (at > 0 && c.is_ascii_digit());
    if name.char_indices().all(fits) {
        return Cow::Borrowed(name);
    }
    name.char_indices().map(|(at, c)| if fits((at, c)) { c } else { '_' }).collect()
}

/// What a caller's series must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteGuardrail {
    /// Labels that are set.
    pub force: Vec<(Box<str>, Template)>,
    /// Labels that the caller may not write.
    pub refuse_labels: Vec<Box<str>>,
    /// The only metrics that it may write; `None` for all.
    pub allow_metrics: Option<Vec<NamePattern>>,
    /// Metrics that it may not write.
    pub refuse_metrics: Vec<NamePattern>,
}

/// A label's value with places for what is known of the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<TemplatePart>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplatePart {
    Text(Box<str>),
    Principal,
    Issuer,
    Subject,
    /// A claim's name, or a JSON pointer.
    Claim(Box<str>),
}

/// Why a template's text is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// A place for something else.
    #[error("`{{{0}}}` is not known; there are `{{principal}}`, `{{issuer}}`, `{{subject}}` and `{{claim:/team}}`")]
    Unknown(String),
    /// A brace without its other one.
    #[error("a brace stands alone in `{0}`")]
    Alone(String),
    /// No text.
    #[error("an empty value is the same as no label")]
    Empty,
}

impl Template {
    /// Reads a value such as `team-{claim:/team}`.
    ///
    /// # Errors
    /// When it is empty, holds a place that is not known, or a brace that stands alone.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (place, behind) = after.split_once('}').ok_or_else(|| TemplateError::Alone(text.to_owned()))?;
            parts.push(TemplatePart::Text(before.into()));
            parts.push(match place {
                "principal" => TemplatePart::Principal,
                "issuer" => TemplatePart::Issuer,
                "subject" => TemplatePart::Subject,
                _ => match place.strip_prefix("claim:").filter(|claim| !matches!(*claim, "" | "/")) {
                    Some(claim) => TemplatePart::Claim(claim.into()),
                    None => return Err(TemplateError::Unknown(place.to_owned())),
                },
            });
            rest = behind;
        }
        parts.push(TemplatePart::Text(rest.into()));
        parts.retain(|part| !matches!(part, TemplatePart::Text(text) if text.is_empty()));
        match parts.iter().any(|part| matches!(part, TemplatePart::Text(text) if text.contains('}'))) {
            true => Err(TemplateError::Alone(text.to_owned())),
            false if parts.is_empty() => Err(TemplateError::Empty),
            false => Ok(Self(parts)),
        }
    }

    /// The value for this principal; `None` where a claim is missing, empty, or no string, number or boolean: then
    /// nobody can say what the value should be.
    #[must_use]
    pub fn fill(&self, principal: &Principal) -> Option<String> {
        let mut value = String::new();
        for part in &self.0 {
            match part {
                TemplatePart::Text(text) => value.push_str(text),
                TemplatePart::Principal => value.push_str(&principal.name),
                TemplatePart::Issuer => value.push_str(&principal.issuer),
                TemplatePart::Subject => value.push_str(&principal.subject),
                TemplatePart::Claim(claim) => value.push_str(&claim_text(principal, claim)?),
            }
        }
        Some(value).filter(|value| !value.is_empty())
    }
}

fn claim_text(principal: &Principal, claim: &str) -> Option<String> {
    let claims: Value = serde_json::from_str(&principal.claims).ok()?;
    let found = if claim.starts_with('/') { claims.pointer(claim) } else { claims.get(claim) };
    match found? {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}

/// What a question to a model may be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PredictGuardrail {
    /// Most instances in one question.
    pub max_instances: Option<u64>,
    /// Most bytes of its body.
    pub max_bytes: Option<u64>,
    /// Fields that must be there.
    pub require: Vec<Pointer>,
    /// Fields that must not be there.
    pub forbid: Vec<Pointer>,
    /// Fields whose number may be no larger.
    pub max: Vec<(Pointer, Number)>,
}

/// A place in a JSON document: a JSON pointer (RFC 6901) in which `*` stands for every element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// As it was written.
    pub text: Box<str>,
    /// Its segments, `None` for `*`.
    pub segments: Vec<Option<Box<str>>>,
}

impl Pointer {
    /// Reads a pointer such as `/generationConfig/maxOutputTokens` or `/contents/*/parts`; `None` where it is none, or
    /// points at the whole document.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let below = text.strip_prefix('/')?;
        let segment = |segment: &str| {
            // RFC 6901 section 4: `~1` first, then `~0`
            (segment != "*").then(|| segment.replace("~1", "/").replace("~0", "~").into_boxed_str())
        };
        let segments: Vec<_> = below.split('/').map(segment).collect();
        let named = segments.iter().all(|segment| segment.as_ref().is_none_or(|name| !name.is_empty()));
        named.then(|| Self { text: text.into(), segments })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_with_what_was_proved_or_not_at_all() {
        let principal = Principal::test("corp", r#"{"team":"a","n":7,"deep":{"x":"y"},"list":["z"],"empty":""}"#);
        let check = |text: &str, expected: Option<&str>| {
            let found = Template::parse(text).unwrap().fill(&principal);
            assert_eq!(found.as_deref(), expected, "{text}");
        };
        check("fixed", Some("fixed"));
        check("{principal}", Some("corp:s"));
        check("{issuer}/{subject}", Some("corp/s"));
        check("team-{claim:team}", Some("team-a"));
        check("{claim:/deep/x}-{claim:n}", Some("y-7"));
        check("x{claim:/missing}", None);
        check("x{claim:list}", None);
        check("x{claim:empty}", None);
    }

    #[test]
    fn a_template_that_is_not_understood_is_none() {
        let refused = |text: &str| Template::parse(text).unwrap_err();
        assert_eq!(refused(""), TemplateError::Empty);
        assert_eq!(refused("{user}"), TemplateError::Unknown("user".into()));
        assert_eq!(refused("{claim:}"), TemplateError::Unknown("claim:".into()));
        assert_eq!(refused("{principal"), TemplateError::Alone("{principal".into()));
        assert_eq!(refused("a}b"), TemplateError::Alone("a}b".into()));
    }

    #[test]
    fn names_are_compared_in_their_plain_spelling() {
        for (name, plain) in
            [("go_info", "go_info"), ("http.requests", "http_requests"), ("1a", "_a"), ("a1:b", "a1:b"), ("ä", "_")]
        {
            assert_eq!(plain_name(name), plain);
        }
    }

    #[test]
    fn a_mask_is_the_same_for_the_same_value_and_another_for_any_other() {
        let key = |secret: &[u8]| MaskKey::new(secret).unwrap();
        let a = key(&[1; 32]);
        let b = key(&[2; 32]);
        assert_eq!(a.mask("user", "ada"), a.mask("user", "ada"));
        assert_eq!(a.mask("user", "ada").len(), 16);
        for other in [a.mask("user", "bob"), a.mask("owner", "ada"), b.mask("user", "ada"), a.mask("use", "rada")] {
            assert_ne!(a.mask("user", "ada"), other);
        }
        assert!(MaskKey::new(&[1; 31]).is_none());
        assert_eq!(format!("{a:?}"), "MaskKey(..)");
    }

    #[test]
    fn a_pointer_points_into_the_document() {
        let segments = |text: &str| Pointer::parse(text).map(|pointer| pointer.segments);
        assert_eq!(segments("/a/*/b~1c"), Some(vec![Some("a".into()), None, Some("b/c".into())]));
        for none in ["", "/", "a", "/a//b"] {
            assert_eq!(segments(none), None, "{none}");
        }
    }
}
