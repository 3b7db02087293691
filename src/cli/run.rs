//! The runtime of a command and its exit code.

use std::{future::Future, process::ExitCode};

use super::output::{USAGE_ERROR, print_error};

/// An unsuccessful command, with the text for standard error.
#[derive(Debug)]
pub(super) enum CommandError {
    /// The command ran and its answer is no: exit code 1.
    Failed(String),
    /// The arguments or the configuration are wrong: exit code 2.
    Usage(String),
}

/// Runs a command on a runtime of one thread and prints its error.
pub(super) fn run_command(command: impl Future<Output = Result<(), CommandError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            print_error(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::Failed(text)) => {
            print_error(&text);
            ExitCode::FAILURE
        }
        Err(CommandError::Usage(text)) => {
            print_error(&text);
            ExitCode::from(USAGE_ERROR)
        }
    }
}
