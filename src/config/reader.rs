//! Reads a TOML file key by key and keeps every problem that it meets, each with its line.
//!
//! Promises: a key that nobody asked for is a problem; a value of the wrong kind is a problem that says what to write
//! instead; reading goes on after a problem, so that one run shows all of them. What is returned in place of a bad
//! value is never used: a document with problems gives no configuration.

use std::{
    cell::RefCell,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::telemetry::chain;
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file it is in.
    pub file: PathBuf,
    /// The line, from 1; 0 where the problem is with the file as a whole.
    pub line: usize,
    /// The key, such as `issuer[0].audiences`; empty where no key is at fault.
    pub key: String,
    /// What is wrong and what to write instead.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, ": `{}`", self.key)?;
        }
        write!(f, ": {}", self.text)
    }
}

/// A file's text and the problems met in it.
pub(crate) struct Source {
    file: PathBuf,
    text: String,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    files: RefCell<Vec<PathBuf>>,
}

/// What reading a file gave.
pub(crate) struct Reading<T> {
    pub(crate) value: T,
    pub(crate) problems: Vec<Problem>,
    /// What is served all the same, and hardly meant so.
    pub(crate) warnings: Vec<Problem>,
    /// The files that it names as part of the configuration, such as certificates.
    pub(crate) files: Vec<PathBuf>,
}

impl Source {
    pub(crate) fn new(file: &Path, text: String) -> Self {
        let (problems, warnings, files) = Default::default();
        Self { file: file.to_owned(), text, problems, warnings, files }
    }

    /// Parses the text and hands its top table to `read`; gives what `read` made and every problem. Keys of the top
    /// table that `read` did not ask for are refused.
    pub(crate) fn read<T>(self, read: impl FnOnce(&Section<'_>) -> T) -> Reading<T> {
        let (table, errors) = DeTable::parse_recoverable(&self.text);
        for error in errors {
            self.problem(error.span().map_or(0, |s| s.start), "", error.message().to_owned());
        }
        let top = Section::new(&self, String::new(), table.get_ref(), 0);
        let value = read(&top);
        top.finish();
        let Self { problems, warnings, files, .. } = self;
        Reading { value, problems: problems.into_inner(), warnings: warnings.into_inner(), files: files.into_inner() }
    }

    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
    }

    fn problem(&self, offset: usize, key: &str, text: String) {
        self.problems.borrow_mut().push(self.told(offset, key, text));
    }

    fn told(&self, offset: usize, key: &str, text: String) -> Problem {
        let line = self.line(offset);
        Problem { file: self.file.clone(), line, key: key.to_owned(), text }
    }
}

/// One table of the file, such as `[gate]` or the second `[[issuer]]`.
pub(crate) struct Section<'a> {
    source: &'a Source,
    path: String,
    table: &'a DeTable<'a>,
    offset: usize,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    fn new(source: &'a Source, path: String, table: &'a DeTable<'a>, offset: usize) -> Self {
        Self { source, path, table, offset, known: RefCell::default() }
    }

    /// Says that `key`'s value will not do; without a key, that the table will not.
    pub(crate) fn refuse(&self, key: &str, text: impl fmt::Display) {
        self.source.problem(self.offset_of(key), &self.path_to(key), text.to_string());
    }

    /// Says that `key`'s value will do, but hardly be meant so.
    pub(crate) fn warn(&self, key: &str, text: impl fmt::Display) {
        let told = self.source.told(self.offset_of(key), &self.path_to(key), text.to_string());
        self.source.warnings.borrow_mut().push(told);
    }

    fn offset_of(&self, key: &str) -> usize {
        self.table.iter().find(|(k, _)| k.get_ref() == key).map_or(self.offset, |(k, _)| k.span().start)
    }

    /// Keeps a result's value, or its error as a problem of `key`.
    pub(crate) fn keep<T, E: std::error::Error>(&self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.refuse(key, chain(&e))).ok()
    }

    pub(crate) fn string(&self, key: &'static str) -> Option<String> {
        let value = self.value(key)?;
        let text = value.get_ref().as_str();
        if text.is_none_or(str::is_empty) {
            self.refuse(key, "write a string between quotes, not empty");
        }
        text.map(str::to_owned)
    }

    /// A string that must be there; `example` shows what to write.
    pub(crate) fn required(&self, key: &'static str, example: &str) -> String {
        self.string(key).unwrap_or_else(|| {
            if !self.has(key) {
                self.refuse(key, format!("missing; write for example `{key} = \"{example}\"`"));
            }
            String::new()
        })
    }

    /// A path, relative to the file's own folder.
    pub(crate) fn path(&self, key: &'static str) -> Option<PathBuf> {
        self.string(key).map(|text| self.beside(&text))
    }

    /// A file that is part of the configuration: when it changes, so has the configuration.
    pub(crate) fn file(&self, key: &'static str) -> Option<PathBuf> {
        let path = self.path(key);
        self.source.files.borrow_mut().extend(path.clone());
        path
    }

    /// Several files that are part of the configuration.
    pub(crate) fn files(&self, key: &'static str) -> Vec<PathBuf> {
        let paths: Vec<PathBuf> = self.strings(key).unwrap_or_default().iter().map(|text| self.beside(text)).collect();
        self.source.files.borrow_mut().extend(paths.clone());
        paths
    }

    pub(crate) fn beside(&self, text: &str) -> PathBuf {
        self.source.file.parent().unwrap_or(Path::new("")).join(text)
    }

    pub(crate) fn strings(&self, key: &'static str) -> Option<Vec<String>> {
        let value = self.value(key)?;
        let items: Option<Vec<String>> = value
            .get_ref()
            .as_array()
            .map(|items| items.iter().map(|i| i.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>())
            .unwrap_or_default();
        if items.as_ref().is_none_or(Vec::is_empty) {
            self.refuse(key, format!("write a list of strings, such as `{key} = [\"a\", \"b\"]`"));
        }
        items
    }

    /// A whole number from `least` to `most`, or `default` where the key is missing.
    pub(crate) fn number(&self, key: &'static str, default: u64, least: u64, most: u64) -> u64 {
        let Some(value) = self.value(key) else { return default };
        let number = value.get_ref().as_integer().and_then(|i| i.as_str().replace('_', "").parse().ok());
        number.filter(|n| (least..=most).contains(n)).unwrap_or_else(|| {
            self.refuse(key, format!("write a whole number from {least} to {most}, without quotes"));
            default
        })
    }

    pub(crate) fn boolean(&self, key: &'static str, default: bool) -> bool {
        let Some(value) = self.value(key) else { return default };
        value.get_ref().as_bool().unwrap_or_else(|| {
            self.refuse(key, "write `true` or `false`, without quotes");
            default
        })
    }

    /// A span of time such as `"30s"`, `"5m"` or `"24h"`, more than none.
    pub(crate) fn duration(&self, key: &'static str, default: Duration) -> Duration {
        let Some(value) = self.value(key) else { return default };
        let span = value.get_ref().as_str().and_then(|t| t.parse::<jiff::SignedDuration>().ok());
        span.and_then(|s| Duration::try_from(s).ok()).filter(|s| !s.is_zero()).unwrap_or_else(|| {
            self.refuse(key, "write a time such as `\"30s\"`, `\"5m\"` or `\"24h\"`");
            default
        })
    }

    /// A table of strings, such as `labels = { team = "platform" }`.
    pub(crate) fn map(&self, key: &'static str) -> Vec<(String, String)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let pairs = value.get_ref().as_table().and_then(|table| {
            let pair = |(k, v): (&Spanned<_>, &Spanned<DeValue<'_>>)| {
                let k: &std::borrow::Cow<'_, str> = k.get_ref();
                Some((k.to_string(), v.get_ref().as_str()?.to_owned()))
            };
            table.iter().map(pair).collect::<Option<Vec<_>>>()
        });
        pairs.unwrap_or_else(|| {
            self.refuse(key, format!("write a table of strings, such as `{key} = {{ name = \"value\" }}`"));
            Vec::new()
        })
    }

    /// A table of strings, whole numbers and booleans, such as `required_claims = { tenant = "t-1", verified = true }`.
    pub(crate) fn values(&self, key: &'static str) -> Vec<(String, serde_json::Value)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let pair = |(k, v): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
            Some((k.get_ref().to_string(), scalar(v.get_ref())?))
        };
        let pairs = value.get_ref().as_table().and_then(|table| table.iter().map(pair).collect::<Option<Vec<_>>>());
        pairs.filter(|pairs| !pairs.is_empty()).unwrap_or_else(|| {
            self.refuse(
                key,
                format!("write a table of strings, numbers or booleans: `{key} = {{ name = \"value\" }}`"),
            );
            Vec::new()
        })
    }

    /// A table of anything, as JSON: claims as a token would hold them.
    pub(crate) fn object(&self, key: &'static str) -> Option<serde_json::Value> {
        let value = json(self.value(key)?.get_ref()).filter(serde_json::Value::is_object);
        if value.is_none() {
            self.refuse(key, format!("write a table: `{key} = {{ name = \"value\" }}`, without dates"));
        }
        value
    }

    /// Whether the key is there and holds `[]`.
    pub(crate) fn is_empty_list(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|value| value.get_ref().as_array().is_some_and(|items| items.is_empty()))
    }

    /// The line that the section begins in, from 1.
    pub(crate) fn line(&self) -> usize {
        self.source.line(self.offset)
    }

    /// A string, a whole number or a boolean.
    pub(crate) fn scalar(&self, key: &'static str) -> Option<serde_json::Value> {
        let value = scalar(self.value(key)?.get_ref());
        if value.is_none() {
            self.refuse(key, "write a string, a whole number, `true` or `false`");
        }
        value
    }

    /// A list of lists of strings, such as `static = [["a", "b"]]`.
    pub(crate) fn lists(&self, key: &'static str) -> Vec<Vec<String>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let strings = |list: &Spanned<DeValue<'_>>| {
            let items = list.get_ref().as_array()?;
            items.iter().map(|i| i.get_ref().as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        };
        let lists = value.get_ref().as_array().and_then(|lists| lists.iter().map(strings).collect::<Option<Vec<_>>>());
        lists.unwrap_or_else(|| {
            self.refuse(key, format!("write a list of lists, such as `{key} = [[\"a\", \"b\"]]`"));
            Vec::new()
        })
    }

    /// A table, or nothing where the key holds anything else; the caller says what to write.
    pub(crate) fn table(&self, key: &'static str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        let table = value.get_ref().as_table()?;
        Some(Section::new(self.source, self.path_to(key), table, value.span().start))
    }

    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        let table = value.get_ref().as_table();
        if table.is_none() {
            self.refuse(key, format!("write a table: `[{}]`", self.path_to(key)));
        }
        table.map(|table| Section::new(self.source, self.path_to(key), table, value.span().start))
    }

    /// The tables in this one, each with its name, such as `[scrape.NAME]`; any name is taken.
    pub(crate) fn named(&self) -> Vec<(String, Section<'a>)> {
        let mut sections = Vec::new();
        for (name, value) in self.table {
            let (name, at) = (name.get_ref().to_string(), name.span().start);
            match value.get_ref().as_table() {
                Some(table) => {
                    let section = Section::new(self.source, self.path_to(&name), table, at);
                    sections.push((name, section));
                }
                None => {
                    self.source.problem(at, &self.path_to(&name), format!("write a table: `[{}]`", self.path_to(&name)))
                }
            }
        }
        sections
    }

    /// A table of numbers, such as `max = { "/parameters/horizon" = 128 }`.
    pub(crate) fn numbers(&self, key: &'static str) -> Vec<(String, serde_json::Number)> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let pair = |(k, v): (&Spanned<std::borrow::Cow<'_, str>>, &Spanned<DeValue<'_>>)| {
            let number = match v.get_ref() {
                DeValue::Integer(number) => number.as_str().replace('_', "").parse::<i64>().ok()?.into(),
                DeValue::Float(number) => serde_json::Number::from_f64(number.as_str().replace('_', "").parse().ok()?)?,
                _ => return None,
            };
            Some((k.get_ref().to_string(), number))
        };
        let pairs = value.get_ref().as_table().and_then(|table| table.iter().map(pair).collect::<Option<Vec<_>>>());
        pairs.filter(|pairs| !pairs.is_empty()).unwrap_or_else(|| {
            self.refuse(
                key,
                format!("write a table of numbers, such as `{key} = {{ \"/parameters/horizon\" = 128 }}`"),
            );
            Vec::new()
        })
    }

    /// The tables of a list such as `[[issuer]]`, in order.
    pub(crate) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.refuse(key, format!("write a list of tables, each headed `[[{}]]`", self.path_to(key)));
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (n, item) in items.iter().enumerate() {
            match item.get_ref().as_table() {
                Some(table) => {
                    let path = format!("{}[{n}]", self.path_to(key));
                    sections.push(Section::new(self.source, path, table, item.span().start));
                }
                None => self.refuse(key, format!("write a list of tables, each headed `[[{}]]`", self.path_to(key))),
            }
        }
        sections
    }

    /// Whether nothing is written in the table.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether the key is there. Asking makes it known.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// Whether the key is there and says `false`, as in `tls = false`.
    pub(crate) fn is_false(&self, key: &'static str) -> bool {
        self.value(key).is_some_and(|v| v.get_ref().as_bool() == Some(false))
    }

    /// Refuses every key that nobody has asked for.
    pub(crate) fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table {
            if !known.contains(&key.get_ref().as_ref()) {
                let text = format!("unknown key; known here: {}", known.join(", "));
                self.source.problem(key.span().start, &self.path_to(key.get_ref()), text);
            }
        }
    }

    fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        if !self.known.borrow().contains(&key) {
            self.known.borrow_mut().push(key);
        }
        self.table.get(key)
    }

    fn path_to(&self, key: &str) -> String {
        match (self.path.as_str(), key) {
            ("", _) => key.to_owned(),
            // the table itself
            (path, "") => path.to_owned(),
            (path, _) => format!("{path}.{key}"),
        }
    }
}

fn json(value: &DeValue<'_>) -> Option<serde_json::Value> {
    match value {
        DeValue::Float(number) => number.as_str().replace('_', "").parse::<f64>().ok().map(Into::into),
        DeValue::Array(items) => {
            items.iter().map(|item| json(item.get_ref())).collect::<Option<Vec<_>>>().map(Into::into)
        }
        DeValue::Table(table) => {
            let pairs = table.iter().map(|(name, value)| Some((name.get_ref().to_string(), json(value.get_ref())?)));
            pairs.collect::<Option<serde_json::Map<_, _>>>().map(Into::into)
        }
        other => scalar(other),
    }
}

fn scalar(value: &DeValue<'_>) -> Option<serde_json::Value> {
    match value {
        DeValue::String(text) => Some(text.to_string().into()),
        DeValue::Boolean(truth) => Some((*truth).into()),
        DeValue::Integer(number) => number.as_str().replace('_', "").parse::<i64>().ok().map(Into::into),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let reading = Source::new(Path::new("t.toml"), text.into()).read(|top| {
            top.required("name", "x");
            top.number("count", 1, 1, 10);
            top.duration("wait", Duration::from_secs(1));
            if let Some(inner) = top.section("inner") {
                inner.boolean("on", true);
                inner.finish();
            }
            for item in top.sections("item") {
                item.required("id", "a");
                item.finish();
            }
        });
        let problems = reading.problems;
        let found: Vec<String> = problems.iter().map(|p| format!("{}:{}", p.line, p.key)).collect();
        assert_eq!(found, expected, "{problems:?}");
    }

    #[test]
    fn every_problem_is_found_at_once_with_its_line() {
        check("name = \"x\"", &[]);
        check("", &["1:name"]);
        check("name = 3\ncount = 99\nwait = \"soon\"", &["1:name", "2:count", "3:wait"]);
        check("name = \"x\"\n[inner]\non = 1\noff = 2", &["3:inner.on", "4:inner.off"]);
        check("name = \"x\"\n[[item]]\nid = \"a\"\n[[item]]\nidd = \"b\"", &["4:item[1].id", "5:item[1].idd"]);
    }
}
