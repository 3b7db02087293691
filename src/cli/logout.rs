//! `wicketgate logout`.

use std::process::ExitCode;

use super::{
    profile::{self, End, Profile},
    say,
};
use crate::{
    cli::login::{self, Problem, Revoked},
    telemetry::chain,
};

/// What `wicketgate logout` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    profile: Profile,
    /// Every login that is kept
    #[arg(long, conflicts_with = "name")]
    all: bool,
}

pub(super) fn logout(options: &Options) -> ExitCode {
    profile::run(async {
        let Options { profile, all } = options;
        let none = || End::from(Problem::NoLogin(profile.name.clone()));
        let cache = match profile.existing()? {
            Some(cache) => cache,
            None if *all => return Ok(()),
            None => return Err(none()),
        };
        let names = if *all { cache.names()? } else { vec![profile.name.clone()] };
        let mut kept_alive = Vec::new();
        for name in names {
            match login::logout(&cache, &name).await? {
                Revoked::Yes => say(&format!("`{name}` is logged out: revoked at its provider, and removed")),
                Revoked::No(problem) => {
                    let why = chain(&problem);
                    kept_alive.push(format!("`{name}` is removed, but was not revoked at its provider: {why}"));
                }
            }
        }
        if kept_alive.is_empty() { Ok(()) } else { Err(End::No(kept_alive.join("\n"))) }
    })
}
