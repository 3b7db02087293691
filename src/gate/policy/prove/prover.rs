//! Proofs of statements: queries to the symbolic compiler and the solver.
//!
//! Promises: *proved* is the result only if the solver denied every query, or if the two sides of a query are equal or
//! false before the solver runs.

use std::time::Duration;

use serde_json::Value;

use super::{
    analysis::{Analysis, AnalyzedPolicies, RequestCondition, never_true},
    counterexample::{Counterexample, ExpectedRequest},
    environments::{Environment, Environments, Queries, Query, RequestSlot},
    expression::{allowed, and, truth},
    solver::{Solver, SolverAnswer, SolverQuery, SolverSettings, SolverUnavailable},
    statement::{ProofReport, ProofResult, Property, Statement},
};
use crate::clock;

/// A set of policies, the world it is about, and who decides.
pub(crate) struct Prover {
    world: Environments,
    set: AnalyzedPolicies,
    /// What the set says of each action of the world.
    here: Vec<Value>,
    solver: Solver,
}

/// What has come of a statement's questions so far.
struct ProofProgress {
    report: ProofReport,
    undecided: Option<String>,
}

impl Prover {
    /// Starts the solver.
    ///
    /// # Errors
    /// If the solver is missing or does not work.
    pub(crate) async fn start(analysis: Analysis, settings: SolverSettings) -> Result<Self, SolverUnavailable> {
        let Analysis { world, set } = analysis;
        Ok(Self { here: set.of_each(&world), world, set, solver: Solver::start(settings).await? })
    }

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
        let firsts = side(first, RequestSlot::First);
        let seconds = side(second, RequestSlot::Second);
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
