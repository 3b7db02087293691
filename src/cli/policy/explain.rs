//! `wicketgate policy explain`.

use std::process::ExitCode;

use super::{
    arguments::{RequestArguments, ResolvedRequest},
    render,
};
use crate::cli::output::{USAGE_ERROR, print_error, print_line};

/// What `wicketgate policy explain` is told.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    arguments: RequestArguments,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn explain(options: &Options) -> ExitCode {
    let request = match options.arguments.resolve() {
        Ok(request) => request,
        Err(error) => {
            print_error(&error);
            return ExitCode::from(USAGE_ERROR);
        }
    };
    let explanation = request.policy.explain(request.access_request());
    let allowed = is_token_accepted(&request) && explanation.decision.allowed;
    if options.json {
        print_line(&render::json(&request, &explanation, allowed).to_string());
    } else {
        render::text(&request, &explanation, allowed).iter().for_each(|line| print_line(line));
    }
    if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether nothing is known for which a gate would refuse the caller before it asks policy.
fn is_token_accepted(request: &ResolvedRequest) -> bool {
    request.caller.objection.is_none()
}
