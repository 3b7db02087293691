//! `wicketgate token`.

use std::process::ExitCode;

use super::{
    complain,
    profile::{self, End, Profile},
    say,
};
use crate::cli::login::{self, LoginError, TokenKind};

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
    profile::run(async {
        let Options { profile, id_token, header } = options;
        let cache = profile.existing()?.ok_or_else(|| End::from(LoginError::NoLogin(profile.name.clone())))?;
        let kind = if *id_token { TokenKind::Id } else { TokenKind::Access };
        let token = login::token(&cache, &profile.name, kind).await?;
        if let Some(warning) = &token.warning {
            complain(&format!("this token expires within a minute, and there is no newer one: {warning}"));
        }
        let text = token.token.expose();
        if *header {
            say(&format!("Authorization: Bearer {text}"));
        } else {
            say(text);
        }
        Ok(())
    })
}
