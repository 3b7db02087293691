//! Logins of people at a shell: how one begins, what is kept of it, how a valid token comes of it, how it ends.
//!
//! Promises: a token that is handed out is valid now; of several processes that need a new one, one asks; a refresh
//! token that the provider has replaced is on disk before the token that came with it is handed out. Never: a secret in
//! an argument, a log line or an error; a word of the provider's on the terminal that could steer it.

pub(crate) mod browser;
pub(crate) mod cache;
pub(in crate::cli) mod command;
pub(crate) mod device;
mod exchange;
pub(crate) mod gate;
mod id_token;
pub(crate) mod login;
mod loopback;
pub(crate) mod provider;

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use self::{
    cache::{Cache, CacheError, Locked},
    exchange::Client,
    id_token::Expected,
    login::{Login, Settings, Tokens},
    provider::Provider,
};
use crate::{
    client::{BuildError, ClientError},
    clock,
    secret::Secret,
};

/// Why there is no login, or no token of it.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub(crate) enum Problem {
    #[error("`{0}` is not an https URL (http is taken to loopback addresses only)")]
    Address(String),
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("`{0}` cannot be asked")]
    Unreachable(String, #[source] ClientError),
    #[error("`{0}` answered {1}")]
    Status(String, http::StatusCode),
    #[error("`{0}` {1}")]
    Document(String, String),
    #[error("the provider has no {0}; try {1}")]
    Lacks(&'static str, &'static str),
    #[error("the provider refused: {0}")]
    Refused(String),
    #[error("the gate refused ({0}): {1}")]
    Gate(http::StatusCode, String),
    #[error("the provider's answer cannot be understood: {0}")]
    Answer(String),
    #[error("the login was refused at the provider")]
    Denied,
    #[error("nobody logged in within {0:?}; run `wicketgate login` again")]
    TooLate(Duration),
    #[error("the provider's ID token is not accepted: {0}")]
    IdToken(String),
    #[error("the address for the browser's answer cannot be listened on")]
    Listen(#[source] std::io::Error),
    #[error("interruptions cannot be held back while a token is renewed")]
    Signals(#[source] std::io::Error),
    #[error("no login is kept as `{0}`; run `wicketgate login --issuer URL --client-id ID`")]
    NoLogin(String),
    #[error("the login `{0}` is over: {1}; run `wicketgate login` again")]
    Over(String, String),
    #[error(transparent)]
    Cache(#[from] CacheError),
}

/// Which of a login's tokens is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// What an API is shown.
    Access,
    /// What says who logged in (OpenID Connect Core 1.0 section 2).
    Id,
}

/// A token to hand out.
#[derive(Debug)]
pub(crate) struct Handed {
    /// Its text.
    pub token: Secret,
    /// What stood in the way of a fresher one, for whoever is told.
    pub warning: Option<String>,
}

/// What became of a login at its provider when it was ended here.
#[derive(Debug)]
pub(crate) enum Revoked {
    /// The provider has revoked it (RFC 7009).
    Yes,
    /// The provider was not told, or did not agree; its tokens live until they expire.
    No(Problem),
}

/// A valid token of the login `name`: the one kept while it has more than a minute left, else a new one.
///
/// # Errors
/// When there is no such login, when it is over, or when its provider cannot be asked and nothing kept is valid.
pub(crate) async fn token(cache: &Cache, name: &str, kind: Kind) -> Result<Handed, Problem> {
    let read = || cache.read(name)?.ok_or_else(|| Problem::NoLogin(name.to_owned()));
    if let Some(token) = read()?.tokens.fresh(kind, clock::now()) {
        return Ok(Handed { token, warning: None });
    }
    let locked = cache.lock(name).await?;
    // who held the lock before may have fetched it
    let mut login = read()?;
    if let Some(token) = login.tokens.fresh(kind, clock::now()) {
        return Ok(Handed { token, warning: None });
    }
    let renewed = renew(&locked, &mut login).await;
    match (renewed, login.tokens.unexpired(kind, clock::now())) {
        (Ok(()), Some(token)) => Ok(Handed { token, warning: None }),
        (Ok(()), None) => Err(none_came(name, kind)),
        // not fresh, but still valid
        (Err(problem), Some(token)) => Ok(Handed { token, warning: Some(crate::telemetry::chain(&problem)) }),
        (Err(problem), None) => Err(problem),
    }
}

/// Has the provider renew a login. It stays as it was where that fails, but for a refresh token that takes the old
/// one's place.
async fn renew(locked: &Locked<'_>, login: &mut Login) -> Result<(), Problem> {
    let over = |why: String| Problem::Over(locked.name().to_owned(), why);
    let Some(refresh) = login.tokens.refresh.clone() else {
        return Err(over("the provider gave no refresh token to renew it with (a `--scope` may be missing)".into()));
    };
    let settings = login.settings.clone();
    let provider = Provider::discover(&settings.issuer, settings.ca.as_deref()).await?;
    let client = Client::new(&provider, &settings);
    // RFC 9700 section 4.14.2: a refresh token that rotates can be used once. So the room for the next one comes first,
    // nobody interrupts, and it is on disk before anything else of the answer is looked at
    let place = locked.reserve()?;
    uninterrupted()?;
    let answer = client.renew(&refresh).await.map_err(|problem| match problem {
        Problem::Refused(why) if why.starts_with("invalid_grant") => {
            over(format!("the provider refused to renew it ({why})"))
        }
        problem => problem,
    })?;
    // RFC 6749 section 6: a new one, where there is one, takes the old one's place
    login.tokens.refresh = exchange::refresh_token(&answer).or(Some(refresh));
    place.fill(login)?;
    let subject = login.tokens.id.as_ref().map(|id| id.subject.as_str());
    let new = client.believe(answer, Expected { nonce: None, subject }).await?;
    login.tokens = Tokens {
        refresh: login.tokens.refresh.take(),
        // section 12.2 of OpenID Connect Core 1.0: a renewal need not bring another
        id: new.id.or_else(|| login.tokens.id.take()),
        ..new
    };
    Ok(locked.reserve()?.fill(login)?)
}

/// From here on Ctrl-C and its like wait until the program ends of itself: the exchange has a deadline.
fn uninterrupted() -> Result<(), Problem> {
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()] {
        // the handler that takes the place of the default action stays when this value goes
        let _ = signal(kind).map_err(Problem::Signals)?;
    }
    Ok(())
}

fn none_came(name: &str, kind: Kind) -> Problem {
    let why = match kind {
        Kind::Access => "the provider gave a token that has already expired",
        Kind::Id => "the provider gave no ID token that is still valid (it needs the scope `openid`)",
    };
    Problem::Over(name.to_owned(), why.to_owned())
}

/// Keeps a login under `name`, in place of what was kept there.
///
/// # Errors
/// When the cache cannot be written.
pub(crate) async fn keep(cache: &Cache, name: &str, login: &Login) -> Result<(), Problem> {
    Ok(cache.lock(name).await?.reserve()?.fill(login)?)
}

/// Ends the login `name`: revokes it at its provider, and removes what is kept of it whatever the provider said.
///
/// # Errors
/// When there is no such login, or its file cannot be removed.
pub(crate) async fn logout(cache: &Cache, name: &str) -> Result<Revoked, Problem> {
    let none = || Problem::NoLogin(name.to_owned());
    if let Ok(None) = cache.read(name) {
        return Err(none());
    }
    let locked = cache.lock(name).await?;
    let revoked = match cache.read(name) {
        Ok(None) => return Err(none()),
        Ok(Some(login)) => revoke(&login).await,
        // a file that cannot be trusted or read goes all the same
        Err(unread) => Err(unread.into()),
    };
    locked.remove()?;
    Ok(revoked.map_or_else(Revoked::No, |()| Revoked::Yes))
}

async fn revoke(login: &Login) -> Result<(), Problem> {
    let provider = Provider::discover(&login.settings.issuer, login.settings.ca.as_deref()).await?;
    Client::new(&provider, &login.settings).revoke(&login.tokens).await
}

/// A login that waits for its person.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// A code is to be entered on any device.
    Device(Box<device::Device>),
    /// A browser on this machine is to open a URL.
    Browser(Box<browser::Browser>),
}

impl Waiting {
    /// Begins a login by device authorization (RFC 8628).
    ///
    /// # Errors
    /// When the provider has none, cannot be asked or refuses.
    pub(crate) async fn for_device(provider: Provider, settings: Settings) -> Result<Self, Problem> {
        Ok(Self::Device(Box::new(device::Device::begin(provider, settings).await?)))
    }

    /// Begins a login in a browser on this machine (RFC 8252).
    ///
    /// # Errors
    /// When the provider has no authorization endpoint, or nothing can be listened on.
    pub(crate) async fn for_browser(provider: Provider, settings: Settings) -> Result<Self, Problem> {
        Ok(Self::Browser(Box::new(browser::Browser::begin(provider, settings).await?)))
    }

    /// Waits for the person, and fetches the tokens.
    ///
    /// # Errors
    /// When the login is refused or too late, or what comes of it breaks a rule.
    pub(crate) async fn finish(self) -> Result<Login, Problem> {
        match self {
            Self::Device(device) => device.finish().await,
            Self::Browser(browser) => browser.finish().await,
        }
    }
}

/// What somebody else says, made safe to print: no control characters, and bounded.
#[must_use]
pub(crate) fn printable(text: &str) -> String {
    const MOST: usize = 2000;
    // what is neither a letter nor seen reorders or hides what stands beside it (Unicode bidirectional controls)
    let hidden = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
    };
    text.chars().filter(|c| !hidden(*c)).take(MOST).collect()
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn a_provider_cannot_steer_the_terminal() {
        for (said, shown) in [
            ("BCDF-GHJK", "BCDF-GHJK"),
            ("\x1b[2Jgone\r\n", "[2Jgone"),
            ("\u{9b}31m", "31m"),
            ("a\u{202e}b\u{2066}c\u{feff}", "abc"),
            ("zugänglich", "zugänglich"),
        ] {
            assert_eq!(printable(said), shown, "{said:?}");
        }
        assert_eq!(printable(&"x".repeat(10_000)).len(), 2000);
    }
}
