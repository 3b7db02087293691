//! `wicketgate audit`.

use std::{fs::File, io::BufReader, path::PathBuf, process::ExitCode};

use clap::Subcommand;

use super::output::{USAGE_ERROR, print_error, print_line};
use crate::gate::audit::{Verdict, verify};

#[derive(Subcommand)]
pub(super) enum Command {
    /// Check that no line of a log was changed, removed or moved.
    Verify {
        /// The log.
        file: PathBuf,
    },
}

pub(super) fn run(command: Command) -> ExitCode {
    let Command::Verify { file } = command;
    match File::open(&file).map(BufReader::new).and_then(verify) {
        Ok(Verdict::Whole { lines }) => {
            print_line(&format!("{}: whole: {lines} lines", file.display()));
            ExitCode::SUCCESS
        }
        Ok(Verdict::Broken { line, why }) => {
            print_line(&format!("{}:{line}: broken: {why}", file.display()));
            ExitCode::FAILURE
        }
        Err(error) => {
            print_error(&format!("cannot read `{}`: {error}", file.display()));
            ExitCode::from(USAGE_ERROR)
        }
    }
}
