//! What `login`, `token` and `logout` have in common: which login, and where it is kept.

use std::{future::Future, path::PathBuf, process::ExitCode};

use super::{WRONG, complain};
use crate::{
    cli::login::{
        LoginError,
        cache::{CacheError, LoginCache, check_name},
    },
    telemetry::chain,
};

/// Which login, and where logins are kept.
#[derive(Debug, clap::Args)]
pub(super) struct Profile {
    /// The login's name, where there are several
    #[arg(long, default_value = "default")]
    pub(super) name: String,
    /// Where logins are kept [default: $XDG_STATE_HOME/wicketgate, or ~/.local/state/wicketgate]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// Why a command ends without what was asked for.
#[derive(Debug)]
pub(super) enum End {
    /// The answer is no.
    No(String),
    /// It was called wrongly.
    Wrong(String),
}

impl From<LoginError> for End {
    fn from(problem: LoginError) -> Self {
        let text = chain(&problem);
        match problem {
            LoginError::Address(_) | LoginError::Build(_) | LoginError::Cache(CacheError::Name(_)) => Self::Wrong(text),
            _ => Self::No(text),
        }
    }
}

impl From<CacheError> for End {
    fn from(error: CacheError) -> Self {
        LoginError::from(error).into()
    }
}

impl Profile {
    /// The cache, made where there is none.
    pub(super) fn make(&self) -> Result<LoginCache, End> {
        Ok(LoginCache::make(&self.directory()?)?)
    }

    /// The cache, where there is one.
    pub(super) fn existing(&self) -> Result<Option<LoginCache>, End> {
        Ok(LoginCache::existing(&self.directory()?)?)
    }

    /// The XDG Base Directory Specification: state that lasts, but is not worth a backup; relative paths do not count.
    fn directory(&self) -> Result<PathBuf, End> {
        // before anybody is asked for anything
        check_name(&self.name)?;
        if let Some(directory) = &self.cache {
            return Ok(directory.clone());
        }
        let absolute = |name| environment(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = absolute("XDG_STATE_HOME").or_else(|| Some(absolute("HOME")?.join(".local/state")));
        let state =
            state.ok_or_else(|| End::Wrong("there is no $HOME to keep logins below; write `--cache DIR`".into()))?;
        Ok(state.join("wicketgate"))
    }
}

/// A variable that says where this user's things are, or whether there is a screen.
#[allow(clippy::disallowed_methods, reason = "these commands have no configuration file; the variables are standards")]
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Runs a command to its end and says why there is none.
pub(super) fn run(command: impl Future<Output = Result<(), End>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(End::No(text)) => {
            complain(&text);
            ExitCode::FAILURE
        }
        Err(End::Wrong(text)) => {
            complain(&text);
            ExitCode::from(WRONG)
        }
    }
}
