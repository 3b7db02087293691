//! `wicketgate policy prove`.
//!
//! Exit codes: 0 all is proved, 1 something is not, or nobody knows, 2 wrong usage or configuration, or no solver.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use super::PolicyLocation;
use crate::{
    cli::{
        env::env_var,
        output::{print_error, print_line},
        run::{CommandError, run_command},
    },
    config,
    gate::policy::prove::{ProofReport, ProofResult, Prover, SolverSettings},
};

/// What `wicketgate policy prove` is told.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    location: PolicyLocation,
    /// The solver cvc5 [default: the variable CVC5, or `cvc5` on the PATH]
    #[arg(long, value_name = "PATH")]
    solver: Option<PathBuf>,
    /// Seconds that the solver may take for one question; what it cannot answer in that time is not proved
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
}

pub(super) fn prove(options: &Options) -> ExitCode {
    run_command(async {
        let wrong = |text: String| CommandError::Usage(text);
        let directory = options.location.directory().map_err(|e| wrong(e.to_string()))?;
        let proofs = config::proofs(&directory).map_err(|e| wrong(e.to_string()))?;
        proofs.warnings.iter().for_each(|warning| print_error(&format!("warning: {warning}")));
        let named = options.solver.clone().or_else(|| env_var("CVC5").map(PathBuf::from));
        let program = named.unwrap_or_else(|| "cvc5".into());
        let settings = SolverSettings { program, limit: Duration::from_secs(options.timeout) };
        let mut solver = Prover::start(proofs.subject, settings).await.map_err(|e| wrong(e.to_string()))?;
        let mut failed = 0;
        for statement in &proofs.statements {
            let report = solver.prove(statement).await.map_err(|e| wrong(e.to_string()))?;
            failed += usize::from(!matches!(report.verdict, ProofResult::Proved));
            print_report(&statement.name, &report);
        }
        match failed {
            0 => Ok(()),
            _ => Err(CommandError::Failed(format!("{failed} of {} are not proved", proofs.statements.len()))),
        }
    })
}

fn print_report(name: &str, report: &ProofReport) {
    let seconds = report.took.as_secs_f64();
    match &report.verdict {
        ProofResult::Proved => print_line(&format!(
            "proved {name} ({} environments, {} questions, {seconds:.1} s)",
            report.environments, report.questions
        )),
        ProofResult::Disproved(example) => print_line(&format!("NOT PROVED {name}\n{example}")),
        ProofResult::DisprovedWithoutExample(text) => print_line(&format!("NOT PROVED {name}\n  {text}")),
        ProofResult::Undecided(text) => print_line(&format!("UNDECIDED {name}\n  {text}")),
    }
}
