//! `wicketgate policy`: one file for each subcommand.

mod arguments;
mod diff;
mod explain;
mod prove;
mod render;
mod test;

use std::{path::PathBuf, process::ExitCode};

use clap::Subcommand;

use crate::config::{self, Problems};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Say why policy allows or denies something: which role rules, which policies, and what is lacking.
    Explain(Box<explain::Options>),
    /// Prove what policies can never do, for every request at once, or show one that breaks it.
    Prove(prove::Options),
    /// Say what differs between two policy directories, and which decisions of an audit log would change.
    Diff(diff::Options),
    /// Run the tables in the policy directory's `tests/*.toml`.
    Test(test::Options),
}

pub(super) fn run(command: Command) -> ExitCode {
    match command {
        Command::Explain(options) => explain::explain(&options),
        Command::Diff(options) => diff::diff(&options),
        Command::Prove(options) => prove::prove(&options),
        Command::Test(options) => test::test(&options),
    }
}

/// Which policies.
#[derive(clap::Args)]
struct PolicyLocation {
    /// The policy directory [default: ./policies]
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    policies: Option<PathBuf>,
    /// The configuration file whose policies are meant
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl PolicyLocation {
    fn directory(&self) -> Result<PathBuf, Problems> {
        match (&self.policies, &self.config) {
            (Some(directory), _) => Ok(directory.clone()),
            (None, Some(file)) => config::policy_directory(file),
            (None, None) => Ok("policies".into()),
        }
    }
}
