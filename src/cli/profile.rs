//! Options that select a stored login: `login`, `token`, `logout` and `grant` share them.

use std::path::PathBuf;

use super::{env::env_var, run::CommandError};
use crate::{
    cli::login::{
        LoginError,
        cache::{CacheError, LoginCache, check_name},
    },
    telemetry::chain,
};

/// The name of a login and the directory of all logins.
#[derive(Debug, clap::Args)]
pub(super) struct Profile {
    /// The login's name, for more than one login
    #[arg(long, default_value = "default")]
    pub(super) name: String,
    /// The directory of stored logins [default: $XDG_STATE_HOME/wicketgate, or ~/.local/state/wicketgate]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl From<LoginError> for CommandError {
    fn from(error: LoginError) -> Self {
        let text = chain(&error);
        match error {
            LoginError::Address(_) | LoginError::Build(_) | LoginError::Cache(CacheError::Name(_)) => Self::Usage(text),
            _ => Self::Failed(text),
        }
    }
}

impl From<CacheError> for CommandError {
    fn from(error: CacheError) -> Self {
        LoginError::from(error).into()
    }
}

impl Profile {
    /// The cache. Creates its directory if there is none.
    pub(super) fn create_cache(&self) -> Result<LoginCache, CommandError> {
        Ok(LoginCache::make(&self.directory()?)?)
    }

    /// The cache. `None` if its directory does not exist.
    pub(super) fn open_cache(&self) -> Result<Option<LoginCache>, CommandError> {
        Ok(LoginCache::existing(&self.directory()?)?)
    }

    /// The XDG Base Directory Specification: state that persists, but is not important enough to back up; relative
    /// paths are invalid and ignored.
    fn directory(&self) -> Result<PathBuf, CommandError> {
        // before the provider is asked or a browser opens
        check_name(&self.name)?;
        if let Some(directory) = &self.cache {
            return Ok(directory.clone());
        }
        let absolute = |name| env_var(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        let state = state.ok_or_else(|| CommandError::Usage("$HOME is not set; write `--cache DIR`".into()))?;
        Ok(state.join("wicketgate"))
    }
}
