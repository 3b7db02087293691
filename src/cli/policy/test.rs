//! `wicketgate policy test`.
//!
//! Exit codes: 0 every case is as expected, 1 one is not, 2 wrong usage or a problem of the files.

use std::{collections::BTreeSet, process::ExitCode, sync::Arc};

use super::PolicyLocation;
use crate::{
    cli::{
        output::print_line,
        run::{CommandError, run_command},
    },
    config,
    gate::policy::cases::DecisionText,
};

/// What `wicketgate policy test` is told.
#[derive(clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    location: PolicyLocation,
    /// List the policies that decided no case
    #[arg(long)]
    coverage: bool,
}

pub(super) fn test(options: &Options) -> ExitCode {
    run_command(async {
        let directory = options.location.directory().map_err(|e| CommandError::Usage(e.to_string()))?;
        let config::Cases { policy, cases } =
            config::cases(&directory).map_err(|e| CommandError::Usage(e.to_string()))?;
        let mut failed = 0;
        let mut decided = BTreeSet::<Arc<str>>::new();
        for case in &cases {
            let decision = case.evaluate(&policy);
            decided.extend(decision.policies.iter().cloned());
            if !case.expected.matches(&decision) {
                failed += 1;
                print_line(&format!("FAILED {} ({}:{})", case.name, case.file.display(), case.line));
                print_line(&format!("  expected {}\n  got      {}", case.expected, DecisionText(&decision)));
            }
        }
        if options.coverage {
            let names = policy.names();
            let idle: Vec<&Arc<str>> = names.iter().filter(|name| !decided.contains(*name)).collect();
            print_line(&format!("{} of {} policies decided a case", names.len() - idle.len(), names.len()));
            idle.iter().for_each(|name| print_line(&format!("  no case was decided by `{name}`")));
        }
        if failed > 0 {
            return Err(CommandError::Failed(format!("{failed} of {} cases failed", cases.len())));
        }
        print_line(&format!("{} cases, all as expected", cases.len()));
        Ok(())
    })
}
