//! proofs.toml: what is to be proved of a policy directory, besides what is proved of every one.
//!
//! Promises: each statement is read against the directory's own schema before a solver is asked; one that cannot be
//! meant so is a problem with its line. Of every directory it is proved, whatever the file says, that nobody may both
//! ingest and infer, and the same of each two roles that roles.toml keeps apart and that are groups of actions.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use super::{
    policies::{self, Diagnostics, load_policies},
    problem::{Problem, Problems},
    reader::{Section, TomlFile},
};
use crate::gate::{
    policy::{
        PolicyFile, Roles,
        prove::{Claim, Set, Statement, Subject},
    },
    routes,
};

/// The groups that are kept apart whatever a configuration says.
const ALWAYS_APART: [&str; 2] = ["ingest", "infer"];

/// What is to be proved of a directory.
pub(crate) struct Proofs {
    /// The directory's policies.
    pub(crate) subject: Subject,
    /// What is said of them.
    pub(crate) statements: Vec<Statement>,
    /// What nothing is said of, though it may have been meant.
    pub(crate) warnings: Vec<String>,
}

/// Reads a policy directory and the `proofs.toml` in it, where there is one.
///
/// # Errors
/// Every problem of its files, and of the directories that it is compared with.
pub(crate) fn proofs(directory: &Path) -> Result<Proofs, Problems> {
    let (schema, set, roles) = directory_of(directory, "these policies")?;
    let subject = Subject::new(&schema, set).map_err(|p| Problem::at(p.file, p.line, p.text))?;
    let mut problems: Vec<Problem> = strays(&subject)
        .into_iter()
        .map(|(action, group)| {
            let text = format!(
                "the gate counts the action `{action}` as `{group}`, but it is not in `Action::\"{group}\"`, so that \
                 proofs about the group would not speak of it; take the shipped schema and put your own types behind it"
            );
            Problem::of_file(&schema.path, text)
        })
        .collect();
    let (mut statements, warnings) = usual(&subject, &roles);
    let file = directory.join("proofs.toml");
    match std::fs::read_to_string(&file) {
        Ok(text) => {
            let parsed = Section::read(TomlFile::new(&file, text), |top| read(top, &subject, &statements));
            problems.extend(parsed.problems);
            statements.extend(parsed.value);
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => problems.push(Problem::of_file(&file, format!("cannot be read: {error}"))),
    }
    if problems.is_empty() { Ok(Proofs { subject, statements, warnings }) } else { Err(Problems(problems)) }
}

/// A directory that can be served: its schema, its policies and its roles.
fn directory_of(directory: &Path, name: &str) -> Result<(PolicyFile, Set, Roles), Problems> {
    let roles = load_policies(directory)?.roles().clone();
    let mut diagnostics = Diagnostics::default();
    let (schema, files) = policies::sources(directory, &mut diagnostics);
    match (schema, Set::new(name, &files, &roles)) {
        (Some(schema), Ok(set)) if diagnostics.problems.is_empty() => Ok((schema, set, roles)),
        (_, set) => {
            let found = set.err().unwrap_or_default().into_iter().map(|p| Problem::at(p.file, p.line, p.text));
            Err(Problems(diagnostics.problems.into_iter().chain(found).collect()))
        }
    }
}

/// Actions that the schema has taken out of the group that the gate counts them as.
fn strays(subject: &Subject) -> BTreeSet<(&'static str, &'static str)> {
    routes::groups().filter(|(action, group)| !subject.is_in(action, group)).collect()
}

/// What is proved of every directory, and what cannot be.
fn usual(subject: &Subject, roles: &Roles) -> (Vec<Statement>, Vec<String>) {
    let (mut pairs, mut warnings) = (vec![ALWAYS_APART.map(Arc::from)], BTreeSet::new());
    let mut statements = Vec::new();
    for list in roles.separate.iter().chain(&roles.dynamic) {
        for role in list.iter().filter(|role| !subject.is_group(role)) {
            warnings.insert(format!(
                "roles.toml keeps `{role}` apart, but no group of actions has that name, so nothing is proved of it; \
                 write into proofs.toml what it must never do"
            ));
        }
        let groups: Vec<&Arc<str>> = list.iter().filter(|role| subject.is_group(role)).collect();
        for (n, one) in groups.iter().enumerate() {
            for other in groups.iter().skip(n + 1) {
                let pair = [(*one).clone(), (*other).clone()];
                let turned = [(*other).clone(), (*one).clone()];
                if !pairs.contains(&pair) && !pairs.contains(&turned) {
                    pairs.push(pair.clone());
                }
                for [role, other] in [pair, turned] {
                    let text = format!(
                        "principal in Role::\"{role}\" && !(principal in Role::\"{other}\") && \
                         action in Action::\"{other}\""
                    );
                    if let Ok(condition) = subject.condition(&text) {
                        let name = format!("the role `{role}` without `{other}` does nothing of `{other}`");
                        statements.push(Statement { name, claim: Claim::Never(condition) });
                    }
                }
            }
        }
    }
    let apart = pairs.into_iter().map(|[one, other]| Statement {
        name: format!("whoever may `{one}` may not `{other}`, and the reverse"),
        claim: Claim::Apart([(*one).to_owned(), (*other).to_owned()]),
    });
    (apart.chain(statements).collect(), warnings.into_iter().collect())
}

fn read(top: &Section<'_>, subject: &Subject, usual: &[Statement]) -> Vec<Statement> {
    let mut names: BTreeSet<String> = usual.iter().map(|statement| statement.name.clone()).collect();
    let mut statements = Vec::new();
    let mut keep = |section: &Section<'_>, claim: Option<Claim>| {
        let name = section.required("name", "scrapers never administer");
        section.finish();
        if !name.is_empty() && !names.insert(name.clone()) {
            section.problem("name", format!("two proofs are called `{name}`; nobody could tell them apart"));
        }
        statements.extend(claim.map(|claim| Statement { name, claim }));
    };
    for section in top.sections("never") {
        let claim = condition(&section, subject, Claim::Never);
        keep(&section, claim);
    }
    for section in top.sections("always") {
        let claim = condition(&section, subject, Claim::Always);
        keep(&section, claim);
    }
    for section in top.sections("apart") {
        let claim = groups(&section, subject);
        keep(&section, claim);
    }
    for section in top.sections("equivalent") {
        let claim = other(&section, subject, Claim::Equivalent);
        keep(&section, claim);
    }
    for section in top.sections("at_most") {
        let claim = other(&section, subject, Claim::AtMost);
        keep(&section, claim);
    }
    statements
}

fn condition(
    section: &Section<'_>,
    subject: &Subject,
    claim: fn(crate::gate::policy::prove::Condition) -> Claim,
) -> Option<Claim> {
    let text = section.required("when", "principal in Role::\\\"scrape\\\" && action in Action::\\\"administer\\\"");
    if text.is_empty() {
        return None;
    }
    subject.condition(&text).map_err(|e| section.problem("when", e)).map(claim).ok()
}

fn groups(section: &Section<'_>, subject: &Subject) -> Option<Claim> {
    let groups = section.strings("groups").unwrap_or_default();
    let example = "write two groups of actions, such as `groups = [\"ingest\", \"train\"]`";
    if groups.len() != 2 || groups.first() == groups.last() {
        section.problem("groups", example);
        return None;
    }
    let strange = groups.iter().find(|group| !subject.is_group(group));
    if let Some(group) = strange {
        section.problem("groups", format!("no action of the schema is in a group `{group}`; {example}"));
        return None;
    }
    groups.try_into().ok().map(Claim::Apart)
}

fn other(section: &Section<'_>, subject: &Subject, claim: fn(Arc<Set>) -> Claim) -> Option<Claim> {
    let text = section.required("directory", "../policies-before");
    if text.is_empty() {
        return None;
    }
    let set = directory_of(&section.resolve(&text), &format!("`{text}`")).map_err(|e| e.to_string());
    let set = set.and_then(|(_, set, _)| {
        let fits = subject.fits(&set);
        fits.map(|()| set).map_err(|e| format!("its policies do not fit this directory's schema: {e}"))
    });
    set.map_err(|e| section.problem("directory", e)).map(|set| claim(Arc::new(set))).ok()
}
