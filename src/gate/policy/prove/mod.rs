//! Proofs about policies: with Cedar's symbolic compiler and the solver cvc5, for every kind of request at once.
//!
//! What is proved holds for **every** principal (any name, any attributes, any roles that `roles.toml` lets one hold at
//! once), **every** resource of the type with any attributes, and **every** context: more than the gate can ever ask,
//! so that a proof holds for all that it does ask, while a counterexample may be a request that no client can send.
//! Roles that are kept apart, statically or dynamically, are never together in what is asked, since `policy::roles`
//! decides no request with two of them. "Allowed" is what the gate makes of a set (`expression.rs`): an error denies.
//!
//! Promises: *proved* is said only where the solver has denied each question, or where the two sides of one are the
//! same or false as they stand. What cannot be compiled, asked or answered is undecided. This part of `policy` alone
//! starts a process, and no request waits for it.

mod counterexample;
mod environments;
mod expression;
mod solver;

use std::{collections::HashMap, sync::Arc, time::Duration};

use cedar_policy::{Policy, PolicyId, PolicySet, ValidationMode, Validator};
use serde_json::Value;

pub(crate) use self::{
    counterexample::Counterexample,
    solver::{SolverSettings, SolverUnavailable},
};
use self::{
    counterexample::ExpectedRequest,
    environments::{Environment, Environments, Queries, Query, RequestSlot},
    expression::{Action, PolicyExpression, all, allowed, and, entity, not, truth, variable, within},
    solver::{Solver, SolverAnswer, SolverQuery},
};
use super::{PolicyFile, PolicyProblem, Roles, compile};
use crate::clock;

/// What proofs are about: the policies of a directory and which of its roles are kept apart.
pub(crate) struct AnalyzedPolicies {
    name: String,
    policies: PolicySet,
    names: HashMap<PolicyId, Arc<str>>,
    clauses: Vec<PolicyExpression>,
    /// True where a principal's roles may decide a request together.
    lawful: Value,
}

/// What is to be proved.
pub(crate) enum Property {
    /// No principal may do something of the one group of actions and something of the other.
    Separation([String; 2]),
    /// What meets the condition is never allowed.
    Never(RequestCondition),
    /// What meets it always is.
    Always(RequestCondition),
    /// These policies allow the same as those.
    Equivalent(Arc<AnalyzedPolicies>),
    /// These policies allow nothing that those do not.
    AtMost(Arc<AnalyzedPolicies>),
}

/// A Cedar expression over a request.
pub(crate) struct RequestCondition(PolicyExpression);

/// A property by the name that it is reported under.
pub(crate) struct Statement {
    /// Its name.
    pub name: String,
    /// What it says.
    pub property: Property,
}

/// What came of a statement.
pub(crate) enum ProofResult {
    /// It holds.
    Proved,
    /// It does not: here is a request.
    Disproved(Box<Counterexample>),
    /// It does not, but why cannot be shown.
    DisprovedWithoutExample(String),
    /// Nobody knows.
    Undecided(String),
}

/// A verdict and what it took.
pub(crate) struct ProofReport {
    /// What came of it.
    pub verdict: ProofResult,
    /// The environments it is about; for [`Property::Separation`], the pairs of them.
    pub environments: usize,
    /// What was put to the symbolic compiler and, unless that saw through it, to the solver.
    pub questions: usize,
    /// How long it took.
    pub took: Duration,
}

/// A set of policies, the world it is about, and who decides.
pub(crate) struct Prover {
    world: Environments,
    set: AnalyzedPolicies,
    /// What the set says of each action of the world.
    here: Vec<Value>,
    solver: Solver,
}

/// A set and a schema that statements can be read against.
pub(crate) struct Analysis {
    world: Environments,
    set: AnalyzedPolicies,
}

impl AnalyzedPolicies {
    /// Reads policies; `name` is what a counterexample calls them.
    ///
    /// # Errors
    /// Every problem of the files.
    pub(crate) fn new(name: &str, files: &[PolicyFile], roles: &Roles) -> Result<Self, Vec<PolicyProblem>> {
        let (policies, names, mut problems) = compile::read(files);
        let mut clauses = Vec::new();
        for policy in policies.policies() {
            match PolicyExpression::new(policy) {
                Ok(clause) => clauses.push(clause),
                Err(error) => {
                    let (file, text) = (compile::file_of(policy.id()).into(), error.to_string());
                    problems.push(PolicyProblem { file, line: 0, text });
                }
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let holds = |role: &str| within(&variable("principal"), &entity("Role", role));
        let pairs = roles.static_separation.iter().chain(&roles.dynamic_separation).flat_map(|list| {
            let later = |n: usize| list.iter().skip(n + 1);
            list.iter().enumerate().flat_map(move |(n, one)| later(n).map(move |other| (one, other)))
        });
        let lawful = all(&pairs.map(|(one, other)| not(&and(&holds(one), &holds(other)))).collect::<Vec<_>>());
        Ok(Self { name: name.into(), policies, names, clauses, lawful })
    }

    /// Where it allows, for each action of the world.
    fn of_each(&self, world: &Environments) -> Vec<Value> {
        world.actions.iter().map(|action| allowed(&self.clauses, &RequestSlot::Alone.of(action))).collect()
    }

    /// A policy's name and the file it is in.
    fn named(&self, id: &PolicyId) -> String {
        let name = self.names.get(id).map_or_else(|| id.to_string(), ToString::to_string);
        format!("`{name}` ({})", compile::file_of(id))
    }
}

impl Analysis {
    /// A set under its schema.
    ///
    /// # Errors
    /// What is wrong with the schema.
    pub(crate) fn new(schema: &PolicyFile, set: AnalyzedPolicies) -> Result<Self, PolicyProblem> {
        let world = Environments::new(&schema.text);
        let world = world.map_err(|e| PolicyProblem { file: schema.path.clone(), line: 0, text: e.to_string() })?;
        Ok(Self { world, set })
    }

    /// Whether there are actions in this group.
    #[must_use]
    pub(crate) fn is_group(&self, group: &str) -> bool {
        self.world.of_group(group).next().is_some()
    }

    /// Whether the schema has this action in this group.
    #[must_use]
    pub(crate) fn is_in(&self, action: &str, group: &str) -> bool {
        let found = self.world.actions.iter().find(|known| *known.id == *action);
        found.is_some_and(|known| known.within.iter().any(|uid| uid.id().unescaped() == group))
    }

    /// Reads a condition such as `principal in Role::"scrape" && action in Action::"administer"`.
    ///
    /// # Errors
    /// Why it is none, or that no request can meet it: what is said of nothing is proved of nothing.
    pub(crate) fn condition(&self, text: &str) -> Result<RequestCondition, String> {
        let policy = format!("permit (principal, action, resource) when {{\n{text}\n}};");
        let policy = Policy::parse(None, policy).map_err(|e| format!("no Cedar expression: {e}"))?;
        let set = PolicySet::from_policies([policy.clone()]).map_err(|e| e.to_string())?;
        let verdict = Validator::new(self.world.schema.clone()).validate(&set, ValidationMode::Strict);
        if let Some(error) = verdict.validation_errors().next() {
            // it has no name that its writer knows
            let error = error.to_string().replace(&format!("for policy `{}`, ", policy.id()), "");
            return Err(format!("does not fit the schema: {error}"));
        }
        let clause = PolicyExpression::new(&policy).map_err(|e| e.to_string())?;
        let condition = RequestCondition(clause);
        let met =
            |e: &Environment| self.world.actions.get(e.action).is_some_and(|action| condition.at(action).is_some());
        if !self.world.environments.iter().any(met) {
            return Err("no action that the schema knows meets it, so that it would be proved of nothing".into());
        }
        Ok(condition)
    }

    /// Whether another directory's policies fit this schema, under which the two are compared.
    ///
    /// # Errors
    /// Where they do not.
    pub(crate) fn fits(&self, other: &AnalyzedPolicies) -> Result<(), String> {
        let verdict = Validator::new(self.world.schema.clone()).validate(&other.policies, ValidationMode::Strict);
        let errors: Vec<String> = verdict.validation_errors().map(ToString::to_string).collect();
        if errors.is_empty() { Ok(()) } else { Err(errors.join("; ")) }
    }

    /// Starts the solver.
    ///
    /// # Errors
    /// Where there is none that works.
    pub(crate) async fn with_solver(self, settings: SolverSettings) -> Result<Prover, SolverUnavailable> {
        let Self { world, set } = self;
        Ok(Prover { here: set.of_each(&world), world, set, solver: Solver::start(settings).await? })
    }
}

impl RequestCondition {
    /// What it says of this action; nothing where that cannot meet it. One that errors is not met, so that a part that
    /// is false decides, wherever it stands: for policies that is not so.
    fn at(&self, action: &Action) -> Option<Value> {
        let value = self.0.at(&RequestSlot::Alone.of(action));
        (!never_true(&value)).then_some(value)
    }
}

fn never_true(value: &Value) -> bool {
    let side = |name: &str| value.get("&&").and_then(|and| and.get(name)).is_some_and(never_true);
    *value == truth(false) || side("left") || side("right")
}

/// What has come of a statement's questions so far.
struct ProofProgress {
    report: ProofReport,
    undecided: Option<String>,
}

impl Prover {
    /// Proves a statement, or shows a request that breaks it.
    ///
    /// # Errors
    /// Where the solver is gone.
    pub(crate) async fn prove(&mut self, statement: &Statement) -> Result<ProofReport, SolverUnavailable> {
        let began = clock::monotonic();
        let report = ProofReport { verdict: ProofResult::Proved, environments: 0, questions: 0, took: Duration::ZERO };
        let mut progress = ProofProgress { report, undecided: None };
        match &statement.property {
            Property::Separation(groups) => self.apart(groups, &mut progress).await?,
            Property::Never(condition) => self.never(condition, &mut progress).await?,
            Property::Always(condition) => self.always(condition, &mut progress).await?,
            Property::AtMost(other) => self.at_most(other, false, &mut progress).await?,
            Property::Equivalent(other) => {
                self.at_most(other, false, &mut progress).await?;
                if matches!(progress.report.verdict, ProofResult::Proved) {
                    progress.report.environments = 0;
                    self.at_most(other, true, &mut progress).await?;
                }
            }
        }
        let mut report = progress.report;
        if let (ProofResult::Proved, Some(text)) = (&report.verdict, progress.undecided) {
            report.verdict = ProofResult::Undecided(text);
        }
        report.took = clock::monotonic().duration_since(began);
        Ok(report)
    }

    async fn apart(&mut self, groups: &[String; 2], progress: &mut ProofProgress) -> Result<(), SolverUnavailable> {
        let Self { world, set, solver, .. } = self;
        let [first, second] = groups;
        let side = |group: &str, view: RequestSlot| {
            let mut questions = Queries::default();
            for environment in world.of_group(group) {
                let Some(action) = world.actions.get(environment.action) else { continue };
                let value = allowed(&set.clauses, &view.of(action));
                if value != truth(false) {
                    questions.add(vec![value], environment);
                }
            }
            questions
        };
        progress.report.environments = world.of_group(first).count() * world.of_group(second).count();
        let (firsts, seconds) = (side(first, RequestSlot::First), side(second, RequestSlot::Second));
        for (one, firsts) in firsts.each() {
            for (other, seconds) in seconds.each() {
                let principal = |shape: usize| world.shapes.get(shape).map(|shape| &shape.principal);
                if principal(one) != principal(other) {
                    continue;
                }
                // one policy for each, so that one that errors hides no other
                let left: Vec<Value> = expressions(firsts).map(|value| and(&set.lawful, value)).collect();
                let compiled = world.pair(one, other).and_then(|environment| {
                    let left = world.compile(&environment, left.iter())?;
                    Ok((left, world.compile(&environment, expressions(seconds))?))
                });
                let expected = [(RequestSlot::First, firsts), (RequestSlot::Second, seconds)].map(|(view, asked)| {
                    ExpectedRequest { view, environments: environments(asked), sets: vec![(&*set, true)] }
                });
                let asked = compiled.as_ref().map(|(left, right)| SolverQuery::Both(left, right)).map_err(Clone::clone);
                if progress.ask(solver, world, asked, &expected).await? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    async fn never(
        &mut self,
        condition: &RequestCondition,
        progress: &mut ProofProgress,
    ) -> Result<(), SolverUnavailable> {
        let Self { world, set, here, solver } = self;
        let mut questions = Queries::default();
        for (environment, meets, value) in met(world, here, condition) {
            progress.report.environments += 1;
            if *value != truth(false) {
                questions.add(vec![and(&set.lawful, &and(&meets, value))], environment);
            }
        }
        for (shape, asked) in questions.each() {
            let compiled = world.alone(shape).and_then(|environment| {
                let bad = world.compile(&environment, expressions(asked))?;
                Ok((bad, world.compile(&environment, std::iter::empty())?))
            });
            let expected = [ExpectedRequest {
                view: RequestSlot::Alone,
                environments: environments(asked),
                sets: vec![(&*set, true)],
            }];
            let question = compiled.as_ref().map(|(bad, none)| SolverQuery::Only(bad, none)).map_err(Clone::clone);
            if progress.ask(solver, world, question, &expected).await? {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn always(
        &mut self,
        condition: &RequestCondition,
        progress: &mut ProofProgress,
    ) -> Result<(), SolverUnavailable> {
        let Self { world, set, here, solver } = self;
        let mut questions = Queries::default();
        for (environment, meets, value) in met(world, here, condition) {
            progress.report.environments += 1;
            questions.add(vec![and(&set.lawful, &meets), value.clone()], environment);
        }
        one_by_one(solver, world, &questions, &[(&*set, false)], progress).await
    }

    /// `turned` asks the same of the other set.
    async fn at_most(
        &mut self,
        other: &AnalyzedPolicies,
        turned: bool,
        progress: &mut ProofProgress,
    ) -> Result<(), SolverUnavailable> {
        let Self { world, set, here, solver } = self;
        let there = other.of_each(world);
        let (less, more) = if turned { (other, &*set) } else { (&*set, other) };
        let mut questions = Queries::default();
        for environment in &world.environments {
            let here = here.get(environment.action).map(|value| and(&set.lawful, value));
            let there = there.get(environment.action).map(|value| and(&other.lawful, value));
            let Some((here, there)) = here.zip(there) else { continue };
            progress.report.environments += 1;
            let (left, right) = if turned { (there, here) } else { (here, there) };
            // the same, and nothing, need no solver
            if left != right && !never_true(&left) {
                questions.add(vec![left, right], *environment);
            }
        }
        one_by_one(solver, world, &questions, &[(less, true), (more, false)], progress).await
    }
}

/// The environments that a condition can hold in: with what it means there, and where the set allows.
fn met<'w>(
    world: &'w Environments,
    here: &'w [Value],
    condition: &'w RequestCondition,
) -> impl Iterator<Item = (Environment, Value, &'w Value)> {
    world.environments.iter().filter_map(move |environment| {
        let (action, value) = world.actions.get(environment.action).zip(here.get(environment.action))?;
        Some((*environment, condition.at(action)?, value))
    })
}

/// Asks of each question whether its first expression can hold without its second.
async fn one_by_one(
    solver: &mut Solver,
    world: &Environments,
    questions: &Queries,
    sets: &[(&AnalyzedPolicies, bool)],
    progress: &mut ProofProgress,
) -> Result<(), SolverUnavailable> {
    for (shape, asked) in questions.each() {
        for Query { expressions, environments } in asked {
            let compiled = world.alone(shape).and_then(|environment| {
                let compile = |n: usize| world.compile(&environment, expressions.get(n).into_iter());
                Ok((compile(0)?, compile(1)?))
            });
            let expected =
                [ExpectedRequest { view: RequestSlot::Alone, environments: environments.clone(), sets: sets.to_vec() }];
            let question = compiled.as_ref().map(|(left, right)| SolverQuery::Only(left, right)).map_err(Clone::clone);
            if progress.ask(solver, world, question, &expected).await? {
                return Ok(());
            }
        }
    }
    Ok(())
}

impl ProofProgress {
    /// Puts one question; true where the statement is broken by the answer.
    async fn ask(
        &mut self,
        solver: &mut Solver,
        world: &Environments,
        asked: Result<SolverQuery<'_>, String>,
        expected: &[ExpectedRequest<'_>],
    ) -> Result<bool, SolverUnavailable> {
        self.report.questions += 1;
        let answer = match asked {
            Ok(asked) => solver.ask(asked).await?,
            Err(text) => SolverAnswer::None(format!("cannot be compiled for the solver: {text}")),
        };
        self.report.verdict = match answer {
            SolverAnswer::No => return Ok(false),
            SolverAnswer::None(text) => {
                self.undecided.get_or_insert(text);
                return Ok(false);
            }
            SolverAnswer::Unreadable(text) => ProofResult::DisprovedWithoutExample(format!(
                "the solver has found a request, which cannot be read: {text}"
            )),
            SolverAnswer::Yes(found) => match Counterexample::new(world, &found, expected) {
                Ok(example) => ProofResult::Disproved(Box::new(example)),
                Err(error) => ProofResult::DisprovedWithoutExample(format!(
                    "the solver has found a request, which cannot be shown: {error}"
                )),
            },
        };
        Ok(true)
    }
}

/// The first expression of each.
fn expressions(asked: &[Query]) -> impl Iterator<Item = &Value> {
    asked.iter().filter_map(|question| question.expressions.first())
}

fn environments(asked: &[Query]) -> Vec<Environment> {
    asked.iter().flat_map(|question| question.environments.iter().copied()).collect()
}
