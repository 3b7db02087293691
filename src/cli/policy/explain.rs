//! `wicketgate policy explain`.

use std::process::ExitCode;

use super::{
    arguments::{Asked, Ready},
    render,
};
use crate::cli::output::{USAGE_ERROR, print_error, print_line};

/// What `wicketgate policy explain` is told.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Options {
    #[command(flatten)]
    asked: Asked,
    /// For programs: one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn explain(options: &Options) -> ExitCode {
    let ready = match options.asked.ready() {
        Ok(ready) => ready,
        Err(error) => {
            print_error(&error);
            return ExitCode::from(USAGE_ERROR);
        }
    };
    let told = ready.policy.explain(ready.question());
    let allowed = is_let_in(&ready) && told.ruling.allowed;
    if options.json {
        print_line(&render::json(&ready, &told, allowed).to_string());
    } else {
        render::text(&ready, &told, allowed).iter().for_each(|line| print_line(line));
    }
    if allowed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Whether nothing is known for which a gate would refuse the caller before it asks policy.
fn is_let_in(ready: &Ready) -> bool {
    ready.who.objection.is_none()
}
