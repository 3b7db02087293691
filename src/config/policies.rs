//! The policy directory: roles.toml, the schema and every `*.cedar` file, compiled together, guardrails.toml, and the
//! shadow set below it.
//!
//! Promises: every problem of every file is diagnostics, with its place; nothing of a directory with problems is served, be
//! they in the shadow set alone.

use std::path::{Path, PathBuf};

use super::{
    guardrails,
    problem::{Problem, Problems},
    reader::{Section, TomlFile},
    roles::{self, KnownClaims},
};
use crate::gate::{
    policy::{Policy, PolicyFile, Roles, schema_check},
    proxy, routes,
};

/// What is to be said of a policy directory.
#[derive(Default)]
pub(super) struct Diagnostics {
    /// What keeps it from being served.
    pub(super) problems: Vec<Problem>,
    /// What does not.
    pub(super) warnings: Vec<Problem>,
}

impl Diagnostics {
    fn problem(&mut self, file: PathBuf, line: usize, text: String) {
        self.problems.push(Problem::at(file, line, text));
    }
}

/// Loads roles and policies from their directory alone, for those who look at policy without a gate. Role rules may name
/// any issuer: there is no configuration to know them by. A directory `shadow` without a schema of its own is read as the
/// shadow set of the directory above it.
///
/// # Errors
/// Every problem of the files in it.
pub fn load_policies(directory: &Path) -> Result<Policy, Problems> {
    let mut diagnostics = Diagnostics::default();
    let is_shadow = directory.file_name().is_some_and(|name| name == SHADOW);
    let policy = match is_shadow && !directory.join("wicketgate.cedarschema").exists() {
        true => shadow(directory, &mut diagnostics),
        false => policy(directory, None, &mut diagnostics),
    };
    match policy {
        Some(policy) if diagnostics.problems.is_empty() => Ok(policy),
        _ => Err(Problems(diagnostics.problems)),
    }
}

/// The schema and the policies of a directory, as they are written.
pub(super) fn sources(directory: &Path, diagnostics: &mut Diagnostics) -> (Option<PolicyFile>, Vec<PolicyFile>) {
    let schema = read_file(&directory.join("wicketgate.cedarschema"), diagnostics);
    (schema, cedar_files(directory).iter().filter_map(|path| read_file(path, diagnostics)).collect())
}

/// Where the shadow set is, below the policy directory.
pub(super) const SHADOW: &str = "shadow";

/// Loads the set of a directory, and the shadow set below it where there is one. `claims` tells what the issuers that
/// rules may name say, where that is known.
pub(super) fn policy(directory: &Path, claims: Option<&KnownClaims>, diagnostics: &mut Diagnostics) -> Option<Policy> {
    let enforced = set(directory, None, claims, diagnostics);
    let folder = directory.join(SHADOW);
    if !folder.is_dir() {
        return enforced;
    }
    let mut of_shadow = Diagnostics::default();
    let shadow = set(&folder, Some(directory), claims, &mut of_shadow);
    of_shadow.problems.retain(|problem| !diagnostics.problems.contains(problem));
    // what it takes from above was looked at there
    of_shadow.warnings.retain(|warning| warning.file.starts_with(&folder));
    diagnostics.problems.extend(of_shadow.problems);
    diagnostics.warnings.extend(of_shadow.warnings);
    Some(enforced?.with_shadow(shadow?))
}

/// Loads a shadow set alone, as if it were the one to be served.
pub(super) fn shadow(folder: &Path, diagnostics: &mut Diagnostics) -> Option<Policy> {
    // of `.` it could not be diagnostics what is above
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    set(&folder, folder.parent(), None, diagnostics)
}

/// Loads roles, schema and policies from one directory. Each that a shadow set lacks is the one of the directory
/// `above` it: `*.cedar` all together, so that a shadow set stands for the enforced policies whole.
fn set(
    directory: &Path,
    above: Option<&Path>,
    claims: Option<&KnownClaims>,
    diagnostics: &mut Diagnostics,
) -> Option<Policy> {
    let (roles_file, schema_file) = ("roles.toml", "wicketgate.cedarschema");
    let place = |name: &str| above.filter(|_| !directory.join(name).exists()).unwrap_or(directory).join(name);
    let mut files = cedar_files(directory);
    if let Some(above) = above.filter(|_| files.is_empty()) {
        if ![roles_file, schema_file].iter().any(|name| directory.join(name).exists()) {
            let text = "holds nothing to be tried out; put *.cedar files or roles.toml there, or take it away";
            diagnostics.problem(directory.to_owned(), 0, text.into());
            return None;
        }
        files = cedar_files(above);
    }
    if files.is_empty() {
        let text = "holds no *.cedar file, so everything would be denied; start from the shipped policies";
        diagnostics.problem(directory.to_owned(), 0, text.into());
    }
    let roles = read_file(&place(roles_file), diagnostics);
    let schema = read_file(&place(schema_file), diagnostics);
    let strange = schema.as_ref().map(schema_check::strange).unwrap_or_default();
    strange.into_iter().for_each(|p| diagnostics.problem(p.file, p.line, p.text));
    let policies: Vec<PolicyFile> = files.iter().filter_map(|path| read_file(path, diagnostics)).collect();
    let compiled = schema.map(|schema| Policy::new(Roles::default(), &schema, &policies, actions()));
    let compiled = compiled.and_then(|compiled| {
        compiled.map_err(|found| found.into_iter().for_each(|p| diagnostics.problem(p.file, p.line, p.text))).ok()
    });
    let roles = roles.map(|file| {
        let parsed =
            Section::read(TomlFile::new(&file.path, file.text), |top| roles::roles(top, claims, compiled.as_ref()));
        diagnostics.problems.extend(parsed.problems);
        diagnostics.warnings.extend(parsed.warnings);
        parsed.value
    });
    let rails = place(guardrails::FILE);
    let borrowed = rails.parent() != Some(directory);
    guardrails::guarded(compiled?.with_roles(roles?), &rails, borrowed, &mut diagnostics.problems)
}

/// Every action that policy can be asked about.
pub(crate) fn actions() -> impl Iterator<Item = &'static str> {
    routes::actions().chain([proxy::EXCHANGE])
}

fn cedar_files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|e| e == "cedar")).collect();
    files.sort();
    files
}

fn read_file(path: &Path, diagnostics: &mut Diagnostics) -> Option<PolicyFile> {
    let read = std::fs::read_to_string(path);
    let file = read.map(|text| PolicyFile { path: path.to_owned(), text });
    file.map_err(|e| diagnostics.problem(path.to_owned(), 0, format!("cannot be read: {e}"))).ok()
}
