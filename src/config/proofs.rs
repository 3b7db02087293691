//! `proofs.toml`: statements to prove about a policy directory, and those that are proved of every directory.
//!
//! Promises: each statement is validated against the directory's own schema before a solver runs; an invalid one is a
//! problem with its line. Of every directory it is proved that no principal may both ingest and infer, and the same of
//! each two roles that roles.toml separates and that are groups of actions.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use super::{
    policies::{self, Diagnostics, load_policies},
    problem::{Problem, Problems},
    reader::{Section, TomlFile},
};
use crate::gate::{
    policy::{
        PolicyFile, Roles,
        prove::{Analysis, AnalyzedPolicies, Property, Statement},
    },
    routes,
};

/// The groups that are separated in every configuration.
const ALWAYS_SEPARATE: [&str; 2] = ["ingest", "infer"];

/// The statements to prove about a directory.
pub(crate) struct Proofs {
    /// The directory's policies.
    pub(crate) subject: Analysis,
    /// The statements.
    pub(crate) statements: Vec<Statement>,
    /// Separated roles about which nothing is proved.
    pub(crate) warnings: Vec<String>,
}

/// Reads a policy directory and its optional `proofs.toml`.
///
/// # Errors
/// Every problem of its files, and of the directories that it is compared with.
pub(crate) fn proofs(directory: &Path) -> Result<Proofs, Problems> {
    let (schema, set, roles) = directory_of(directory, "these policies")?;
    let subject = Analysis::new(&schema, set).map_err(|p| Problem::at(p.file, p.line, p.text))?;
    let mut problems: Vec<Problem> = actions_outside_group(&subject)
        .into_iter()
        .map(|(action, group)| {
            let text = format!(
                "the gate assigns the action `{action}` to `{group}`, but it is not in `Action::\"{group}\"`, so \
                 proofs about the group would not cover it; use the shipped schema and add your own types after it"
            );
            Problem::of_file(&schema.path, text)
        })
        .collect();
    let (mut statements, warnings) = default_statements(&subject, &roles);
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

/// The schema, policies and roles of a valid directory.
fn directory_of(directory: &Path, name: &str) -> Result<(PolicyFile, AnalyzedPolicies, Roles), Problems> {
    let roles = load_policies(directory)?.roles().clone();
    let mut diagnostics = Diagnostics::default();
    let (schema, files) = policies::sources(directory, &mut diagnostics);
    match (schema, AnalyzedPolicies::new(name, &files, &roles)) {
        (Some(schema), Ok(set)) if diagnostics.problems.is_empty() => Ok((schema, set, roles)),
        (_, set) => {
            let found = set.err().unwrap_or_default().into_iter().map(|p| Problem::at(p.file, p.line, p.text));
            Err(Problems(diagnostics.problems.into_iter().chain(found).collect()))
        }
    }
}

/// Actions that the schema does not have in the group that the gate assigns them to.
fn actions_outside_group(subject: &Analysis) -> BTreeSet<(&'static str, &'static str)> {
    routes::groups().filter(|(action, group)| !subject.is_in(action, group)).collect()
}

/// The statements that are proved of every directory, and warnings about those that cannot be.
fn default_statements(subject: &Analysis, roles: &Roles) -> (Vec<Statement>, Vec<String>) {
    let mut pairs = vec![ALWAYS_SEPARATE.map(Arc::from)];
    let mut warnings = BTreeSet::new();
    let mut statements = Vec::new();
    for list in roles.static_separation.iter().chain(&roles.dynamic_separation) {
        for role in list.iter().filter(|role| !subject.is_group(role)) {
            warnings.insert(format!(
                "roles.toml separates `{role}`, but no group of actions has that name, so nothing is proved of it; \
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
                        statements.push(Statement { name, property: Property::Never(condition) });
                    }
                }
            }
        }
    }
    let apart = pairs.into_iter().map(|[one, other]| Statement {
        name: format!("no principal may both `{one}` and `{other}`"),
        property: Property::Separation([(*one).to_owned(), (*other).to_owned()]),
    });
    (apart.chain(statements).collect(), warnings.into_iter().collect())
}

fn read(top: &Section<'_>, subject: &Analysis, defaults: &[Statement]) -> Vec<Statement> {
    let mut names: BTreeSet<String> = defaults.iter().map(|statement| statement.name.clone()).collect();
    let mut statements = Vec::new();
    let mut keep = |section: &Section<'_>, property: Option<Property>| {
        let name = section.required("name", "scrapers never administer");
        section.finish();
        if !name.is_empty() && !names.insert(name.clone()) {
            section.problem("name", format!("two proofs have the name `{name}`; give one of them another name"));
        }
        statements.extend(property.map(|property| Statement { name, property }));
    };
    for section in top.sections("never") {
        let property = condition(&section, subject, Property::Never);
        keep(&section, property);
    }
    for section in top.sections("always") {
        let property = condition(&section, subject, Property::Always);
        keep(&section, property);
    }
    for section in top.sections("separation") {
        let property = groups(&section, subject);
        keep(&section, property);
    }
    for section in top.sections("equivalent") {
        let property = other(&section, subject, Property::Equivalent);
        keep(&section, property);
    }
    for section in top.sections("at_most") {
        let property = other(&section, subject, Property::AtMost);
        keep(&section, property);
    }
    statements
}

fn condition(
    section: &Section<'_>,
    subject: &Analysis,
    property: fn(crate::gate::policy::prove::RequestCondition) -> Property,
) -> Option<Property> {
    let text = section.required("when", "principal in Role::\\\"scrape\\\" && action in Action::\\\"administer\\\"");
    if text.is_empty() {
        return None;
    }
    subject.condition(&text).map_err(|e| section.problem("when", e)).map(property).ok()
}

fn groups(section: &Section<'_>, subject: &Analysis) -> Option<Property> {
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
    groups.try_into().ok().map(Property::Separation)
}

fn other(
    section: &Section<'_>,
    subject: &Analysis,
    property: fn(Arc<AnalyzedPolicies>) -> Property,
) -> Option<Property> {
    let text = section.required("directory", "../policies-before");
    if text.is_empty() {
        return None;
    }
    let set = directory_of(&section.resolve(&text), &format!("`{text}`")).map_err(|e| e.to_string());
    let set = set.and_then(|(_, set, _)| {
        let fits = subject.fits(&set);
        fits.map(|()| set).map_err(|e| format!("its policies do not fit this directory's schema: {e}"))
    });
    set.map_err(|e| section.problem("directory", e)).map(|set| property(Arc::new(set))).ok()
}
