//! A TOML table whose keys are checked off as they are read, so that unknown ones can be reported.

use std::{borrow::Cow, cell::RefCell, fmt, path::PathBuf};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::toml_file::{Parsed, TomlFile};
use crate::telemetry::chain;

/// One table of the file, such as `[gate]` or the second `[[issuer]]`.
pub(crate) struct Section<'a> {
    pub(super) file: &'a TomlFile,
    path: String,
    table: &'a DeTable<'a>,
    offset: usize,
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Section<'a> {
    /// Parses the file and passes its top table to `read`. Returns what `read` made, with every problem.
    pub(crate) fn read<T>(file: TomlFile, read: impl FnOnce(&Section<'_>) -> T) -> Parsed<T> {
        let (table, errors) = DeTable::parse_recoverable(&file.text);
        for error in errors {
            file.add_problem(error.span().map_or(0, |s| s.start), "", error.message().to_owned());
        }
        let top = Section::new(&file, String::new(), table.get_ref(), 0);
        let value = read(&top);
        top.finish();
        drop(table);
        file.into_parsed(value)
    }

    fn new(file: &'a TomlFile, path: String, table: &'a DeTable<'a>, offset: usize) -> Self {
        Self { file, path, table, offset, known: RefCell::default() }
    }

    /// Reports a wrong value of `key`; of the table itself if `key` is empty.
    pub(crate) fn problem(&self, key: &str, text: impl fmt::Display) {
        self.file.add_problem(self.offset_of(key), &self.path_to(key), text.to_string());
    }

    /// Reports a value of `key` that is accepted but probably a mistake.
    pub(crate) fn warning(&self, key: &str, text: impl fmt::Display) {
        self.file.add_warning(self.offset_of(key), &self.path_to(key), text.to_string());
    }

    /// The value of `result`; its error is reported as a problem of `key`.
    pub(crate) fn ok_or_problem<T, E: std::error::Error>(&self, key: &str, result: Result<T, E>) -> Option<T> {
        result.map_err(|e| self.problem(key, chain(&e))).ok()
    }

    /// The line that the section begins in, from 1.
    pub(crate) fn line(&self) -> usize {
        self.file.line(self.offset)
    }

    /// Whether the table has no keys.
    pub(crate) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Whether the key is present. This makes the key known.
    pub(crate) fn has(&self, key: &'static str) -> bool {
        self.value(key).is_some()
    }

    /// The table at `key`, such as `[gate]`; a problem if the key holds anything else.
    pub(crate) fn section(&self, key: &'static str) -> Option<Section<'a>> {
        let table = self.table(key);
        if table.is_none() && self.has(key) {
            self.problem(key, format!("write a table: `[{}]`", self.path_to(key)));
        }
        table
    }

    /// The table at `key`. `None` if the key holds anything else: the caller reports what to write.
    pub(crate) fn table(&self, key: &'static str) -> Option<Section<'a>> {
        let value = self.value(key)?;
        Some(Section::new(self.file, self.path_to(key), value.get_ref().as_table()?, value.span().start))
    }

    /// The tables of a list such as `[[issuer]]`, in order.
    pub(crate) fn sections(&self, key: &'static str) -> Vec<Section<'a>> {
        let Some(value) = self.value(key) else { return Vec::new() };
        let path = self.path_to(key);
        let wrong = || self.problem(key, format!("write a list of tables, each with the header `[[{path}]]`"));
        let Some(items) = value.get_ref().as_array() else {
            wrong();
            return Vec::new();
        };
        let section = |(n, item): (usize, &'a Spanned<DeValue<'a>>)| {
            let Some(table) = item.get_ref().as_table() else {
                wrong();
                return None;
            };
            Some(Section::new(self.file, format!("{path}[{n}]"), table, item.span().start))
        };
        items.iter().enumerate().filter_map(section).collect()
    }

    /// All tables in this one with their names, such as `[scrape.NAME]`; every name is accepted.
    pub(crate) fn named_sections(&self) -> Vec<(String, Section<'a>)> {
        let section = |(name, value): (&'a Spanned<Cow<'a, str>>, &'a Spanned<DeValue<'a>>)| {
            let offset = name.span().start;
            let name = name.get_ref().to_string();
            let path = self.path_to(&name);
            match value.get_ref().as_table() {
                Some(table) => Some((name, Section::new(self.file, path, table, offset))),
                None => {
                    self.file.add_problem(offset, &path, format!("write a table: `[{path}]`"));
                    None
                }
            }
        };
        self.table.iter().filter_map(section).collect()
    }

    /// Reports every key that was never read.
    pub(crate) fn finish(&self) {
        let known = self.known.borrow();
        for (key, _) in self.table {
            if !known.contains(&key.get_ref().as_ref()) {
                let text = format!("unknown key; known here: {}", known.join(", "));
                self.file.add_problem(key.span().start, &self.path_to(key.get_ref()), text);
            }
        }
    }

    /// `path`, relative to the folder that the file is in.
    pub(crate) fn resolve(&self, path: &str) -> PathBuf {
        self.file.resolve(path)
    }

    pub(super) fn value(&self, key: &'static str) -> Option<&'a Spanned<DeValue<'a>>> {
        if !self.known.borrow().contains(&key) {
            self.known.borrow_mut().push(key);
        }
        self.table.get(key)
    }

    fn offset_of(&self, key: &str) -> usize {
        self.table.iter().find(|(k, _)| k.get_ref() == key).map_or(self.offset, |(k, _)| k.span().start)
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
