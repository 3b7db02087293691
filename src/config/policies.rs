//! The policy directory: `roles.toml`, the schema, every `*.cedar` file and `guardrails.toml`, compiled together, with
//! the shadow set below it.
//!
//! Promises: every problem of every file is reported with its line. A directory with problems is not served, even if
//! they are in the shadow set alone.

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

/// The problems and warnings of a policy directory.
#[derive(Default)]
pub(super) struct Diagnostics {
    /// The directory is not served.
    pub(super) problems: Vec<Problem>,
    /// Accepted, but probably a mistake.
    pub(super) warnings: Vec<Problem>,
}

impl Diagnostics {
    fn problem(&mut self, file: PathBuf, line: usize, text: String) {
        self.problems.push(Problem::at(file, line, text));
    }
}

/// Loads roles and policies from their directory alone, for the `policy` commands. Role rules may name any issuer,
/// because no configuration lists them. A directory `shadow` without a schema of its own is read as the
/// shadow set of the directory above it.
///
/// # Errors
/// Every problem of the files in it.
pub fn load_policies(directory: &Path) -> Result<Policy, Problems> {
    let mut diagnostics = Diagnostics::default();
    let is_shadow = directory.file_name().is_some_and(|name| name == SHADOW);
    let policy = match is_shadow && !directory.join(SCHEMA).exists() {
        true => shadow(directory, &mut diagnostics),
        false => policy(directory, None, &mut diagnostics),
    };
    match policy {
        Some(policy) if diagnostics.problems.is_empty() => Ok(policy),
        _ => Err(Problems(diagnostics.problems)),
    }
}

/// The source texts of a directory's schema and policies.
pub(super) fn sources(directory: &Path, diagnostics: &mut Diagnostics) -> (Option<PolicyFile>, Vec<PolicyFile>) {
    let schema = read_file(&directory.join(SCHEMA), diagnostics);
    (schema, cedar_files(directory).iter().filter_map(|path| read_file(path, diagnostics)).collect())
}

const ROLES: &str = "roles.toml";
const SCHEMA: &str = "wicketgate.cedarschema";
/// The folder of the shadow set in the policy directory.
pub(super) const SHADOW: &str = "shadow";

/// Loads the policies of a directory, and its shadow set if there is one. `claims` are the known claims of each issuer;
/// `None` if the issuers are unknown.
pub(super) fn policy(directory: &Path, claims: Option<&KnownClaims>, diagnostics: &mut Diagnostics) -> Option<Policy> {
    let enforced = set(directory, None, claims, diagnostics);
    let folder = directory.join(SHADOW);
    if !folder.is_dir() {
        return enforced;
    }
    let mut of_shadow = Diagnostics::default();
    let shadow = set(&folder, Some(directory), claims, &mut of_shadow);
    of_shadow.problems.retain(|problem| !diagnostics.problems.contains(problem));
    // files that it inherits were reported already
    of_shadow.warnings.retain(|warning| warning.file.starts_with(&folder));
    diagnostics.problems.extend(of_shadow.problems);
    diagnostics.warnings.extend(of_shadow.warnings);
    Some(enforced?.with_shadow(shadow?))
}

/// Loads a shadow set alone, as if it were enforced.
pub(super) fn shadow(folder: &Path, diagnostics: &mut Diagnostics) -> Option<Policy> {
    // `.` has no parent
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    set(&folder, folder.parent(), None, diagnostics)
}

/// Loads roles, schema and policies from one directory. A shadow set inherits what it lacks from the directory `above`
/// it: all `*.cedar` files together, so that a shadow set replaces the enforced policies as a whole.
fn set(
    directory: &Path,
    above: Option<&Path>,
    claims: Option<&KnownClaims>,
    diagnostics: &mut Diagnostics,
) -> Option<Policy> {
    let place = |name: &str| above.filter(|_| !directory.join(name).exists()).unwrap_or(directory).join(name);
    let mut files = cedar_files(directory);
    if let Some(above) = above.filter(|_| files.is_empty()) {
        if ![ROLES, SCHEMA].iter().any(|name| directory.join(name).exists()) {
            let text = "has no *.cedar files and no roles.toml; put some there, or remove the folder";
            diagnostics.problem(directory.to_owned(), 0, text.into());
            return None;
        }
        files = cedar_files(above);
    }
    if files.is_empty() {
        let text = "has no *.cedar file, so every request would be denied; start from the shipped policies";
        diagnostics.problem(directory.to_owned(), 0, text.into());
    }
    let roles = read_file(&place(ROLES), diagnostics);
    let schema = read_file(&place(SCHEMA), diagnostics);
    let unknown = schema.as_ref().map(schema_check::problems).unwrap_or_default();
    unknown.into_iter().for_each(|p| diagnostics.problem(p.file, p.line, p.text));
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
    let file = place(guardrails::FILE);
    let inherited = file.parent() != Some(directory);
    guardrails::with_guardrails(compiled?.with_roles(roles?), &file, inherited, &mut diagnostics.problems)
}

/// Every action that the gate requests decisions for; a schema may have more.
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
