//! One line of the Prometheus text formats (0.0.4, 1.0.0 and OpenMetrics 1.0), cut into its parts. Pure.
//!
//! Promises: the parts lie in the line as they stand there, so that what is not changed is passed on byte for byte; a
//! line that could be read in another way than here is an error, never passed. Quoted names (`{"my.metric", "a.b"="c"}`)
//! are read too.

use std::borrow::Cow;

/// A line, without its end.
#[derive(Debug, PartialEq)]
pub(crate) enum Line<'a> {
    /// Nothing in it.
    Blank,
    /// `# EOF`.
    Eof,
    /// `# HELP`, `# TYPE` or `# UNIT` of a family, and what is said of it.
    Meta { keyword: &'a str, family: Cow<'a, str>, said: &'a str },
    /// Any other comment.
    Comment,
    /// A sample.
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

/// What stands behind a `#` at the end of a sample.
#[derive(Debug, PartialEq)]
pub(crate) struct Exemplar<'a> {
    pub(crate) labels: Vec<Label<'a>>,
    /// All of it, the `#` included.
    pub(crate) written: &'a str,
}

/// One label.
#[derive(Debug, PartialEq)]
pub(crate) struct Label<'a> {
    pub(crate) name: Cow<'a, str>,
    pub(crate) value: Cow<'a, str>,
    /// The name as it is written.
    pub(crate) written_name: &'a str,
    /// All of it as it is written.
    pub(crate) written: &'a str,
}

/// What is wrong with a line.
pub(crate) type Wrong = &'static str;

impl<'a> Line<'a> {
    pub(crate) fn parse(text: &'a str) -> Result<Self, Wrong> {
        let text = text.trim_start_matches(SPACE);
        match text.strip_prefix('#') {
            None if text.is_empty() => Ok(Self::Blank),
            None => Sample::parse(text).map(Self::Sample),
            Some(comment) => meta(comment),
        }
    }
}

const SPACE: [char; 2] = [' ', '\t'];

fn meta(comment: &str) -> Result<Line<'_>, Wrong> {
    let said = comment.trim_start_matches(SPACE);
    if said.trim_end_matches(SPACE) == "EOF" {
        return Ok(Line::Eof);
    }
    // without space behind the `#` it is a comment like any other
    let spaced = said.len() < comment.len();
    let Some((keyword, rest)) = said.split_once(SPACE).filter(|_| spaced) else { return Ok(Line::Comment) };
    if !matches!(keyword, "HELP" | "TYPE" | "UNIT") {
        return Ok(Line::Comment);
    }
    let mut cursor = Cursor { rest: rest.trim_start_matches(SPACE) };
    let family = match cursor.quoted()? {
        Some(raw) => unescaped(raw),
        None => Cow::Borrowed(cursor.name().ok_or("a name is missing")?),
    };
    match cursor.rest.strip_prefix(SPACE) {
        Some(said) => Ok(Line::Meta { keyword, family, said: said.trim_matches(SPACE) }),
        None if cursor.rest.is_empty() => Ok(Line::Meta { keyword, family, said: "" }),
        None => Err("there is no space behind a name"),
    }
}

impl<'a> Sample<'a> {
    fn parse(text: &'a str) -> Result<Self, Wrong> {
        let mut cursor = Cursor { rest: text };
        let before = cursor.name();
        let rest = cursor.rest.trim_start_matches(SPACE);
        let (mut within, mut labels) = (None, Vec::new());
        if rest.starts_with('{') {
            cursor.rest = rest;
            (within, labels) = cursor.braces()?;
        } else if !cursor.rest.starts_with(SPACE) {
            return Err("there is neither a label nor a space behind a name");
        }
        let (name, written, inside) = match (before, within) {
            (Some(name), None) => (Cow::Borrowed(name), name, false),
            (None, Some(quoted)) => (unescaped(unquoted(quoted)), quoted, true),
            (None, None) => return Err("a sample has no name"),
            (Some(_), Some(_)) => return Err("a sample has two names"),
        };
        if labels.iter().any(|label| label.name == "__name__") {
            return Err("a label is called `__name__`");
        }
        let (value, exemplar) = match cursor.rest.find('#') {
            None => (cursor.rest, None),
            Some(at) => {
                let (value, written) = cursor.rest.split_at_checked(at).ok_or("it is cut")?;
                (value, Some(Exemplar::parse(written)?))
            }
        };
        numbers(value)?;
        Ok(Self { name, written, inside, labels, value, exemplar })
    }
}

impl<'a> Exemplar<'a> {
    fn parse(written: &'a str) -> Result<Self, Wrong> {
        let rest = written.strip_prefix('#').unwrap_or(written).trim_start_matches(SPACE);
        let mut cursor = Cursor { rest };
        let (None, labels) = cursor.braces()? else { return Err("an exemplar has a name") };
        numbers(cursor.rest)?;
        Ok(Self { labels, written })
    }
}

/// One number or two: a value and perhaps a timestamp. Words such as `NaN` and `+Inf` are numbers here.
fn numbers(text: &str) -> Result<(), Wrong> {
    let mut count = 0;
    for number in text.split(SPACE).filter(|number| !number.is_empty()) {
        count += 1;
        if !number.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-._".contains(&b)) {
            return Err("a value is no number");
        }
    }
    if matches!(count, 1 | 2) { Ok(()) } else { Err("there is not one value and at most one timestamp") }
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// An unquoted name, if one begins here. A label's name has no colon, but nothing else could be meant by one.
    fn name(&mut self) -> Option<&'a str> {
        let fits = |(at, c): (usize, char)| {
            c.is_ascii_alphabetic() || matches!(c, '_' | ':') || (at > 0 && c.is_ascii_digit())
        };
        let end = self.rest.char_indices().find(|&place| !fits(place)).map_or(self.rest.len(), |(at, _)| at);
        let (name, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    /// What stands between double quotes, escapes and all, if a quote is next.
    fn quoted(&mut self) -> Result<Option<&'a str>, Wrong> {
        let Some(inner) = self.rest.strip_prefix('"') else { return Ok(None) };
        let mut bytes = inner.bytes().enumerate();
        while let Some((at, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    let (raw, rest) = inner.split_at_checked(at).ok_or("it is cut")?;
                    self.rest = rest.strip_prefix('"').ok_or("it is cut")?;
                    return Ok(Some(raw));
                }
                b'\\' if !bytes.next().is_some_and(|(_, b)| matches!(b, b'\\' | b'"' | b'n')) => {
                    return Err("an escape is not known");
                }
                _ => {}
            }
        }
        Err("a quote is not closed")
    }

    /// Everything between braces: a metric's quoted name, quotes included, and labels.
    fn braces(&mut self) -> Result<(Option<&'a str>, Vec<Label<'a>>), Wrong> {
        let (mut name, mut labels) = (None, Vec::new());
        self.rest = self.rest.strip_prefix('{').ok_or("braces are missing")?;
        loop {
            self.rest = self.rest.trim_start_matches(SPACE);
            if let Some(rest) = self.rest.strip_prefix('}') {
                self.rest = rest;
                return Ok((name, labels));
            }
            let start = self.rest;
            let quoted = self.quoted()?;
            let written_name = match quoted {
                Some(_) => upto(start, self.rest),
                None => self.name().ok_or("a label has no name")?,
            };
            self.rest = self.rest.trim_start_matches(SPACE);
            match self.rest.strip_prefix('=') {
                Some(rest) => {
                    self.rest = rest.trim_start_matches(SPACE);
                    let value = unescaped(self.quoted()?.ok_or("a label's value is not quoted")?);
                    let label = quoted.map_or(Cow::Borrowed(written_name), unescaped);
                    labels.push(Label { name: label, value, written_name, written: upto(start, self.rest) });
                }
                None if quoted.is_some() && name.is_none() => name = Some(written_name),
                None => return Err("a label has no value"),
            }
            self.rest = self.rest.trim_start_matches(SPACE);
            match self.rest.strip_prefix(',') {
                Some(rest) => self.rest = rest,
                None if self.rest.starts_with('}') => {}
                None => return Err("there is no comma between two labels"),
            }
        }
    }
}

/// What of `start` lies before `rest`, which is its end.
fn upto<'a>(start: &'a str, rest: &str) -> &'a str {
    start.get(..start.len().saturating_sub(rest.len())).unwrap_or_default()
}

fn unquoted(written: &str) -> &str {
    written.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')).unwrap_or(written)
}

fn unescaped(raw: &str) -> Cow<'_, str> {
    if !raw.contains('\\') {
        return Cow::Borrowed(raw);
    }
    let (mut text, mut characters) = (String::with_capacity(raw.len()), raw.chars());
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some(other) => text.push(other),
                None => {}
            },
            _ => text.push(c),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, name: &str, labels: &[(&str, &str)], value: &str, exemplar: Option<&str>) {
        let Line::Sample(sample) = Line::parse(text).unwrap_or_else(|wrong| panic!("{text}: {wrong}")) else {
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
    fn what_has_another_reading_is_no_line() {
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
    fn what_is_said_of_a_family_is_told_from_other_comments() {
        let check = |text: &str, expected: Line<'_>| assert_eq!(Line::parse(text), Ok(expected), "{text}");
        let meta = |keyword, family: &'static str, said| Line::Meta { keyword, family: family.into(), said };
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
