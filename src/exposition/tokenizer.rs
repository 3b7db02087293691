//! Tokenizer of one sample line in the Prometheus text formats (0.0.4, 1.0.0 and OpenMetrics 1.0). Pure.
//!
//! Promises: tokens are slices of the line, as they are written. A line that has two readings is an error. Quoted names
//! (`{"my.metric", "a.b"="c"}`) are read too.

/// What separates tokens.
pub(super) const BLANKS: [char; 2] = [' ', '\t'];

/// What is wrong with a line.
pub(crate) type SyntaxError = &'static str;

/// A sample without its labels.
pub(super) struct SampleTokens<'a> {
    pub(super) name: Text<'a>,
    /// Value and timestamp, with the blanks around them.
    pub(super) value: &'a str,
    /// Everything from `#` on.
    pub(super) exemplar: Option<&'a str>,
}

/// A label.
pub(super) struct LabelTokens<'a> {
    pub(super) name: Text<'a>,
    pub(super) value: Text<'a>,
    /// The whole label.
    pub(super) written: &'a str,
}

/// A name or a value, quoted or not.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    /// The text without its quotes.
    pub(super) raw: &'a str,
    /// The text as it is written.
    pub(super) written: &'a str,
    /// Whether it has escapes.
    pub(super) escaped: bool,
}

impl<'a> Text<'a> {
    fn plain(text: &'a str) -> Self {
        Self { raw: text, written: text, escaped: false }
    }

    pub(super) fn is_quoted(&self) -> bool {
        self.raw.len() < self.written.len()
    }
}

/// Reads a sample; `visit` gets its labels in their order. `text` must begin with neither a blank nor `#`.
pub(super) fn sample<'a>(
    text: &'a str,
    mut visit: impl FnMut(LabelTokens<'a>) -> Result<(), SyntaxError>,
) -> Result<SampleTokens<'a>, SyntaxError> {
    let mut cursor = Cursor { rest: text };
    let before = cursor.name();
    let rest = cursor.rest.trim_start_matches(BLANKS);
    let mut within = None;
    if rest.starts_with('{') {
        cursor.rest = rest;
        within = cursor.braces(&mut visit)?;
    } else if !cursor.rest.starts_with(BLANKS) {
        return Err("there is neither a label nor a space behind a name");
    }
    let name = match (before, within) {
        (Some(name), None) => Text::plain(name),
        (None, Some(quoted)) => quoted,
        (None, None) => return Err("a sample has no name"),
        (Some(_), Some(_)) => return Err("a sample has two names"),
    };
    let (value, exemplar) = match cursor.rest.bytes().position(|byte| byte == b'#') {
        None => (cursor.rest, None),
        Some(at) => {
            let (value, exemplar) = cursor.rest.split_at_checked(at).ok_or("it is cut")?;
            (value, Some(exemplar))
        }
    };
    Ok(SampleTokens { name, value, exemplar })
}

/// Reads the labels of an exemplar, and returns its numbers. `text` begins with `#`.
pub(super) fn exemplar<'a>(
    text: &'a str,
    mut visit: impl FnMut(LabelTokens<'a>) -> Result<(), SyntaxError>,
) -> Result<&'a str, SyntaxError> {
    let mut cursor = Cursor { rest: text.strip_prefix('#').unwrap_or(text).trim_start_matches(BLANKS) };
    match cursor.braces(&mut visit)? {
        None => Ok(cursor.rest),
        Some(_) => Err("an exemplar has a name"),
    }
}

/// Reads the name that `text` begins with, and returns what follows it.
pub(super) fn family(text: &str) -> Result<(Text<'_>, &str), SyntaxError> {
    let mut cursor = Cursor { rest: text };
    let family = match cursor.quoted()? {
        Some(quoted) => quoted,
        None => cursor.name().map(Text::plain).ok_or("a name is missing")?,
    };
    Ok((family, cursor.rest))
}

struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    /// An unquoted name, if one begins here. Colons are accepted in names of labels too: no other token has them.
    fn name(&mut self) -> Option<&'a str> {
        let bytes = self.rest.as_bytes();
        if bytes.first().is_none_or(u8::is_ascii_digit) {
            return None;
        }
        let fits = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':');
        let end = bytes.iter().position(|byte| !fits(byte)).unwrap_or(bytes.len());
        let (name, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    /// A quoted text, if one begins here.
    fn quoted(&mut self) -> Result<Option<Text<'a>>, SyntaxError> {
        let Some(inner) = self.rest.strip_prefix('"') else { return Ok(None) };
        let bytes = inner.as_bytes();
        let mut at = 0;
        let mut escaped = false;
        loop {
            at += bytes
                .get(at..)
                .and_then(|rest| rest.iter().position(|byte| matches!(byte, b'"' | b'\\')))
                .ok_or("a quote is not closed")?;
            if bytes.get(at) == Some(&b'"') {
                break;
            }
            // the byte after a backslash is escaped; no later byte of a character is a quote or a backslash
            at += 2;
            escaped = true;
        }
        let (raw, _) = inner.split_at_checked(at).ok_or("it is cut")?;
        let (written, rest) = self.rest.split_at_checked(at + 2).ok_or("it is cut")?;
        self.rest = rest;
        Ok(Some(Text { raw, written, escaped }))
    }

    /// Everything between braces: labels, and perhaps the quoted name of the metric.
    fn braces(
        &mut self,
        visit: &mut impl FnMut(LabelTokens<'a>) -> Result<(), SyntaxError>,
    ) -> Result<Option<Text<'a>>, SyntaxError> {
        let mut metric = None;
        self.rest = self.rest.strip_prefix('{').ok_or("braces are missing")?;
        loop {
            self.skip_blanks();
            if let Some(rest) = self.rest.strip_prefix('}') {
                self.rest = rest;
                return Ok(metric);
            }
            let start = self.rest;
            let name = match self.quoted()? {
                Some(quoted) => quoted,
                None => self.name().map(Text::plain).ok_or("a label has no name")?,
            };
            if name.raw.is_empty() {
                return Err("a name is empty");
            }
            self.skip_blanks();
            match self.rest.strip_prefix('=') {
                Some(rest) => {
                    self.rest = rest;
                    self.skip_blanks();
                    let value = self.quoted()?.ok_or("a label's value is not quoted")?;
                    let length = start.len() - self.rest.len();
                    visit(LabelTokens { name, value, written: start.get(..length).unwrap_or_default() })?;
                }
                None if name.is_quoted() && metric.is_none() => metric = Some(name),
                None => return Err("a label has no value"),
            }
            self.skip_blanks();
            match self.rest.strip_prefix(',') {
                Some(rest) => self.rest = rest,
                None if self.rest.starts_with('}') => {}
                None => return Err("there is no comma between two labels"),
            }
        }
    }

    fn skip_blanks(&mut self) {
        while let Some(rest) = self.rest.strip_prefix(BLANKS) {
            self.rest = rest;
        }
    }
}
