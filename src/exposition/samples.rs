//! Samples of a page in the Prometheus text format 0.0.4 or OpenMetrics 1.0, with their values.
//!
//! Promises: a page is read whole or refused with the number of the wrong line, as Prometheus does, so that a truncated
//! page is never taken for a whole one. Texts are borrowed from the page, and copied only if they hold escapes. Quoted
//! names (`{"my.metric", "a.b"="c"}`) are read too. Comments, exemplars and units are skipped.

use std::borrow::Cow;

use super::tokenizer::{self, BLANKS, SyntaxError, Text};
use crate::http::is_media_type;

/// The format of a page. The two differ in the unit of timestamps and in how they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Timestamps in milliseconds.
    Text,
    /// Timestamps in seconds; the last line is `# EOF`.
    OpenMetrics,
}

impl Format {
    /// The format that a `Content-Type` names; plain text if it names none.
    #[must_use]
    pub(crate) fn of(content_type: &str) -> Self {
        if is_media_type(content_type, "application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }
}

/// One sample of a page.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PageSample<'a> {
    /// The metric's name.
    pub metric: Cow<'a, str>,
    /// Its labels, in the order of the page.
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Its value.
    pub value: f64,
    /// Milliseconds since the Unix epoch, if the page has a timestamp.
    pub timestamp: Option<i64>,
}

/// A page cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: SyntaxError,
}

/// Calls `visit` with each sample of a page; the same `PageSample` is filled again each time.
///
/// # Errors
/// At the first line that is not of the format. Samples before it have been visited by then.
pub(crate) fn for_each_sample<'a>(
    page: &'a str,
    format: Format,
    mut visit: impl FnMut(&PageSample<'a>),
) -> Result<(), ParseError> {
    let mut sample = PageSample::default();
    let mut ended = false;
    let mut number = 0;
    for text in page.lines() {
        number += 1;
        let failed = |problem| ParseError { line: number, problem };
        if ended {
            return Err(failed("there is more behind `# EOF`"));
        }
        let text = text.trim_start_matches(BLANKS);
        if text.starts_with('#') {
            ended = format == Format::OpenMetrics && text.trim_end() == "# EOF";
        } else if !text.is_empty() {
            sample.read(text, format).map_err(failed)?;
            visit(&sample);
        }
    }
    if format == Format::OpenMetrics && !ended {
        return Err(ParseError { line: number, problem: "the page is cut off: no `# EOF`" });
    }
    Ok(())
}

impl<'a> PageSample<'a> {
    fn read(&mut self, text: &'a str, format: Format) -> Result<(), SyntaxError> {
        self.labels.clear();
        let tokens = tokenizer::sample(text, |label| {
            self.labels.push((unescaped(label.name), unescaped(label.value)));
            Ok(())
        })?;
        self.metric = unescaped(tokens.name);
        let mut numbers = tokens.value.split([' ', '\t', '\r']).filter(|number| !number.is_empty());
        self.value = numbers.next().and_then(number).ok_or("the value is not a number")?;
        self.timestamp = numbers.next().map(|text| timestamp(text, format)).transpose()?;
        if numbers.next().is_some() || (tokens.exemplar.is_some() && format == Format::Text) {
            return Err("there is more than a timestamp");
        }
        Ok(())
    }
}

fn timestamp(text: &str, format: Format) -> Result<i64, SyntaxError> {
    match format {
        Format::Text => text.parse().map_err(|_| "the timestamp is not in milliseconds"),
        Format::OpenMetrics => {
            let seconds = number(text).filter(|seconds| seconds.is_finite());
            Ok((seconds.ok_or("the timestamp is not in seconds")? * 1000.0).round() as i64)
        }
    }
}

/// A number as Go writes and reads it: `+Inf`, `NaN`, `1e-3`.
fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

/// Prometheus keeps a backslash that begins no escape.
fn unescaped(quoted: Text<'_>) -> Cow<'_, str> {
    let raw = quoted.raw;
    if !quoted.escaped {
        return Cow::Borrowed(raw);
    }
    let mut text = String::with_capacity(raw.len());
    let mut characters = raw.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => match characters.next() {
                Some('n') => text.push('\n'),
                Some(c @ ('\\' | '"')) => text.push(c),
                other => text.extend(std::iter::once('\\').chain(other)),
            },
            _ => text.push(c),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(page: &str, format: Format) -> Result<Vec<String>, ParseError> {
        let mut lines = Vec::new();
        for_each_sample(page, format, |line| {
            let labels: Vec<_> = line.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
            lines.push(format!("{}[{}]{}@{:?}", line.metric, labels.join("|"), line.value, line.timestamp));
        })?;
        Ok(lines)
    }

    fn check(page: &str, expected: &[&str]) {
        assert_eq!(read(page, Format::Text).unwrap(), expected, "{page}");
    }

    fn refused(page: &str, format: Format, line: usize) {
        assert_eq!(read(page, format).unwrap_err().line, line, "{page}");
    }

    #[test]
    fn the_text_format_is_read() {
        check("", &[]);
        check("# HELP a b\n# TYPE a counter\n\na 1\n", &["a[]1@None"]);
        check("a{} 1 1700000000123", &["a[]1@Some(1700000000123)"]);
        check("a:b_c{x=\"1\",y=\"2\",} -2.5e3", &["a:b_c[x=1|y=2]-2500@None"]);
        check("a { x = \"1\" , y = \"2\" }\t7", &["a[x=1|y=2]7@None"]);
    }

    #[test]
    fn values_and_escapes_are_read() {
        check("a +Inf\na -Inf\na NaN", &["a[]inf@None", "a[]-inf@None", "a[]NaN@None"]);
        check(r#"a{x="q\"b\\n\nz\t,}"} 0"#, &["a[x=q\"b\\n\nz\\t,}]0@None"]);
        check("a{x=\"é ☃\"} 1\r\n", &["a[x=é ☃]1@None"]);
        check(r#"{"my.metric","l.x"="v",y="w"} 1"#, &["my.metric[l.x=v|y=w]1@None"]);
    }

    #[test]
    fn openmetrics_is_read() {
        let page = "# TYPE a counter\na_total 1 1700000000.5\nb_bucket{le=\"1\"} 2 # {trace=\"x\"} 0.5 1.0\n\
                    c 3 17 # {t=\"y\"} 1\n# EOF\n";
        let expected = ["a_total[]1@Some(1700000000500)", "b_bucket[le=1]2@None", "c[]3@Some(17000)"];
        assert_eq!(read(page, Format::OpenMetrics).unwrap(), expected);
        refused("a 1\n", Format::OpenMetrics, 1);
        refused("# EOF\na 1\n", Format::OpenMetrics, 2);
    }

    #[test]
    fn a_page_that_is_not_of_the_format_is_refused_with_its_line() {
        for page in [
            "<html>",
            "a",
            "a b",
            "a{",
            "a{x}",
            "a{x=1} 1",
            "a{x=\"1} 1",
            "a{x=\"1\" y=\"2\"} 1",
            "a 1 2 3",
            "a 1 x",
            "a 1 1.5",
            "{} 1",
            "{\"a\",\"b\"} 1",
            "a{\"b\"} 1",
            "1a 1 1 1",
            "a{=\"1\"} 1",
            "a{x=\"\\",
        ] {
            refused(&format!("good 1\n{page}\n"), Format::Text, 2);
        }
    }

    #[test]
    fn the_content_type_names_the_format() {
        assert_eq!(Format::of("application/openmetrics-text; version=1.0.0"), Format::OpenMetrics);
        assert_eq!(Format::of("text/plain; version=0.0.4"), Format::Text);
        assert_eq!(Format::of(""), Format::Text);
    }

    proptest! {
        #[test]
        fn any_page_is_read_or_refused_without_a_panic(page in "[a{}=\"\\\\,#\n 1é.]{0,60}") {
            let _ = (read(&page, Format::Text), read(&page, Format::OpenMetrics));
        }

        #[test]
        fn what_is_written_is_read(
            labels in proptest::collection::vec(("[a-z_][a-z0-9_]{0,8}", "\\PC{0,12}|[\"\\\\\n]{1,4}"), 0..5),
            value in any::<f64>(), timestamp in proptest::option::of(any::<i64>()),
        ) {
            let escape = |v: &str| v.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let text: Vec<_> = labels.iter().map(|(n, v)| format!("{n}=\"{}\"", escape(v))).collect();
            let stamp = timestamp.map(|t| format!(" {t}")).unwrap_or_default();
            let page = format!("m{{{}}} {value}{stamp}\n", text.join(","));
            let mut seen = 0;
            for_each_sample(&page, Format::Text, |line| {
                seen += 1;
                assert_eq!((&*line.metric, line.timestamp), ("m", timestamp));
                assert!(line.value == value || value.is_nan() && line.value.is_nan());
                assert!(line.labels.iter().map(|(n, v)| (&**n, &**v)).eq(labels.iter().map(|(n, v)| (&**n, &**v))));
            }).unwrap();
            prop_assert_eq!(seen, 1);
        }
    }
}
