//! One line of the Prometheus text formats (0.0.4, 1.0.0 and OpenMetrics 1.0) with the positions of its parts. Pure.
//!
//! Promises: every part is a slice of the line, so that an unchanged part is passed on byte for byte. A line that has two
//! readings is an error. Quoted names (`{"my.metric", "a.b"="c"}`) are read too.

use std::borrow::Cow;

use super::tokenizer::{self, BLANKS, LabelTokens, SyntaxError, Text};

/// A line, without its end.
#[derive(Debug, PartialEq)]
pub(crate) enum Line<'a> {
    Blank,
    /// `# EOF`.
    Eof,
    /// `# HELP`, `# TYPE` or `# UNIT` of a family, and the text after the family's name.
    Meta {
        keyword: &'a str,
        family: Cow<'a, str>,
        text: &'a str,
    },
    /// Any other comment.
    Comment,
    Sample(Sample<'a>),
}

/// One sample.
#[derive(Debug, PartialEq)]
pub(crate) struct Sample<'a> {
    pub(crate) name: Cow<'a, str>,
    /// The name as it is written, and whether that is inside the braces.
    pub(crate) written: &'a str,
    pub(crate) inside: bool,
    pub(crate) labels: Vec<Label<'a>>,
    /// Value and timestamp, with the space before them.
    pub(crate) value: &'a str,
    pub(crate) exemplar: Option<Exemplar<'a>>,
}

/// An exemplar: what follows a `#` at the end of a sample.
#[derive(Debug, PartialEq)]
pub(crate) struct Exemplar<'a> {
    pub(crate) labels: Vec<Label<'a>>,
    /// The exemplar as it is written, including `#`.
    pub(crate) written: &'a str,
}

/// One label.
#[derive(Debug, PartialEq)]
pub(crate) struct Label<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) value: Cow<'a, str>,
    /// The name as it is written.
    pub(crate) written_name: &'a str,
    /// The label as it is written.
    pub(crate) written: &'a str,
}

impl<'a> Line<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, SyntaxError> {
        let text = text.trim_start_matches(BLANKS);
        match text.strip_prefix('#') {
            None if text.is_empty() => Ok(Self::Blank),
            None => Sample::parse(text).map(Self::Sample),
            Some(comment) => meta(comment),
        }
    }
}

fn meta(comment: &str) -> Result<Line<'_>, SyntaxError> {
    let text = comment.trim_start_matches(BLANKS);
    if text.trim_end_matches(BLANKS) == "EOF" {
        return Ok(Line::Eof);
    }
    // a `#` without a blank behind it begins an ordinary comment
    let spaced = text.len() < comment.len();
    let Some((keyword, rest)) = text.split_once(BLANKS).filter(|_| spaced) else { return Ok(Line::Comment) };
    if !matches!(keyword, "HELP" | "TYPE" | "UNIT") {
        return Ok(Line::Comment);
    }
    let (family, rest) = tokenizer::family(rest.trim_start_matches(BLANKS))?;
    let family = unescaped(family)?;
    match rest.strip_prefix(BLANKS) {
        Some(text) => Ok(Line::Meta { keyword, family, text: text.trim_matches(BLANKS) }),
        None if rest.is_empty() => Ok(Line::Meta { keyword, family, text: "" }),
        None => Err("there is no space behind a name"),
    }
}

impl<'a> Sample<'a> {
    fn parse(text: &'a str) -> Result<Self, SyntaxError> {
        let mut labels = Vec::new();
        let tokens = tokenizer::sample(text, |label| {
            labels.push(Label::new(&label)?);
            Ok(())
        })?;
        if labels.iter().any(|label| label.name == "__name__") {
            return Err("a label is called `__name__`");
        }
        let exemplar = tokens.exemplar.map(Exemplar::parse).transpose()?;
        check_numbers(tokens.value)?;
        let name = unescaped(tokens.name)?;
        let inside = tokens.name.is_quoted();
        Ok(Self { name, written: tokens.name.written, inside, labels, value: tokens.value, exemplar })
    }
}

impl<'a> Exemplar<'a> {
    fn parse(written: &'a str) -> Result<Self, SyntaxError> {
        let mut labels = Vec::new();
        let numbers = tokenizer::exemplar(written, |label| {
            labels.push(Label::new(&label)?);
            Ok(())
        })?;
        check_numbers(numbers)?;
        Ok(Self { labels, written })
    }
}

impl<'a> Label<'a> {
    fn new(tokens: &LabelTokens<'a>) -> Result<Self, SyntaxError> {
        let LabelTokens { name, value, written } = *tokens;
        Ok(Self { name: unescaped(name)?, value: unescaped(value)?, written_name: name.written, written })
    }
}

/// One number or two: a value and perhaps a timestamp. Words such as `NaN` and `+Inf` are numbers here.
fn check_numbers(text: &str) -> Result<(), SyntaxError> {
    let mut count = 0;
    for number in text.split(BLANKS).filter(|number| !number.is_empty()) {
        count += 1;
        if !number.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b)) {
            return Err("a value is no number");
        }
    }
    if matches!(count, 1 | 2) { Ok(()) } else { Err("there is not one value and at most one timestamp") }
}

/// An escape that the formats do not define is an error: readers differ in what they make of it.
fn unescaped(quoted: Text<'_>) -> Result<Cow<'_, str>, SyntaxError> {
    let raw = quoted.raw;
    if !quoted.escaped {
        return Ok(Cow::Borrowed(raw));
    }
    let mut text = String::with_capacity(raw.len());
    let mut characters = raw.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some(c @ ('\\' | '"')) => text.push(c),
                _ => return Err("an escape is not known"),
            },
            _ => text.push(c),
        }
    }
    Ok(Cow::Owned(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, name: &str, labels: &[(&str, &str)], value: &str, exemplar: Option<&str>) {
        let Line::Sample(sample) = Line::parse(text).unwrap_or_else(|error| panic!("{text}: {error}")) else {
            panic!("{text} is no sample")
        };
        let found: Vec<(&str, &str)> = sample.labels.iter().map(|label| (&*label.name, &*label.value)).collect();
        assert_eq!((&*sample.name, found.as_slice(), sample.value), (name, labels, value), "{text}");
        assert_eq!(sample.exemplar.map(|exemplar| exemplar.written), exemplar, "{text}");
    }

    #[test]
    fn samples_are_read_as_prometheus_reads_them() {
        check("up 1", "up", &[], " 1", None);
        check("\tup\t1 1700000000000", "up", &[], "\t1 1700000000000", None);
        check("up{} NaN", "up", &[], " NaN", None);
        check("up {a=\"b\"} +Inf", "up", &[("a", "b")], " +Inf", None);
        check("a:b_1{ x = \"1\" , y=\"2\",}-1.5e3", "a:b_1", &[("x", "1"), ("y", "2")], "-1.5e3", None);
        check("a{x=\"}{,# \\\" \\\\ \\n\"} 1", "a", &[("x", "}{,# \" \\ \n")], " 1", None);
        check("{\"my.metric\",\"a.b\"=\"c\"} 1", "my.metric", &[("a.b", "c")], " 1", None);
        check("{\"my.metric\"} 1", "my.metric", &[], " 1", None);
        let exemplar = "# {trace_id=\"# }\"} 0.5 1.5";
        check(&format!("b{{le=\"1\"}} 3 {exemplar}"), "b", &[("le", "1")], " 3 ", Some(exemplar));
    }

    #[test]
    fn a_line_with_two_readings_is_an_error() {
        for text in [
            "up",
            "1up 1",
            "up{a=b} 1",
            "up{a=\"b} 1",
            "up{a=\"\\x\"} 1",
            "up{a=\"b\" c=\"d\"} 1",
            "up{a} 1",
            "up{,a=\"b\"} 1",
            "up{\"other\"} 1",
            "up{__name__=\"other\"} 1",
            "{\"a\",\"b\"} 1",
            "{a=\"b\"} 1",
            "up 1 2 3",
            "up one\u{a0}1",
            "up 1 # no exemplar",
            "up 1 # {\"name\"} 1",
            "up 1\r",
            "my.metric 1",
        ] {
            assert!(Line::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn metadata_of_a_family_is_distinguished_from_other_comments() {
        let check = |text: &str, expected: Line<'_>| assert_eq!(Line::parse(text), Ok(expected), "{text}");
        let meta = |keyword, family: &'static str, text| Line::Meta { keyword, family: family.into(), text };
        check("# TYPE up gauge", meta("TYPE", "up", "gauge"));
        check("  #\tHELP  up   is \\n it ", meta("HELP", "up", "is \\n it"));
        check("# HELP up", meta("HELP", "up", ""));
        check("# TYPE \"my.metric\" counter", meta("TYPE", "my.metric", "counter"));
        check("# EOF", Line::Eof);
        check("# EOF ", Line::Eof);
        check("#TYPE up gauge", Line::Comment);
        check("# secret 1", Line::Comment);
        check("#", Line::Comment);
        check(" \t", Line::Blank);
    }
}
