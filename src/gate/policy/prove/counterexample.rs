//! What the solver found, as requests that a person can read, and that Cedar itself has been asked about.
//!
//! Promises: what is shown was put to Cedar's own evaluator with the real policies, outside the solver; where the two
//! disagree it says so.

use std::{collections::BTreeSet, fmt, sync::Arc};

use cedar_policy::{
    Authorizer, Context, Decision, Entities, Entity, EntityUid, EvalResult, Request, RestrictedExpression,
};
use cedar_policy_symcc::Env;

use super::{
    analysis::AnalyzedPolicies,
    environments::{Environment, Environments, RequestSlot},
};
use crate::clock::Timestamp;

/// One or two requests of one principal, which a statement says cannot be.
#[derive(Clone, Debug)]
pub(crate) struct Counterexample {
    principal: String,
    roles: BTreeSet<String>,
    requests: Vec<ExampleRequest>,
    /// Whether Cedar's evaluator says the same as the solver.
    pub reproduced: bool,
}

/// One request and what is said to it.
#[derive(Clone, Debug)]
struct ExampleRequest {
    action: Arc<str>,
    resource: String,
    context: String,
    decisions: Vec<SetDecision>,
}

#[derive(Clone, Debug)]
struct SetDecision {
    /// Of which set; empty where there is one alone.
    of: String,
    allowed: bool,
    why: String,
}

/// What a statement says of a request.
pub(super) struct ExpectedRequest<'a> {
    pub(super) view: RequestSlot,
    /// Those that the solver's request may stand for.
    pub(super) environments: Vec<Environment>,
    /// Each set, and whether the solver says that it allows.
    pub(super) sets: Vec<(&'a AnalyzedPolicies, bool)>,
}

impl Counterexample {
    pub(super) fn new(
        world: &Environments,
        found: &Env,
        expected: &[ExpectedRequest<'_>],
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let principal = found.request.principal().ok_or("it has no principal")?;
        let actions = world.schema.action_entities()?;
        let entities = found.entities.clone().upsert_entities(actions.iter().cloned(), None)?;
        let roles = entities.ancestors(principal).into_iter().flatten();
        let roles = roles.map(|role| role.id().unescaped().to_owned()).collect();
        let mut example =
            Self { principal: described(&entities, principal), roles, requests: Vec::new(), reproduced: true };
        for expected in expected {
            let (resource, context) = parts(found, expected.view)?;
            let mut shown = None;
            for environment in &expected.environments {
                let Some(action) = world.actions.get(environment.action) else { continue };
                let uid = action.uid.clone();
                let context = context.clone();
                let request = Request::new(principal.clone(), uid, resource.clone(), context, None)?;
                let decisions: Vec<SetDecision> =
                    expected.sets.iter().map(|(set, _)| set.rule(&request, &entities)).collect();
                let as_said = decisions.iter().zip(&expected.sets).all(|(ruled, (_, allows))| ruled.allowed == *allows);
                if as_said || shown.is_none() {
                    let resource = described(&entities, &resource);
                    let context = context_of(&request);
                    shown = Some((as_said, ExampleRequest { action: action.id.clone(), resource, context, decisions }));
                }
                if as_said {
                    break;
                }
            }
            let (as_said, shown) = shown.ok_or("it stands for no action")?;
            example.reproduced &= as_said;
            example.requests.push(shown);
        }
        Ok(example)
    }
}

impl AnalyzedPolicies {
    /// As the gate decides: an error denies.
    fn rule(&self, request: &Request, entities: &Entities) -> SetDecision {
        let answer = Authorizer::new().is_authorized(request, &self.policies, entities);
        let errors: Vec<String> = answer.diagnostics().errors().map(ToString::to_string).collect();
        let mut names: Vec<String> = answer.diagnostics().reason().map(|id| self.named(id)).collect();
        names.sort_unstable();
        let allowed = answer.decision() == Decision::Allow && errors.is_empty();
        let why = if !errors.is_empty() {
            format!("since a policy fails: {}", errors.join("; "))
        } else if names.is_empty() {
            "since no policy permits it".into()
        } else {
            format!("by {}", names.join(", "))
        };
        SetDecision { of: self.name.clone(), allowed, why }
    }
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roles: Vec<String> = self.roles.iter().map(|role| format!("`{role}`")).collect();
        let roles = if roles.is_empty() { "none".into() } else { roles.join(", ") };
        write!(f, "  principal  {}\n  roles      {roles}", self.principal)?;
        for (n, request) in self.requests.iter().enumerate() {
            if self.requests.len() > 1 {
                write!(f, "\n  request {}", n + 1)?;
            }
            write!(f, "\n  action     {}\n  resource   {}", request.action, request.resource)?;
            write!(f, "\n  context    {}", request.context)?;
            for SetDecision { of, allowed, why } in &request.decisions {
                let decision = if *allowed { "allowed" } else { "denied " };
                let of = if request.decisions.len() > 1 { format!("in {of}, ") } else { String::new() };
                write!(f, "\n  {decision}    {of}{why}")?;
            }
        }
        if !self.reproduced {
            write!(
                f,
                "\n  CAUTION: Cedar's evaluator does not agree with the solver on this request. One of the two is \
                 wrong: please report it, and take nothing as proved"
            )?;
        }
        Ok(())
    }
}

/// Resource and context of the request that is looked at.
fn parts(found: &Env, view: RequestSlot) -> Result<(EntityUid, Context), Box<dyn std::error::Error>> {
    let resource = found.request.resource();
    let context = found.request.context();
    let (resource, context) = resource.zip(context).ok_or("it is not whole")?;
    let part = |name: &str| match context.get(name) {
        Some(EvalResult::Record(record)) => {
            let fields = record.iter().map(|(name, value)| Ok((name.clone(), value.to_string().parse()?)));
            let fields: Result<Vec<(String, RestrictedExpression)>, Box<dyn std::error::Error>> = fields.collect();
            Ok::<_, Box<dyn std::error::Error>>(Context::from_pairs(fields?)?)
        }
        _ => Err("it lacks a context".into()),
    };
    match (view, context.get("other")) {
        (RequestSlot::Alone, _) => Ok((resource.clone(), context.clone())),
        (RequestSlot::First, _) => Ok((resource.clone(), part("first")?)),
        (RequestSlot::Second, Some(EvalResult::EntityUid(other))) => Ok((other, part("second")?)),
        (RequestSlot::Second, _) => Err("it lacks its second resource".into()),
    }
}

/// An entity with its attributes and what it is in, but for roles.
fn described(entities: &Entities, uid: &EntityUid) -> String {
    let attributes = |entity: &Entity| {
        let attributes = entity.attrs().map(|(name, value)| match value {
            Ok(value) => format!("{name}: {value}"),
            Err(_) => format!("{name}: unknown"),
        });
        let mut attributes: Vec<String> = attributes.collect();
        attributes.sort_unstable();
        attributes.join(", ")
    };
    let found = entities.get(uid).map(attributes).filter(|attributes| !attributes.is_empty());
    let above = entities.ancestors(uid).into_iter().flatten().filter(|above| above.type_name() == uid.type_name());
    let mut above: Vec<String> = above.map(|above| format!(" in {above}")).collect();
    above.sort_unstable();
    format!("{uid}{}{}", found.map(|attributes| format!(" {{ {attributes} }}")).unwrap_or_default(), above.concat())
}

fn context_of(request: &Request) -> String {
    let Some(context) = request.context() else { return "empty".into() };
    let names = context.clone().into_iter().map(|(name, _)| name);
    let fields: BTreeSet<String> =
        names.filter_map(|name| Some(format!("{name}: {}", readable(&context.get(&name)?.to_string())))).collect();
    if fields.is_empty() { "empty".into() } else { fields.into_iter().collect::<Vec<_>>().join(", ") }
}

/// A point in time as people write it, where it is one that they could write.
fn readable(value: &str) -> String {
    let milliseconds = value.strip_prefix("datetime(\"1970-01-01\").offset(duration(\"");
    let milliseconds = milliseconds.and_then(|rest| rest.strip_suffix("ms\"))")?.parse().ok());
    match milliseconds.and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
        Some(time) => format!("datetime(\"{time:.3}\")"),
        None => value.to_owned(),
    }
}
