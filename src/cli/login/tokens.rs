//! The tokens of a stored login: handed out, refreshed and revoked.
//!
//! Promises: of several processes that need a new token, one requests it, under the lock of the login. A rotated refresh
//! token is on disk before anything else of the response is read.

use tokio::signal::unix::{SignalKind, signal};

use super::{
    cache::{LoginCache, LoginLock},
    error::LoginError,
    oauth_client::{self, OAuthClient},
    provider::Provider,
    stored::{LoginToken, StoredLogin, TokenSet},
};
use crate::{clock, gate::identity::openid::id_token::ExpectedNonce, secret::Secret, telemetry::chain};

/// A token that has not expired.
#[derive(Debug)]
pub(in crate::cli) struct ValidToken {
    /// Its text.
    pub token: Secret,
    /// Why there is no token with more than a minute left.
    pub warning: Option<String>,
}

/// The result of a logout at the provider.
#[derive(Debug)]
pub(in crate::cli) enum LogoutResult {
    /// The provider has revoked the login (RFC 7009).
    Revoked,
    /// The provider was not reached, or refused; its tokens are valid until they expire.
    Failed(LoginError),
}

/// A valid token of the login `name`: the stored one while it has more than a minute left, else a new one.
///
/// # Errors
/// If there is no such login, if it is over, or if its provider cannot be reached and no stored token is valid.
pub(in crate::cli) async fn token(cache: &LoginCache, name: &str, kind: LoginToken) -> Result<ValidToken, LoginError> {
    let read = || cache.read(name)?.ok_or_else(|| LoginError::NoLogin(name.to_owned()));
    if let Some(token) = read()?.tokens.fresh(kind, clock::now()) {
        return Ok(ValidToken { token, warning: None });
    }
    let lock = cache.lock(name).await?;
    // the process that held the lock before may have refreshed it
    let mut login = read()?;
    if let Some(token) = login.tokens.fresh(kind, clock::now()) {
        return Ok(ValidToken { token, warning: None });
    }
    let refreshed = refresh(&lock, &mut login).await;
    match (refreshed, login.tokens.unexpired(kind, clock::now())) {
        (Ok(()), Some(token)) => Ok(ValidToken { token, warning: None }),
        (Ok(()), None) => Err(no_valid_token(name, kind)),
        // not fresh, but still valid
        (Err(error), Some(token)) => Ok(ValidToken { token, warning: Some(chain(&error)) }),
        (Err(error), None) => Err(error),
    }
}

/// Refreshes a login at its provider. If that fails the login stays as it was, except for a rotated refresh token.
async fn refresh(lock: &LoginLock<'_>, login: &mut StoredLogin) -> Result<(), LoginError> {
    let over = |why: String| LoginError::Over(lock.name().to_owned(), why);
    let Some(refresh_token) = login.tokens.refresh.clone() else {
        return Err(over("the provider gave no refresh token to renew it with (a `--scope` may be missing)".into()));
    };
    let settings = login.settings.clone();
    let provider = Provider::discover(&settings.issuer, settings.ca.as_deref()).await?;
    let client = OAuthClient::new(&provider, &settings)?;
    // RFC 9700 section 4.14.2: a refresh token that rotates can be used once. So disk space for the next one is reserved
    // first, signals are blocked, and it is on disk before anything else of the response is read
    let file = lock.reserve()?;
    block_signals()?;
    let response = client.refresh(&refresh_token).await.map_err(|error| match error {
        LoginError::Refused(why) if why.starts_with("invalid_grant") => {
            over(format!("the provider refused to renew it ({why})"))
        }
        error => error,
    })?;
    // RFC 6749 section 6: a new refresh token replaces the old one
    login.tokens.refresh = oauth_client::refresh_token(&response).or(Some(refresh_token));
    file.fill(login)?;
    let subject = login.tokens.id.as_ref().map(|id| id.subject.as_str());
    let new = client.verify(response, ExpectedNonce::Any, subject).await?;
    login.tokens = TokenSet {
        refresh: login.tokens.refresh.take(),
        // section 12.2 of OpenID Connect Core 1.0: a refresh need not give an ID token
        id: new.id.or_else(|| login.tokens.id.take()),
        ..new
    };
    Ok(lock.reserve()?.fill(login)?)
}

/// From here on Ctrl-C and its like have no effect; the exchange has a deadline.
fn block_signals() -> Result<(), LoginError> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()] {
        // the handler replaces the default action, and stays when this value is dropped
        let _ = signal(kind).map_err(LoginError::Signals)?;
    }
    Ok(())
}

fn no_valid_token(name: &str, kind: LoginToken) -> LoginError {
    let why = match kind {
        LoginToken::Access => "the provider gave a token that has already expired",
        LoginToken::Id => "the provider gave no ID token that is still valid (it needs the scope `openid`)",
    };
    LoginError::Over(name.to_owned(), why.to_owned())
}

/// Stores a login under `name`, in place of the one before.
///
/// # Errors
/// If the cache cannot be written.
pub(super) async fn store(cache: &LoginCache, name: &str, login: &StoredLogin) -> Result<(), LoginError> {
    Ok(cache.lock(name).await?.reserve()?.fill(login)?)
}

/// Revokes the login `name` at its provider, and removes it from the cache even if the provider refuses.
///
/// # Errors
/// If there is no such login, or its file cannot be removed.
pub(in crate::cli) async fn logout(cache: &LoginCache, name: &str) -> Result<LogoutResult, LoginError> {
    let none = || LoginError::NoLogin(name.to_owned());
    if let Ok(None) = cache.read(name) {
        return Err(none());
    }
    let lock = cache.lock(name).await?;
    let revoked = match cache.read(name) {
        Ok(None) => return Err(none()),
        Ok(Some(login)) => revoke(&login).await,
        // a file that cannot be trusted or read is removed all the same
        Err(error) => Err(error.into()),
    };
    lock.remove()?;
    Ok(revoked.map_or_else(LogoutResult::Failed, |()| LogoutResult::Revoked))
}

async fn revoke(login: &StoredLogin) -> Result<(), LoginError> {
    let provider = Provider::discover(&login.settings.issuer, login.settings.ca.as_deref()).await?;
    OAuthClient::new(&provider, &login.settings)?.revoke(&login.tokens).await
}
