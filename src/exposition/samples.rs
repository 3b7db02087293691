//! Reads what exporters say: the Prometheus text format 0.0.4 and OpenMetrics 1.0 text.
//!
//! Promises: a page is read whole or refused with the line that is wrong, as Prometheus does, so that half a page is
//! never taken for a whole one. Names are borrowed from the page; values are copied only where they hold escapes.
//! Quoted names (`{"my.metric", "a.b"="c"}`) are read too. Comments, exemplars and units are passed over.

use std::borrow::Cow;

use crate::http::is_media_type;

/// Which of the two formats a page is in: they differ in the unit of timestamps and in how they end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    /// Timestamps in milliseconds.
    Text,
    /// Timestamps in seconds; the last line is `# EOF`.
    OpenMetrics,
}

impl Format {
    /// The format that a `Content-Type` names; plain text where it names none.
    #[must_use]
    pub(crate) fn of(content_type: &str) -> Self {
        if is_media_type(content_type, "application/openmetrics-text") { Self::OpenMetrics } else { Self::Text }
    }
}

/// One line of a page.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Line<'a> {
    /// The metric's name.
    pub metric: Cow<'a, str>,
    /// Its labels, in the order of the page.
    pub labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// Its value.
    pub value: f64,
    /// Milliseconds since the Unix epoch, where the page says so.
    pub timestamp: Option<i64>,
}

/// Why a page cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct ParseError {
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Calls `visit` with each sample of a page; the same `Line` is filled anew each time.
///
/// # Errors
/// At the first line that is not of the format. Lines before it have been visited by then.
pub(crate) fn for_each_line<'a>(
    page: &'a str,
    format: Format,
    mut visit: impl FnMut(&Line<'a>),
) -> Result<(), ParseError> {
    let mut line = Line::default();
    let mut ended = false;
    let mut number = 0;
    for text in page.lines() {
        number += 1;
        let wrong = |problem| ParseError { line: number, problem };
        if ended {
            return Err(wrong("there is more behind `# EOF`"));
        }
        let text = text.trim_start_matches([' ', '\t']);
        if text.starts_with('#') {
            ended = format == Format::OpenMetrics && text.trim_end() == "# EOF";
        } else if !text.is_empty() {
            Cursor { rest: text }.line(format, &mut line).map_err(wrong)?;
            visit(&line);
        }
    }
    if format == Format::OpenMetrics && !ended {
        return Err(ParseError { line: number, problem: "the page is cut off: no `# EOF`" });
    }
    Ok(())
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn line(&mut self, format: Format, line: &mut Line<'a>) -> Result<(), &'static str> {
        line.labels.clear();
        line.metric = Cow::Borrowed(self.word());
        self.skip_blanks();
        if self.eat('{') {
            self.labels(line)?;
        }
        if line.metric.is_empty() {
            return Err("a metric name was expected");
        }
        line.value = number(self.token()).ok_or("the value is not a number")?;
        line.timestamp = match self.token() {
            "" | "#" => None,
            text if format == Format::Text => Some(text.parse().map_err(|_| "the timestamp is not in milliseconds")?),
            text => {
                let seconds = number(text).filter(|seconds| seconds.is_finite());
                Some((seconds.ok_or("the timestamp is not in seconds")? * 1000.0).round() as i64)
            }
        };
        // an exemplar may follow in OpenMetrics: it begins with `#`, which the token above may have been
        let tail = self.rest.trim_start_matches([' ', '\t']);
        if tail.is_empty() || format == Format::OpenMetrics { Ok(()) } else { Err("there is more than a timestamp") }
    }

    fn labels(&mut self, line: &mut Line<'a>) -> Result<(), &'static str> {
        loop {
            self.skip_blanks();
            if self.eat('}') {
                return Ok(());
            }
            let quoted = self.rest.starts_with('"');
            let name = if quoted { self.quoted()? } else { Cow::Borrowed(self.word()) };
            self.skip_blanks();
            if self.eat('=') {
                self.skip_blanks();
                if name.is_empty() {
                    return Err("a label name was expected");
                }
                line.labels.push((name, self.quoted()?));
            } else if quoted && line.metric.is_empty() && line.labels.is_empty() {
                line.metric = name;
            } else {
                return Err("a label was expected, or `}`");
            }
            self.skip_blanks();
            if !self.eat(',') && !self.rest.starts_with('}') {
                return Err("`,` or `}` was expected behind a label");
            }
        }
    }

    /// A name without quotes: up to whatever cannot be part of one.
    fn word(&mut self) -> &'a str {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        self.split(self.rest.find(|c| !fits(c)).unwrap_or(self.rest.len()))
    }

    /// What stands up to the next blank.
    fn token(&mut self) -> &'a str {
        self.skip_blanks();
        self.split(self.rest.find([' ', '\t', '\r']).unwrap_or(self.rest.len()))
    }

    fn quoted(&mut self) -> Result<Cow<'a, str>, &'static str> {
        const OPEN: &str = "a quoted text was expected";
        if !self.eat('"') {
            return Err(OPEN);
        }
        let mut text = Cow::Borrowed("");
        loop {
            let plain = self.split(self.rest.find(['"', '\\']).ok_or("a quoted text does not end")?);
            text = if text.is_empty() { Cow::Borrowed(plain) } else { text + plain };
            if self.eat('"') {
                return Ok(text);
            }
            self.eat('\\');
            let mut rest = self.rest.chars();
            let escaped = rest.next().ok_or("a quoted text does not end")?;
            self.rest = rest.as_str();
            match escaped {
                'n' => text.to_mut().push('\n'),
                '\\' | '"' => text.to_mut().push(escaped),
                // Prometheus keeps what is no escape as it is
                other => text.to_mut().extend(['\\', other]),
            }
        }
    }

    fn eat(&mut self, c: char) -> bool {
        match self.rest.strip_prefix(c) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    fn split(&mut self, at: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(at).unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }
}

/// A number as Go writes and reads it: `+Inf`, `NaN`, `1e-3`.
fn number(text: &str) -> Option<f64> {
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(page: &str, format: Format) -> Result<Vec<String>, ParseError> {
        let mut lines = Vec::new();
        for_each_line(page, format, |line| {
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
            for_each_line(&page, Format::Text, |line| {
                seen += 1;
                assert_eq!((&*line.metric, line.timestamp), ("m", timestamp));
                assert!(line.value == value || value.is_nan() && line.value.is_nan());
                assert!(line.labels.iter().map(|(n, v)| (&**n, &**v)).eq(labels.iter().map(|(n, v)| (&**n, &**v))));
            }).unwrap();
            prop_assert_eq!(seen, 1);
        }
    }
}
