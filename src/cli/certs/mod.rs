//! `wicketgate certs`: certificates of the gate, made and inspected.

mod certificate;
mod init;
mod list;

use std::process::ExitCode;

use clap::Subcommand;

#[derive(Subcommand)]
pub(super) enum Command {
    /// Make a private CA, and a certificate for the gate that it signs.
    Init(init::Options),
    /// Show every certificate: its names, its end, its issuer, whether its key matches, and which CA signed it.
    Ls(list::Options),
}

pub(super) fn run(command: Command) -> ExitCode {
    match command {
        Command::Init(options) => init::init(&options),
        Command::Ls(options) => list::list(&options),
    }
}
