//! The text of a TOML file, with the problems, warnings and file names collected while it is read.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
};

use crate::config::problem::Problem;

/// A file's text and what was collected about it.
pub(crate) struct TomlFile {
    path: PathBuf,
    pub(super) text: String,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
    files: RefCell<Vec<PathBuf>>,
}

/// The result of reading a file.
pub(crate) struct Parsed<T> {
    /// Valid only if there are no problems.
    pub(crate) value: T,
    pub(crate) problems: Vec<Problem>,
    /// Accepted, but probably a mistake.
    pub(crate) warnings: Vec<Problem>,
    /// The files that the file names as part of the configuration, such as certificates.
    pub(crate) files: Vec<PathBuf>,
}

impl TomlFile {
    pub(crate) fn new(path: &Path, text: String) -> Self {
        Self {
            path: path.to_owned(),
            text,
            problems: RefCell::default(),
            warnings: RefCell::default(),
            files: RefCell::default(),
        }
    }

    pub(super) fn into_parsed<T>(self, value: T) -> Parsed<T> {
        let Self { problems, warnings, files, .. } = self;
        Parsed { value, problems: problems.into_inner(), warnings: warnings.into_inner(), files: files.into_inner() }
    }

    /// `path`, relative to the folder that this file is in.
    pub(super) fn resolve(&self, path: &str) -> PathBuf {
        self.path.parent().unwrap_or(Path::new("")).join(path)
    }

    /// The line at a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1
    }

    pub(super) fn add_problem(&self, offset: usize, key: &str, text: String) {
        self.problems.borrow_mut().push(self.locate(offset, key, text));
    }

    pub(super) fn add_warning(&self, offset: usize, key: &str, text: String) {
        self.warnings.borrow_mut().push(self.locate(offset, key, text));
    }

    pub(super) fn add_files(&self, paths: impl IntoIterator<Item = PathBuf>) {
        self.files.borrow_mut().extend(paths);
    }

    fn locate(&self, offset: usize, key: &str, text: String) -> Problem {
        Problem { file: self.path.clone(), line: self.line(offset), key: key.to_owned(), text }
    }
}
