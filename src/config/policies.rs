//! The policy directory: roles.toml, the schema and every `*.cedar` file, compiled together, guardrails.toml, and the
//! shadow set below it.
//!
//! Promises: every problem of every file is told, with its place; nothing of a directory with problems is served, be
//! they in the shadow set alone.

use std::path::{Path, PathBuf};

use super::{
    Problem, guardrails,
    reader::Source,
    roles::{self, Sayings},
};
use crate::gate::{
    policy::{Policy, PolicyFile, Roles, schema_check},
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
    (schema, cedar_files(directory).iter().filter_map(|path| read_file(path, told)).collect())
}

/// Where the shadow set is, below the policy directory.
pub(super) const SHADOW: &str = "shadow";

/// Loads the set of a directory, and the shadow set below it where there is one. `sayings` tells what the issuers that
/// rules may name say, where that is known.
pub(super) fn policy(directory: &Path, sayings: Option<&Sayings>, told: &mut Told) -> Option<Policy> {
    let enforced = set(directory, None, sayings, told);
    let folder = directory.join(SHADOW);
    if !folder.is_dir() {
        return enforced;
    }
    let mut of_shadow = Told::default();
    let shadow = set(&folder, Some(directory), sayings, &mut of_shadow);
    of_shadow.problems.retain(|problem| !told.problems.contains(problem));
    // what it takes from above was looked at there
    of_shadow.warnings.retain(|warning| warning.file.starts_with(&folder));
    told.problems.extend(of_shadow.problems);
    told.warnings.extend(of_shadow.warnings);
    Some(enforced?.with_shadow(shadow?))
}

/// Loads a shadow set alone, as if it were the one to be served.
pub(super) fn shadow(folder: &Path, told: &mut Told) -> Option<Policy> {
    // of `.` it could not be told what is above
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    set(&folder, folder.parent(), None, told)
}

/// Loads roles, schema and policies from one directory. Each that a shadow set lacks is the one of the directory
/// `above` it: `*.cedar` all together, so that a shadow set stands for the enforced policies whole.
fn set(directory: &Path, above: Option<&Path>, sayings: Option<&Sayings>, told: &mut Told) -> Option<Policy> {
    let (roles_file, schema_file) = ("roles.toml", "wicketgate.cedarschema");
    let place = |name: &str| above.filter(|_| !directory.join(name).exists()).unwrap_or(directory).join(name);
    let mut files = cedar_files(directory);
    if let Some(above) = above.filter(|_| files.is_empty()) {
        if ![roles_file, schema_file].iter().any(|name| directory.join(name).exists()) {
            let text = "holds nothing to be tried out; put *.cedar files or roles.toml there, or take it away";
            told.problem(directory.to_owned(), 0, text.into());
            return None;
        }
        files = cedar_files(above);
    }
    if files.is_empty() {
        let text = "holds no *.cedar file, so everything would be denied; start from the shipped policies";
        told.problem(directory.to_owned(), 0, text.into());
    }
    let roles = read_file(&place(roles_file), told);
    let schema = read_file(&place(schema_file), told);
    let strange = schema.as_ref().map(schema_check::strange).unwrap_or_default();
    strange.into_iter().for_each(|p| told.problem(p.file, p.line, p.text));
    let policies: Vec<PolicyFile> = files.iter().filter_map(|path| read_file(path, told)).collect();
    let compiled = schema.map(|schema| Policy::new(Roles::default(), &schema, &policies, actions()));
    let compiled = compiled.and_then(|compiled| {
        compiled.map_err(|found| found.into_iter().for_each(|p| told.problem(p.file, p.line, p.text))).ok()
    });
    let roles = roles.map(|file| {
        let reading = Source::new(&file.path, file.text).read(|top| roles::roles(top, sayings, compiled.as_ref()));
        told.problems.extend(reading.problems);
        told.warnings.extend(reading.warnings);
        reading.value
    });
    let rails = place(guardrails::FILE);
    let borrowed = rails.parent() != Some(directory);
    guardrails::guarded(compiled?.with_roles(roles?), &rails, borrowed, &mut told.problems)
}

/// Every action that policy can be asked about.
pub(super) fn actions() -> impl Iterator<Item = &'static str> {
    routes::actions().chain([proxy::EXCHANGE])
}

fn cedar_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "cedar")).collect();
    files.sort();
    files
}

fn read_file(path: &Path, told: &mut Told) -> Option<PolicyFile> {
    let read = std::fs::read_to_string(path);
    let file = read.map(|text| PolicyFile { path: path.to_owned(), text });
    file.map_err(|e| told.problem(path.to_owned(), 0, format!("cannot be read: {e}"))).ok()
}
