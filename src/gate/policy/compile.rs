//! Compilation of schema and policies, or every problem with its file and line.
//!
//! Promises: nothing that Cedar's validator refuses is compiled; two policies never share a name. Pure.

use std::{
    collections::{HashMap, HashSet},
    str::FromStr,
    sync::Arc,
};

use cedar_policy::{Policy, PolicyId, PolicySet, Schema, SchemaFragment, ValidationMode, Validator};
use miette::Diagnostic;
use serde_json::Value;

use super::{
    policy_file::{PolicyFile, PolicyProblem},
    source_text::{PolicySource, policy_sources},
};

/// Schema and policies that fit each other.
pub(super) struct Compiled {
    pub(super) schema: Schema,
    pub(super) set: PolicySet,
    /// What audit calls each policy.
    pub(super) names: HashMap<PolicyId, Arc<str>>,
    /// Each policy as its file has it.
    pub(super) sources: Vec<PolicySource>,
}

/// Compiles all of them. The actions that are `needed` must be in the schema.
pub(super) fn compile<'a>(
    schema_file: &PolicyFile,
    files: &[PolicyFile],
    needed: impl Iterator<Item = &'a str>,
) -> Result<Compiled, Vec<PolicyProblem>> {
    let of_schema = |e: &dyn Diagnostic, text: String| vec![problem(schema_file, e, text)];
    let (fragment, _) =
        SchemaFragment::from_cedarschema_str(&schema_file.text).map_err(|e| of_schema(&e, e.to_string()))?;
    let schema = Schema::from_schema_fragments([fragment.clone()]).map_err(|e| of_schema(&e, e.to_string()))?;
    let (set, names, mut problems) = read(files);
    let validated_by = representative(fragment, &set).unwrap_or_else(|| schema.clone());
    let verdict = Validator::new(validated_by).validate(&set, ValidationMode::Strict);
    let mut told = HashSet::new();
    for error in verdict.validation_errors() {
        let id = error.policy_id();
        let file = files.iter().find(|f| f.path.to_string_lossy() == file_of(id)).unwrap_or(schema_file);
        let found = problem(file, error, readable(&error.to_string(), id, names.get(id)));
        // Cedar says the same of each action and type that the scope allows; one of them tells what to write
        let alike = found.text.split(" for Action::").next().unwrap_or_default().to_owned();
        if told.insert((id.clone(), found.line, alike)) {
            problems.push(found);
        }
    }
    let there: HashSet<&str> = schema.actions().map(|action| action.id().unescaped()).collect();
    problems.extend(missing(schema_file, &needed.filter(|action| !there.contains(action)).collect::<Vec<_>>()));
    if !problems.is_empty() {
        return Err(problems);
    }
    let sources = policy_sources(&set, |id| {
        let file = files.iter().find(|file| file.path.to_string_lossy() == file_of(id))?;
        Some((names.get(id)?.clone(), file))
    });
    Ok(Compiled { schema, set, names, sources })
}

/// Compiles what the validator has not seen, for properties that must not depend on it.
#[cfg(test)]
pub(super) fn unvalidated(schema: &Schema, files: &[PolicyFile]) -> Compiled {
    let (set, names, problems) = read(files);
    assert_eq!(problems, []);
    Compiled { schema: schema.clone(), set, names, sources: Vec::new() }
}

/// The schema with one action in place of all those that no policy can tell apart: the same groups, the same types and
/// context, and named by none. The validator looks at each policy for each action and each type of resource, and for
/// such actions always finds the same; of Vertex's many hundred methods a few stay. Nothing where that cannot be done.
fn representative(fragment: SchemaFragment, set: &PolicySet) -> Option<Schema> {
    let named: HashSet<String> =
        set.policies().flat_map(Policy::entity_literals).map(|uid| uid.id().unescaped().to_owned()).collect();
    let mut schema = fragment.to_json_value().ok()?;
    for namespace in schema.as_object_mut()?.values_mut() {
        let Some(actions) = namespace.get_mut("actions").and_then(Value::as_object_mut) else { continue };
        let groups: HashSet<String> = actions.values().flat_map(member_of).collect();
        let mut seen: HashSet<String> = HashSet::new();
        actions.retain(|name, told| named.contains(name) || groups.contains(name) || seen.insert(told.to_string()));
    }
    Schema::from_json_value(schema).ok()
}

/// The names of the groups that an action is in, whatever their namespace.
fn member_of(action: &Value) -> Vec<String> {
    let groups = action.get("memberOf").and_then(Value::as_array);
    groups.into_iter().flatten().filter_map(|group| Some(group.get("id")?.as_str()?.to_owned())).collect()
}

/// Parses all files into one set. A policy is named by its `@id`, or by its file and place in it.
pub(super) fn read(files: &[PolicyFile]) -> (PolicySet, HashMap<PolicyId, Arc<str>>, Vec<PolicyProblem>) {
    let mut all = PolicySet::new();
    let mut names = HashMap::new();
    let mut problems = Vec::new();
    let mut taken: HashSet<Arc<str>> = HashSet::new();
    for file in files {
        let set = match PolicySet::from_str(&file.text) {
            Ok(set) => set,
            Err(errors) => {
                problems.extend(errors.iter().map(|e| problem(file, e, e.to_string())));
                continue;
            }
        };
        if set.templates().next().is_some() {
            let text = "templates are not supported; write policies".into();
            problems.push(PolicyProblem { file: file.path.clone(), line: 0, text });
        }
        for policy in set.policies() {
            // the file is part of the id, so that two files cannot clash
            let id = PolicyId::new(format!("{}#{}", file.path.display(), policy.id()));
            let stem = file.path.file_stem().unwrap_or_default().to_string_lossy();
            let name = policy.annotation("id").map_or_else(|| format!("{stem}#{}", policy.id()), str::to_owned);
            let name: Arc<str> = name.into();
            if !taken.insert(name.clone()) {
                let text = format!("two policies have the id `{name}`; audit could not tell them apart");
                problems.push(PolicyProblem { file: file.path.clone(), line: 0, text });
            }
            if let Err(error) = all.add(policy.new_id(id.clone())) {
                problems.push(problem(file, &error, error.to_string()));
            }
            names.insert(id, name);
        }
    }
    (all, names, problems)
}

pub(super) fn file_of(id: &PolicyId) -> String {
    let id: &str = id.as_ref();
    id.rsplit_once('#').map_or(id, |(file, _)| file).to_owned()
}

/// The validator's words, with the policy called as records call it.
fn readable(text: &str, id: &PolicyId, name: Option<&Arc<str>>) -> String {
    name.map_or_else(|| text.to_owned(), |name| text.replace(&format!("`{id}`"), &format!("`{name}`")))
}

/// One problem for all the actions that a schema lacks: one of another version lacks many.
fn missing(schema_file: &PolicyFile, actions: &[&str]) -> Option<PolicyProblem> {
    let (first, others) = actions.split_first()?;
    let which = match others.len() {
        0 => format!("the action `{first}` is missing"),
        more => format!("the action `{first}` and {more} more are missing"),
    };
    let text = format!("{which}; take the schema shipped with this version and put your own types behind it");
    Some(PolicyProblem { file: schema_file.path.clone(), line: 0, text })
}

/// What Cedar says, where, and what it advises or had expected there.
fn problem(file: &PolicyFile, error: &dyn Diagnostic, mut text: String) -> PolicyProblem {
    let label = error.labels().and_then(|mut labels| labels.next());
    let line = label.as_ref().map_or(0, |at| file.text.bytes().take(at.offset()).filter(|b| *b == b'\n').count() + 1);
    // the validator sees one action in place of many, so the one that it takes to be meant may be far off
    let advice = error.help().map(|help| help.to_string()).filter(|help| !help.starts_with("did you mean `Action::"));
    if let Some(advice) = advice.or_else(|| label.and_then(|label| label.label().map(str::to_owned))) {
        text = format!("{text}; {advice}");
    }
    PolicyProblem { file: file.path.clone(), line, text }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    static SHIPPED: LazyLock<(SchemaFragment, Schema)> = LazyLock::new(|| {
        let text = include_str!("../../../policies/wicketgate.cedarschema");
        let (fragment, _) = SchemaFragment::from_cedarschema_str(text).unwrap();
        (fragment.clone(), Schema::from_schema_fragments([fragment]).unwrap())
    });

    fn problems_of(policies: &str, actions: &[&str]) -> Vec<PolicyProblem> {
        let schema = PolicyFile {
            path: "wicketgate.cedarschema".into(),
            text: include_str!("../../../policies/wicketgate.cedarschema").into(),
        };
        let file = PolicyFile { path: "mine.cedar".into(), text: policies.into() };
        compile(&schema, &[file], actions.iter().copied()).map(|_| ()).unwrap_err()
    }

    fn check(policies: &str, actions: &[&str], expected: &[&str]) {
        let problems = problems_of(policies, actions);
        assert_eq!(problems.iter().map(|p| format!("{}: {}", p.line, p.text)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_problem_is_told_once_by_the_policys_own_id_and_says_what_to_write() {
        let size = "@id(\"small\")\npermit (principal, action in Action::\"infer\", resource)\n\
                    when { context.size < 100 };";
        let problems = problems_of(size, &[]);
        let [problem] = problems.as_slice() else { panic!("{problems:?}") };
        assert_eq!(problem.line, 3);
        assert!(problem.text.starts_with("for policy `small`, "), "{}", problem.text);
        assert!(problem.text.contains("context has size"), "{}", problem.text);
    }

    #[test]
    fn a_schema_of_another_version_is_one_problem() {
        let any = "permit (principal, action, resource);";
        let advice = "take the schema shipped with this version and put your own types behind it";
        check(any, &["Exporter.Scrape", "No.Such"], &[&format!("0: the action `No.Such` is missing; {advice}")]);
        let three = format!("0: the action `No.Such` and 2 more are missing; {advice}");
        check(any, &["No.Such", "Nor.This", "Nor.That"], &[&three]);
    }

    /// What the validator says by the whole schema, and by the representative one.
    fn verdicts(policies: &str) -> [Vec<String>; 2] {
        let (fragment, schema) = SHIPPED.clone();
        let set = PolicySet::from_str(policies).unwrap();
        let small = representative(fragment, &set).unwrap();
        assert!(small.actions().count() * 10 < schema.actions().count(), "{}", small.actions().count());
        [schema, small].map(|schema| {
            let verdict = Validator::new(schema).validate(&set, ValidationMode::Strict);
            let errors = verdict.validation_errors().map(ToString::to_string);
            let said = errors.chain(verdict.validation_warnings().map(ToString::to_string));
            // a message names an action of the kind that it is about
            let mut said: Vec<String> = said.map(|text| text.split("Action::").next().unwrap().to_owned()).collect();
            said.sort();
            said.dedup();
            said
        })
    }

    #[test]
    fn one_action_in_place_of_many_changes_nothing_that_the_validator_finds() {
        let check = |policies: &str, right: bool| {
            let [whole, small] = verdicts(policies);
            assert_eq!(whole, small, "{policies}");
            assert_eq!(small.is_empty(), right, "{policies}\n{small:?}");
        };
        check(include_str!("../../../policies/wicketgate.cedar"), true);
        check("permit (principal, action, resource) when { context.tls };", true);
        check("permit (principal, action, resource) when { context.tsl };", false);
        check(
            "permit (principal, action in Action::\"infer\", resource is Model) when { resource.location == \"x\" };",
            true,
        );
        check(
            "permit (principal, action in Action::\"infer\", resource is Model) when { resource.version == \"x\" };",
            false,
        );
        check("permit (principal, action in Action::\"infer\", resource is Exporter);", false);
        check("permit (principal, action == Action::\"PredictionService.Predict\", resource is Exporter);", false);
        check("permit (principal, action == Action::\"Fly\", resource);", false);
        check("permit (principal, action in [Action::\"train\", Action::\"Fly\"], resource);", false);
        check("permit (principal, action, resource) when { action == Action::\"JobService.CreateCustomJob\" };", true);
        check(
            "permit (principal, action, resource) when { action in Action::\"scrape\" && resource is Exporter };",
            true,
        );
        check("permit (principal, action, resource) when { context has size && context.size > \"1\" };", false);
        check("permit (principal, action, resource) when { principal.team == \"x\" };", false);
    }
}
