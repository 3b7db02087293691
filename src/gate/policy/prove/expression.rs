//! Policies as expressions, in Cedar's JSON form, and what the gate makes of a set of them in one environment.
//!
//! Promises: what is made here means what the gate does. A policy's scope and conditions become one expression; the
//! action, which an environment fixes, is worked out of it; a set becomes one expression that is true where the gate
//! would allow, false where no policy permits or one forbids, and **an error where any policy that applies is one**,
//! since the gate denies then. The caller makes one policy of it, and a policy that errors permits nothing.

use std::{collections::BTreeSet, sync::Arc};

use cedar_policy::{EntityUid, Policy, PolicyId, PolicyToJsonError};
use serde_json::{Value, json};

/// An action and what it is in, itself included: Cedar's `in` is reflexive.
#[derive(Clone, Debug)]
pub(super) struct Action {
    pub(super) id: Arc<str>,
    pub(super) uid: EntityUid,
    pub(super) within: BTreeSet<EntityUid>,
}

/// A policy as one expression over `principal`, `action`, `resource` and `context`.
#[derive(Clone, Debug)]
pub(super) struct PolicyExpression {
    pub(super) permits: bool,
    condition: Value,
    /// Whether there is more to it than its scope, which never errors.
    conditional: bool,
}

/// What the variables of an expression stand for in one environment.
#[derive(Clone, Debug)]
pub(super) struct Bindings<'a> {
    pub(super) action: &'a Action,
    pub(super) resource: Value,
    pub(super) context: Value,
}

impl PolicyExpression {
    pub(super) fn new(policy: &Policy) -> Result<Self, Box<PolicyToJsonError>> {
        let json = policy.to_json()?;
        let scope = ["action", "principal", "resource"].into_iter().map(|var| scope(var, json.get(var)));
        let conditions = json.get("conditions").and_then(Value::as_array).into_iter().flatten().map(|condition| {
            let body = condition.get("body").cloned().unwrap_or(Value::Null);
            if condition.get("kind").and_then(Value::as_str) == Some("unless") { not(&body) } else { body }
        });
        let conditions: Vec<Value> = conditions.collect();
        let conditional = !conditions.is_empty();
        let condition = all(&scope.chain(conditions).collect::<Vec<_>>());
        Ok(Self { permits: json.get("effect").and_then(Value::as_str) == Some("permit"), condition, conditional })
    }

    /// What the policy says in this place.
    pub(super) fn at(&self, place: &Bindings<'_>) -> Value {
        at(&self.condition, place)
    }
}

/// True where the gate would allow; [`truth`]`(false)` itself where nothing can.
pub(super) fn allowed(clauses: &[PolicyExpression], place: &Bindings<'_>) -> Value {
    let mut permits = Vec::new();
    let mut forbids = Vec::new();
    let mut sound = Vec::new();
    for clause in clauses {
        let condition = clause.at(place);
        if condition == truth(false) {
            continue;
        }
        if clause.conditional && condition != truth(true) {
            // an error where the condition is one, else true
            sound.push(json!({ "||": { "left": condition, "right": truth(true) } }));
        }
        if clause.permits { permits.push(condition) } else { forbids.push(condition) }
    }
    if permits.is_empty() {
        return truth(false);
    }
    and(&all(&sound), &and(&any(&permits), &not(&any(&forbids))))
}

/// A policy that permits where the expression holds.
pub(super) fn permit(id: usize, expression: &Value) -> Result<Policy, Box<cedar_policy::PolicyFromJsonError>> {
    let every = json!({ "op": "All" });
    let text = json!({
        "effect": "permit",
        "principal": every,
        "action": every,
        "resource": every,
        "conditions": [{ "kind": "when", "body": expression }],
    });
    Ok(Policy::from_json(Some(PolicyId::new(id.to_string())), text)?)
}

pub(super) fn variable(name: &str) -> Value {
    json!({ "Var": name })
}

pub(super) fn attribute(of: &Value, name: &str) -> Value {
    json!({ ".": { "left": of, "attr": name } })
}

pub(super) fn entity(kind: &str, id: &str) -> Value {
    json!({ "Value": { "__entity": { "type": kind, "id": id } } })
}

pub(super) fn truth(value: bool) -> Value {
    json!({ "Value": value })
}

pub(super) fn within(left: &Value, right: &Value) -> Value {
    json!({ "in": { "left": left, "right": right } })
}

pub(super) fn not(expression: &Value) -> Value {
    match expression.get("Value").and_then(Value::as_bool) {
        Some(value) => truth(!value),
        None => json!({ "!": { "arg": expression } }),
    }
}

pub(super) fn and(left: &Value, right: &Value) -> Value {
    if *left == truth(true) || *left == truth(false) {
        return if *left == truth(true) { right.clone() } else { truth(false) };
    }
    if *right == truth(true) { left.clone() } else { json!({ "&&": { "left": left, "right": right } }) }
}

fn or(left: &Value, right: &Value) -> Value {
    if *left == truth(true) || *left == truth(false) {
        return if *left == truth(false) { right.clone() } else { truth(true) };
    }
    if *right == truth(false) { left.clone() } else { json!({ "||": { "left": left, "right": right } }) }
}

/// True where each is, evaluated from left to right; a balanced tree, so that a thousand are ten deep.
pub(super) fn all(parts: &[Value]) -> Value {
    tree(parts, and, true)
}

fn any(parts: &[Value]) -> Value {
    tree(parts, or, false)
}

fn tree(parts: &[Value], join: fn(&Value, &Value) -> Value, of_none: bool) -> Value {
    match parts {
        [] => truth(of_none),
        [one] => one.clone(),
        _ => {
            let (left, right) = parts.split_at(parts.len() / 2);
            join(&tree(left, join, of_none), &tree(right, join, of_none))
        }
    }
}

/// One part of a scope as an expression.
fn scope(var: &str, scope: Option<&Value>) -> Value {
    let field = |name: &str| scope.and_then(|scope| scope.get(name));
    let uid = |uid: &Value| json!({ "Value": { "__entity": uid } });
    let var = variable(var);
    match (field("op").and_then(Value::as_str), field("entity")) {
        (Some("=="), Some(entity)) => json!({ "==": { "left": var, "right": uid(entity) } }),
        (Some("in"), Some(entity)) => within(&var, &uid(entity)),
        (Some("in"), None) => {
            let entities = field("entities").and_then(Value::as_array).into_iter().flatten();
            within(&var, &json!({ "Set": entities.map(uid).collect::<Vec<_>>() }))
        }
        (Some("is"), _) => {
            let is = json!({ "is": { "left": var, "entity_type": field("entity_type") } });
            match field("in").and_then(|within| within.get("entity")) {
                Some(entity) => and(&is, &within(&var, &uid(entity))),
                None => is,
            }
        }
        (Some("All"), _) => truth(true),
        // a slot or something newer than this program: no Cedar parses what this gives, so nothing is proved of it
        _ => Value::Null,
    }
}

/// The expression with its variables replaced, and what is known of the action worked out.
pub(super) fn at(expression: &Value, place: &Bindings<'_>) -> Value {
    let Some((operator, arguments)) = expression.as_object().and_then(|o| o.iter().next()) else {
        return expression.clone();
    };
    let argument = |name: &str| arguments.get(name).map_or(Value::Null, |argument| at(argument, place));
    match operator.as_str() {
        "Value" => expression.clone(),
        "Var" => match arguments.as_str() {
            Some("action") => entity(&place.action.uid.type_name().to_string(), &place.action.id),
            Some("resource") => place.resource.clone(),
            Some("context") => place.context.clone(),
            _ => expression.clone(),
        },
        "Record" => {
            let fields = arguments.as_object().into_iter().flatten();
            json!({ "Record": fields.map(|(name, field)| (name.clone(), at(field, place))).collect::<serde_json::Map<_, _>>() })
        }
        "&&" => and(&argument("left"), &argument("right")),
        "||" => or(&argument("left"), &argument("right")),
        "!" => not(&argument("arg")),
        _ => match of_action(operator, arguments, place.action) {
            Some(value) => truth(value),
            None => json!({ operator.clone(): inside(arguments, place) }),
        },
    }
}

/// Everything in an operator's arguments but what is no expression.
fn inside(arguments: &Value, place: &Bindings<'_>) -> Value {
    match arguments {
        Value::Array(items) => items.iter().map(|item| at(item, place)).collect(),
        Value::Object(fields) => {
            let field = |(name, field): (&String, &Value)| {
                let kept = matches!(name.as_str(), "attr" | "attrs" | "entity_type" | "pattern");
                (name.clone(), if kept { field.clone() } else { at(field, place) })
            };
            Value::Object(fields.iter().map(field).collect())
        }
        other => other.clone(),
    }
}

/// `action == X`, `action != X`, `action in X` and `action in [X, …]`, where X is written out.
fn of_action(operator: &str, arguments: &Value, action: &Action) -> Option<bool> {
    if *arguments.get("left")? != variable("action") {
        return None;
    }
    let right = arguments.get("right")?;
    let uid = |value: &Value| EntityUid::from_json(value.get("Value")?.clone()).ok();
    match operator {
        "==" => Some(uid(right)? == action.uid),
        "!=" => Some(uid(right)? != action.uid),
        "in" => match right.get("Set").and_then(Value::as_array) {
            Some(items) => {
                let items = items.iter().map(uid).collect::<Option<Vec<_>>>()?;
                Some(items.iter().any(|item| action.within.contains(item)))
            }
            None => Some(action.within.contains(&uid(right)?)),
        },
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn action() -> Action {
        let uid = |id: &str| -> EntityUid { format!("Action::\"{id}\"").parse().unwrap() };
        Action { id: "Predict".into(), uid: uid("Predict"), within: [uid("Predict"), uid("infer")].into() }
    }

    /// What a policy set becomes for `Predict`, in the second of two requests.
    fn check(policies: &str, expected: &str) {
        let set: cedar_policy::PolicySet = policies.parse().unwrap();
        let clauses: Vec<PolicyExpression> =
            set.policies().map(|policy| PolicyExpression::new(policy).unwrap()).collect();
        let context = variable("context");
        let action = action();
        let place = Bindings {
            action: &action,
            resource: attribute(&context, "other"),
            context: attribute(&context, "second"),
        };
        let found = allowed(&clauses, &place);
        let expected = format!("permit (principal, action, resource) when {{ {expected} }};");
        let expected = PolicyExpression::new(&expected.parse().unwrap()).unwrap();
        assert_eq!(found, expected.condition, "{policies}");
    }

    #[test]
    fn a_set_becomes_what_the_gate_makes_of_it() {
        check("", "false");
        check("forbid (principal, action, resource);", "false");
        check("permit (principal, action == Action::\"Other\", resource);", "false");
        check("permit (principal, action, resource) when { action != Action::\"Predict\" };", "false");
        check("permit (principal, action in [Action::\"a\", Action::\"infer\"], resource);", "true");
        check("permit (principal in Role::\"r\", action in Action::\"infer\", resource);", "principal in Role::\"r\"");
        check(
            "permit (principal, action, resource is Model in Model::\"m\");",
            "context.other is Model && context.other in Model::\"m\"",
        );
        check(
            "permit (principal, action, resource) when { { context: context.size } == { context: 1 } };",
            "({ context: context.second.size } == { context: 1 } || true) && \
             { context: context.second.size } == { context: 1 }",
        );
        check("permit (principal, action, resource) unless { action == Action::\"Predict\" || context.tls };", "false");
        check(
            "permit (principal, action, resource) when { resource == Model::\"m\" && action in Action::\"infer\" };",
            "(context.other == Model::\"m\" || true) && context.other == Model::\"m\"",
        );
        check(
            "permit (principal, action, resource); forbid (principal in Role::\"r\", action, resource);",
            "!(principal in Role::\"r\")",
        );
        check(
            "permit (principal, action, resource) when { [action].contains(Action::\"x\") && context.m like \"*context\" };",
            "([Action::\"Predict\"].contains(Action::\"x\") && context.second.m like \"*context\" || true) && \
             ([Action::\"Predict\"].contains(Action::\"x\") && context.second.m like \"*context\")",
        );
    }
}
