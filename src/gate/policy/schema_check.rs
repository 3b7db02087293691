//! Schema check: the types of entities and context that the gate sends to Cedar.
//!
//! Promises: what Cedar's validator and `policy prove` take from a schema that has no problem here is so at the gate. A
//! schema that calls something certain which the gate may leave out, or that keeps an action from a resource which the
//! gate asks about, would have them speak of other requests than those that come. Pure.

use std::{collections::BTreeMap, sync::LazyLock};

use cedar_policy::SchemaFragment;
use serde_json::Value;

use super::policy_file::{PolicyFile, PolicyProblem};

const SHIPPED: &str = include_str!("../../../policies/wicketgate.cedarschema");
static SHIPPED_DECLARATIONS: LazyLock<Option<Value>> = LazyLock::new(|| declarations(SHIPPED));
/// Cedar's own types, which a type of the same name would hide.
const CEDAR_TYPES: [&str; 11] =
    ["Bool", "Boolean", "Entity", "Extension", "Long", "Record", "Set", "String", "datetime", "duration", "ipaddr"];
const REMEDY: &str = "take the shipped schema and put your own types behind it";
/// Types stand for types no deeper than this.
const MAX_DEPTH: usize = 32;

/// Everything in which the schema says something else than the gate does. What is no schema at all is the compiler's to
/// tell, as are actions that are missing.
#[must_use]
pub(crate) fn problems(schema: &PolicyFile) -> Vec<PolicyProblem> {
    if schema.text == SHIPPED {
        return Vec::new();
    }
    let Some(own) = declarations(&schema.text) else { return Vec::new() };
    let texts = match &*SHIPPED_DECLARATIONS {
        Some(shipped) => [hidden(&own), entities(shipped, &own), actions(shipped, &own)].concat(),
        None => vec!["cannot be compared with the shipped one".to_owned()],
    };
    let problem = |text| PolicyProblem { file: schema.path.clone(), line: 0, text };
    texts.into_iter().map(problem).collect()
}

/// What a schema declares outside of namespaces.
fn declarations(text: &str) -> Option<Value> {
    let (fragment, _) = SchemaFragment::from_cedarschema_str(text).ok()?;
    fragment.to_json_value().ok()?.get_mut("").map(Value::take)
}

fn members<'v>(declarations: &'v Value, section: &str) -> impl Iterator<Item = (&'v String, &'v Value)> {
    declarations.get(section).and_then(Value::as_object).into_iter().flatten()
}

fn hidden(own: &Value) -> Vec<String> {
    let declared = members(own, "entityTypes").chain(members(own, "commonTypes"));
    let hiding = declared.filter(|(name, _)| CEDAR_TYPES.contains(&name.as_str()));
    hiding.map(|(name, _)| format!("the type `{name}` hides Cedar's own; give it another name")).collect()
}

fn entities(shipped: &Value, own: &Value) -> Vec<String> {
    let declared = |declarations: &Value, name: &str| {
        let mut declared = resolved(declarations.get("entityTypes")?.get(name)?, declarations, MAX_DEPTH);
        declared.as_object_mut()?.remove("annotations");
        Some(declared)
    };
    let names = members(shipped, "entityTypes").map(|(name, _)| name);
    let wrong = names.filter(|name| declared(shipped, name) != declared(own, name));
    let text = |name| {
        format!(
            "the entity `{name}` is not what the gate tells of it, so that nothing that is proved would hold; {REMEDY}"
        )
    };
    wrong.map(text).collect()
}

fn actions(shipped: &Value, own: &Value) -> Vec<String> {
    // by what is wrong: the first action and how many more
    let mut wrong: BTreeMap<&str, (&str, usize)> = BTreeMap::new();
    for (name, declared) in members(shipped, "actions") {
        let (Some(expected), Some(found)) =
            (declared.get("appliesTo"), own.get("actions").and_then(|actions| actions.get(name)))
        else {
            continue;
        };
        let found = found.get("appliesTo").unwrap_or(&Value::Null);
        let covers = |types: &str| {
            let list = |applies: &Value| applies.get(types).and_then(Value::as_array).cloned().unwrap_or_default();
            list(expected).iter().all(|kind| list(found).contains(kind))
        };
        let context = |applies: &Value, declarations| {
            applies.get("context").map(|context| resolved(context, declarations, MAX_DEPTH))
        };
        let mut add = |what| wrong.entry(what).or_insert((name, 0)).1 += 1;
        if !covers("principalTypes") || !covers("resourceTypes") {
            add("does not apply to everything that the gate asks it about");
        }
        if context(expected, shipped) != context(found, own) {
            add("has a context that is not what the gate tells");
        }
    }
    let text = |(what, (name, count)): (&str, (&str, usize))| {
        let more = if count > 1 { format!(" (as do {} more actions)", count - 1) } else { String::new() };
        format!("the action `{name}` {what}{more}, so that nothing that is proved would hold; {REMEDY}")
    };
    wrong.into_iter().map(text).collect()
}

/// A type with the types that its names stand for in their places.
fn resolved(value: &Value, declarations: &Value, depth: usize) -> Value {
    let within = |value: &Value| resolved(value, declarations, depth.saturating_sub(1));
    match value {
        Value::Object(fields) => {
            let field = |name: &str| fields.get(name).and_then(Value::as_str);
            let name = match field("type") {
                Some("EntityOrCommon") => field("name"),
                other => other,
            };
            let common = name.filter(|_| depth > 0).and_then(|name| declarations.get("commonTypes")?.get(name));
            match common {
                // whether it is there belongs to the place where it is named, not to the type
                Some(common) => match (within(common), fields.get("required")) {
                    (Value::Object(mut common), Some(required)) => {
                        common.insert("required".into(), required.clone());
                        Value::Object(common)
                    }
                    (common, _) => common,
                },
                None => Value::Object(fields.iter().map(|(name, field)| (name.clone(), within(field))).collect()),
            }
        }
        Value::Array(items) => items.iter().map(within).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of the shipped schema with `from` changed to `to`.
    fn check(from: &str, to: &str, expected: &[&str]) {
        let text = SHIPPED.replace(from, to);
        assert_ne!(text, SHIPPED, "`{from}` is not in the shipped schema");
        let found = problems(&PolicyFile { path: "s".into(), text });
        assert_eq!(found.len(), expected.len(), "{to}: {found:?}");
        for (problem, part) in found.iter().zip(expected) {
            assert!(problem.text.contains(part), "{to}: {problem:?}");
        }
    }

    #[test]
    fn a_schema_that_says_something_else_than_the_gate_is_told() {
        check("size?: Long", "size: Long", &["has a context"]);
        check("    size?: Long,\n", "", &["has a context"]);
        check("tls: Bool", "tls: Bool, vpn: Bool", &["has a context"]);
        check("version?: String", "version: String", &["the entity `Model`"]);
        check("entity Exporter tags String", "entity Exporter", &["the entity `Exporter`"]);
        check("Model in [Model]", "Model", &["the entity `Model`"]);
        check("seconds: Long }", "seconds: Long, vip: Bool }", &["the entity `Grant`"]);
        let scrape = "action \"Exporter.Scrape\" in [scrape] appliesTo { principal: Principal, resource: Exporter";
        check(scrape, &scrape.replace(": Exporter", ": Service"), &["`Exporter.Scrape` does not apply"]);
        check("entity Role;", "entity Role; entity datetime;", &["`datetime` hides"]);
        check("entity Role;", "entity Role; type ipaddr = String;", &["`ipaddr` hides", "has a context"]);
    }

    #[test]
    fn what_is_put_behind_it_or_said_in_other_words_is_well() {
        check(
            "entity Role;",
            "entity Role; entity Team; action fly appliesTo { principal: Team, resource: Team };",
            &[],
        );
        check("tls: Bool,", "tls: Truth,", &["has a context"]);
        check("type Names =", "type Truth = Bool; type Names =", &[]);
        check("Names", "RequestNames", &[]);
        check("/// A role", "@doc(\"x\") /// A role", &[]);
        let scrape = "action \"Exporter.Scrape\" in [scrape] appliesTo { principal: Principal, resource: Exporter";
        check(scrape, &scrape.replace(": Exporter", ": [Exporter, Service]"), &[]);
        check("action scrape,", "action \"Exporter.Look\" in [scrape]; action scrape,", &[]);
    }
}
