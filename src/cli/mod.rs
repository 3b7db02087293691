//! The commands. The only place that prints.
//!
//! Exit codes: 0 good, 1 the answer is no, 2 wrong usage or configuration.

mod audit;
mod certs;
mod check;
mod demo;
mod env;
mod grant;
mod login;
mod logout;
mod output;
mod policy;
mod profile;
mod run;
mod serve;
mod token;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};

/// An identity-aware proxy in front of Prometheus exporters and Vertex AI endpoints.
#[derive(Parser)]
#[command(name = "wicketgate", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a demo on this machine: the gate, an identity provider, an exporter and an emulator of Google.
    Demo(demo::Options),
    /// Serve a configuration.
    Serve {
        /// The configuration file; `wicketgate.example.toml` has every key.
        #[arg(long)]
        config: PathBuf,
    },
    /// Report every problem of a configuration at once.
    Check {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Make the gate's certificates, or inspect them.
    Certs {
        #[command(subcommand)]
        command: certs::Command,
    },
    /// Read an audit log.
    Audit {
        #[command(subcommand)]
        command: audit::Command,
    },
    /// Explain, prove, test and compare policies.
    Policy {
        #[command(subcommand)]
        command: policy::Command,
    },
    /// Request a role for a limited time, and approve or revoke grants.
    Grant {
        #[command(subcommand)]
        command: grant::Command,
    },
    /// Log in at an identity provider, in a browser or with a code.
    Login(Box<login::command::Options>),
    /// Print a valid token of a login, for programs: `curl -H "Authorization: Bearer $(wicketgate token)"`.
    Token(token::Options),
    /// End a login: revoke it at its provider and remove it from this machine.
    Logout(logout::Options),
    /// Print the version.
    Version,
}

/// Runs the command that the arguments name.
#[must_use]
pub fn run() -> ExitCode {
    crate::client::share_cryptography();
    match Arguments::parse().command {
        Command::Demo(options) => demo::demo(&options),
        Command::Serve { config } => serve::serve(&config),
        Command::Check { config } => check::check(&config),
        Command::Certs { command } => certs::run(command),
        Command::Audit { command } => audit::run(command),
        Command::Policy { command } => policy::run(command),
        Command::Grant { command } => grant::run(command),
        Command::Login(options) => login::command::login(&options),
        Command::Token(options) => token::token(&options),
        Command::Logout(options) => logout::logout(&options),
        Command::Version => {
            output::print_line(&format!("wicketgate {}", env!("CARGO_PKG_VERSION")));
            ExitCode::SUCCESS
        }
    }
}
