//! `wicketgate logout`.

use std::process::ExitCode;

use super::{
    output::print_line,
    profile::Profile,
    run::{CommandError, run_command},
};
use crate::{
    cli::login::{self, LoginError, LogoutResult},
    telemetry::chain,
};

/// The options of `wicketgate logout`.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    profile: Profile,
    /// Every stored login
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

pub(super) fn logout(options: &Options) -> ExitCode {
    run_command(async {
        let Options { profile, all } = options;
        let none = || CommandError::from(LoginError::NoLogin(profile.name.clone()));
        let cache = match profile.open_cache()? {
            Some(cache) => cache,
            None if *all => return Ok(()),
            None => return Err(none()),
        };
        let names = if *all { cache.names()? } else { vec![profile.name.clone()] };
        let mut not_revoked = Vec::new();
        for name in names {
            match login::logout(&cache, &name).await? {
                LogoutResult::Revoked => {
                    print_line(&format!("`{name}` is logged out: revoked at its provider, and removed"))
                }
                LogoutResult::Failed(error) => {
                    let why = chain(&error);
                    not_revoked.push(format!("`{name}` is removed, but was not revoked at its provider: {why}"));
                }
            }
        }
        if not_revoked.is_empty() { Ok(()) } else { Err(CommandError::Failed(not_revoked.join("\n"))) }
    })
}
