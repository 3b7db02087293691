//! Every kind of request that the schema knows, and the schema that the solver is asked under.
//!
//! An *environment* is an action and the types of principal and resource; its *shape* is the same without the action:
//! the types and the context's type. Promises: the solver's schema is the directory's own, with one action more for
//! each shape, and one for each two shapes of one principal, whose context holds two requests (`first` on the
//! `resource`, `second` on `context.other`). Since an action is worked out of what is asked ([`super::expression`]),
//! two environments of one shape for which the same is to be asked are one question.

use std::collections::{BTreeMap, HashMap};

use cedar_policy::{EntityTypeName, EntityUid, Policy, PolicySet, RequestEnv, Schema, SchemaFragment};
use cedar_policy_symcc::{CompiledPolicySet, CompiledSchema};
use serde_json::{Value, json};

use super::expression::{self, Action, Bindings, attribute, variable};

/// All of it.
pub(super) struct Environments {
    /// The directory's schema.
    pub(super) schema: Schema,
    pub(super) actions: Vec<Action>,
    pub(super) shapes: Vec<RequestShape>,
    pub(super) environments: Vec<Environment>,
    asked_under: CompiledSchema,
}

/// An action with types that it applies to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Environment {
    /// Its place in [`Environments::actions`].
    pub(super) action: usize,
    /// Its place in [`Environments::shapes`].
    pub(super) shape: usize,
}

/// What environments may have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RequestShape {
    pub(super) principal: String,
    pub(super) resource: String,
    context: Value,
}

/// Where a request is in what the solver is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RequestSlot {
    Alone,
    First,
    Second,
}

impl RequestSlot {
    /// What the variables stand for.
    pub(super) fn of(self, action: &Action) -> Bindings<'_> {
        let resource = variable("resource");
        let context = variable("context");
        match self {
            Self::Alone => Bindings { action, resource, context },
            Self::First => Bindings { action, resource, context: attribute(&context, "first") },
            Self::Second => {
                Bindings { action, resource: attribute(&context, "other"), context: attribute(&context, "second") }
            }
        }
    }
}

impl Environments {
    pub(super) fn new(schema_text: &str) -> Result<Self, Box<dyn std::error::Error>> {
        let (schema, _) = Schema::from_cedarschema_str(schema_text)?;
        let (fragment, _) = SchemaFragment::from_cedarschema_str(schema_text)?;
        let mut json = fragment.to_json_value()?;
        let entities = schema.action_entities()?;
        // the gate asks about actions outside namespaces alone
        let declared = json.get_mut("").and_then(|namespace| namespace.get_mut("actions"));
        let declared = declared.and_then(Value::as_object_mut).ok_or("the schema has no actions")?;
        let mut actions = Vec::new();
        let mut shapes = Vec::<RequestShape>::new();
        let mut environments = Vec::new();
        for (id, declaration) in declared.iter_mut() {
            // what an action applies to is in the actions added below
            let applies = declaration.as_object_mut().and_then(|fields| fields.remove("appliesTo"));
            let uid: EntityUid = EntityUid::from_json(json!({ "__entity": { "type": "Action", "id": id } }))?;
            let above = entities.ancestors(&uid).into_iter().flatten().cloned();
            let within = above.chain([uid.clone()]).collect();
            actions.push(Action { id: id.as_str().into(), uid, within });
            let names = |key: &str| -> Vec<String> {
                let list = applies.as_ref().and_then(|applies| applies.get(key)?.as_array()).into_iter().flatten();
                list.filter_map(Value::as_str).map(str::to_owned).collect()
            };
            let context = applies.as_ref().and_then(|applies| applies.get("context")).cloned();
            let context = context.unwrap_or_else(|| json!({ "type": "Record", "attributes": {} }));
            for principal in names("principalTypes") {
                for resource in names("resourceTypes") {
                    let shape = RequestShape { principal: principal.clone(), resource, context: context.clone() };
                    let found = shapes.iter().position(|known| *known == shape).unwrap_or_else(|| {
                        shapes.push(shape);
                        shapes.len() - 1
                    });
                    environments.push(Environment { action: actions.len() - 1, shape: found });
                }
            }
        }
        for (n, shape) in shapes.iter().enumerate() {
            declared.insert(alone(n), applying(shape, &shape.context));
            for (m, second) in shapes.iter().enumerate().filter(|(_, second)| second.principal == shape.principal) {
                let other = json!({ "type": "EntityOrCommon", "name": second.resource });
                let both = json!({ "first": shape.context, "second": second.context, "other": other });
                declared.insert(pair(n, m), applying(shape, &json!({ "type": "Record", "attributes": both })));
            }
        }
        let asked_under = CompiledSchema::new(&Schema::from_json_value(json)?)?;
        Ok(Self { schema, actions, shapes, environments, asked_under })
    }

    /// One request of this shape.
    pub(super) fn alone(&self, shape: usize) -> Result<RequestEnv, String> {
        self.environment(shape, &alone(shape))
    }

    /// Two requests of one principal.
    pub(super) fn pair(&self, first: usize, second: usize) -> Result<RequestEnv, String> {
        self.environment(first, &pair(first, second))
    }

    /// A set that permits where one of the expressions holds; what does not compile is an error, never a proof.
    pub(super) fn compile<'a>(
        &self,
        environment: &RequestEnv,
        expressions: impl Iterator<Item = &'a Value>,
    ) -> Result<CompiledPolicySet, String> {
        let mut set = PolicySet::new();
        for (n, expression) in expressions.enumerate() {
            let policy: Policy = expression::permit(n, expression).map_err(|e| e.to_string())?;
            set.add(policy).map_err(|e| e.to_string())?;
        }
        let symbolic = self.asked_under.sym_env(environment).map_err(|e| e.to_string())?;
        CompiledPolicySet::compile_with_custom_symenv(&set, environment, self.asked_under.schema(), symbolic).map_err(
            |error| match &error {
                cedar_policy_symcc::err::Error::PolicyNotWellTyped { errs } => {
                    let errors: Vec<String> = errs.iter().map(ToString::to_string).collect();
                    format!("{error}: {}", errors.join("; "))
                }
                _ => error.to_string(),
            },
        )
    }

    /// The actions of a group, with their environments.
    pub(super) fn of_group(&self, group: &str) -> impl Iterator<Item = Environment> {
        let uid = format!("Action::{group:?}").parse::<EntityUid>().ok();
        self.environments.iter().copied().filter(move |environment| {
            let action = self.actions.get(environment.action);
            uid.as_ref().zip(action).is_some_and(|(uid, action)| action.within.contains(uid))
        })
    }

    fn environment(&self, shape: usize, action: &str) -> Result<RequestEnv, String> {
        let shape = self.shapes.get(shape).ok_or("there is no such shape")?;
        let kind = |name: &str| name.parse::<EntityTypeName>().map_err(|e| e.to_string());
        let action = format!("Action::\"{action}\"").parse::<EntityUid>().map_err(|e| e.to_string())?;
        Ok(RequestEnv::new(kind(&shape.principal)?, action, kind(&shape.resource)?))
    }
}

/// The added action's id for one request.
fn alone(shape: usize) -> String {
    format!("wicketgate asks {shape}")
}

/// The added action's id for two requests.
fn pair(first: usize, second: usize) -> String {
    format!("wicketgate asks {first} and {second}")
}

fn applying(shape: &RequestShape, context: &Value) -> Value {
    json!({
        "appliesTo": {
            "principalTypes": [shape.principal],
            "resourceTypes": [shape.resource],
            "context": context,
        },
    })
}

/// One thing to be asked.
pub(super) struct Query {
    pub(super) expressions: Vec<Value>,
    /// Those that it stands for.
    pub(super) environments: Vec<Environment>,
}

/// What is to be asked in each shape, each question once.
#[derive(Default)]
pub(super) struct Queries {
    of: BTreeMap<usize, Vec<Query>>,
    /// Where the question with this text is.
    texts: HashMap<(usize, String), usize>,
}

impl Queries {
    /// Adds what is to be asked for this environment; what is asked already stands for it too.
    pub(super) fn add(&mut self, expressions: Vec<Value>, environment: Environment) {
        let questions = self.of.entry(environment.shape).or_default();
        let text = expressions.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        let known = *self.texts.entry((environment.shape, text)).or_insert(questions.len());
        match questions.get_mut(known) {
            Some(question) => question.environments.push(environment),
            None => questions.push(Query { expressions, environments: vec![environment] }),
        }
    }

    /// By shape.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, &[Query])> {
        self.of.iter().map(|(shape, questions)| (*shape, questions.as_slice()))
    }
}
