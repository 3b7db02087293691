//! `wicketgate token`.

use std::process::ExitCode;

use super::{
    output::{print_error, print_line},
    profile::Profile,
    run::{CommandError, run_command},
};
use crate::cli::login::{self, LoginError, LoginToken};

/// The options of `wicketgate token`.
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
    run_command(async {
        let Options { profile, id_token, header } = options;
        let cache =
            profile.open_cache()?.ok_or_else(|| CommandError::from(LoginError::NoLogin(profile.name.clone())))?;
        let kind = if *id_token { LoginToken::Id } else { LoginToken::Access };
        let token = login::token(&cache, &profile.name, kind).await?;
        if let Some(warning) = &token.warning {
            print_error(&format!("this token expires within a minute, and there is no newer one: {warning}"));
        }
        let text = token.token.expose();
        if *header {
            print_line(&format!("Authorization: Bearer {text}"));
        } else {
            print_line(text);
        }
        Ok(())
    })
}
