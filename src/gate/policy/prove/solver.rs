//! The solver: one cvc5 process, asked one question after another.
//!
//! Promises: the solver's word is taken only where it gives one. Unknown, a time limit, a process that ends and an
//! answer that cannot be read are [`SolverAnswer::None`], never a proof. The process ends with this value.

use std::{path::PathBuf, time::Duration};

use cedar_policy_symcc::{
    CedarSymCompiler, CompiledPolicySet, Env,
    err::{Error, SolverError},
    solver::{LocalSolver, Solver as _},
};
use tokio::process::Command;

/// How much longer than its own limit the solver is waited for.
const GRACE: Duration = Duration::from_secs(5);

/// Where the solver is and how long a question may take it.
#[derive(Clone, Debug)]
pub(crate) struct SolverSettings {
    /// cvc5: a path, or a name to be found on `PATH`.
    pub program: PathBuf,
    /// For one question.
    pub limit: Duration,
}

/// Why there is no solver.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SolverUnavailable {
    /// There is no such program.
    #[error(
        "the solver cvc5 is missing (`{0}` is not there): install the Debian package cvc5, or name it with \
             --solver PATH or the variable CVC5"
    )]
    Missing(PathBuf),
    /// It is there and does not work.
    #[error("the solver `{program}` does not work: {text}; it must be cvc5 1.0.3 or later")]
    Broken {
        /// The program.
        program: PathBuf,
        /// What it says.
        text: String,
    },
}

/// A running solver.
pub(super) struct Solver {
    settings: SolverSettings,
    compiler: CedarSymCompiler<LocalSolver>,
}

/// What is asked of sets that were compiled for one environment.
pub(super) enum SolverQuery<'a> {
    /// Is there a request that both allow?
    Both(&'a CompiledPolicySet, &'a CompiledPolicySet),
    /// Is there a request that the first allows and the second does not?
    Only(&'a CompiledPolicySet, &'a CompiledPolicySet),
}

/// What the solver said.
pub(super) enum SolverAnswer {
    /// There is no such request.
    No,
    /// There is: this one.
    Yes(Box<Env>),
    /// There is one, but it cannot be shown.
    Unreadable(String),
    /// It does not know.
    None(String),
}

impl Solver {
    pub(super) async fn start(settings: SolverSettings) -> Result<Self, SolverUnavailable> {
        let mut solver = spawn(&settings)?;
        let broken = |text: String| SolverUnavailable::Broken { program: settings.program.clone(), text };
        match tokio::time::timeout(settings.limit + GRACE, solver.check_sat()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => return Err(broken(error.to_string())),
            Err(_) => return Err(broken("it does not answer".into())),
        }
        let compiler = CedarSymCompiler::new(solver).map_err(|error| broken(error.to_string()))?;
        Ok(Self { settings, compiler })
    }

    pub(super) async fn ask(&mut self, asked: SolverQuery<'_>) -> Result<SolverAnswer, SolverUnavailable> {
        let limit = self.settings.limit;
        let answer = tokio::time::timeout(limit + GRACE, async {
            match asked {
                SolverQuery::Both(a, b) => self.compiler.check_disjoint_with_counterexample_opt(a, b).await,
                SolverQuery::Only(a, b) => self.compiler.check_implies_with_counterexample_opt(a, b).await,
            }
        });
        let (answer, usable) = match answer.await {
            Ok(Ok(None)) => (SolverAnswer::No, true),
            Ok(Ok(Some(found))) => (SolverAnswer::Yes(Box::new(found)), true),
            Ok(Err(Error::SolverUnknown)) => {
                (SolverAnswer::None(format!("the solver does not know after {limit:?}")), true)
            }
            Ok(Err(error @ (Error::DecodeModel(_) | Error::ConcretizeError(_) | Error::ModelInvalid { .. }))) => {
                (SolverAnswer::Unreadable(error.to_string()), true)
            }
            Ok(Err(Error::SolverError(SolverError::UnrecognizedSolverOutput(text)))) => {
                (SolverAnswer::None(format!("the solver says `{text}`")), false)
            }
            Ok(Err(error)) => (SolverAnswer::None(error.to_string()), false),
            Err(_) => (SolverAnswer::None(format!("the solver does not answer within {limit:?}")), false),
        };
        if !usable {
            // what is left of the last question must not be taken for an answer to the next
            *self.compiler.solver_mut() = spawn(&self.settings)?;
        }
        Ok(answer)
    }
}

fn spawn(settings: &SolverSettings) -> Result<LocalSolver, SolverUnavailable> {
    let mut command = Command::new(&settings.program);
    command.args(["--lang", "smt", "--strings-exp"]);
    command.arg(format!("--tlimit-per={}", settings.limit.as_millis())).kill_on_drop(true);
    LocalSolver::from_command(&mut command).map_err(|error| match error {
        SolverError::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
            SolverUnavailable::Missing(settings.program.clone())
        }
        error => {
            let text = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            SolverUnavailable::Broken { program: settings.program.clone(), text }
        }
    })
}
