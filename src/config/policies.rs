//! The policy directory: roles.toml, the schema and every `*.cedar` file, compiled together.
//!
//! Promises: every problem of every file is told, with its place; nothing of a directory with problems is served.

use std::path::{Path, PathBuf};

use super::{
    Problem,
    reader::Source,
    roles::{self, Sayings},
};
use crate::{
    policy::{Policy, PolicyFile, Roles},
    proxy, routes,
};

/// What is to be said of a policy directory.
#[derive(Default)]
pub(super) struct Told {
    /// What keeps it from being served.
    pub(super) problems: Vec<Problem>,
    /// What does not.
    pub(super) warnings: Vec<Problem>,
}

impl Told {
    fn problem(&mut self, file: PathBuf, line: usize, text: String) {
        self.problems.push(Problem { file, line, key: String::new(), text });
    }
}

/// The schema and the policies of a directory, as they are written.
pub(super) fn sources(directory: &Path, told: &mut Told) -> (Option<PolicyFile>, Vec<PolicyFile>) {
    let schema = read_file(&directory.join("wicketgate.cedarschema"), told);
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "cedar"))
        .collect();
    files.sort();
    (schema, files.iter().filter_map(|path| read_file(path, told)).collect())
}

/// Loads roles, schema and policies from their directory. `sayings` tells what the issuers that rules may name say,
/// where that is known.
pub(super) fn policy(directory: &Path, sayings: Option<&Sayings>, told: &mut Told) -> Option<Policy> {
    let roles = read_file(&directory.join("roles.toml"), told);
    let (schema, policies) = sources(directory, told);
    if policies.is_empty() {
        let text = "holds no *.cedar file, so everything would be denied; start from the shipped policies";
        told.problem(directory.to_owned(), 0, text.into());
    }
    let actions = routes::actions().chain([proxy::EXCHANGE]);
    let compiled = schema.map(|schema| Policy::new(Roles::default(), &schema, &policies, actions));
    let compiled = compiled.and_then(|compiled| {
        compiled.map_err(|found| found.into_iter().for_each(|p| told.problem(p.file, p.line, p.text))).ok()
    });
    let roles = roles.map(|file| {
        let reading = Source::new(&file.path, file.text).read(|top| roles::roles(top, sayings, compiled.as_ref()));
        told.problems.extend(reading.problems);
        told.warnings.extend(reading.warnings);
        reading.value
    });
    Some(compiled?.with_roles(roles?))
}

fn read_file(path: &Path, told: &mut Told) -> Option<PolicyFile> {
    let read = std::fs::read_to_string(path);
    let file = read.map(|text| PolicyFile { path: path.to_owned(), text });
    file.map_err(|e| told.problem(path.to_owned(), 0, format!("cannot be read: {e}"))).ok()
}
