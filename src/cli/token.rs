//! `wicketgate token`.

use std::process::ExitCode;

use super::{
    complain,
    profile::{self, End, Profile},
    say,
};
use crate::cli::login::{self, Kind, Problem};

/// What `wicketgate token` is told.
#[derive(Debug, clap::Args)]
pub(super) struct Options {
    #[command(flatten)]
    profile: Profile,
    /// The ID token instead of the access token
    #[arg(long)]
    id_token: bool,
    /// A whole header line, for `curl -H @-`
    #[arg(long)]
    header: bool,
}

pub(super) fn token(options: &Options) -> ExitCode {
    profile::run(async {
        let Options { profile, id_token, header } = options;
        let cache = profile.existing()?.ok_or_else(|| End::from(Problem::NoLogin(profile.name.clone())))?;
        let kind = if *id_token { Kind::Id } else { Kind::Access };
        let handed = login::token(&cache, &profile.name, kind).await?;
        if let Some(warning) = &handed.warning {
            complain(&format!("this token ends within a minute, and there is no newer one: {warning}"));
        }
        let token = handed.token.expose();
        if *header {
            say(&format!("Authorization: Bearer {token}"));
        } else {
            say(token);
        }
        Ok(())
    })
}
