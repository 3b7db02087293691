//! Secrets: where they come from, how they are held, how they are handed to an upstream.
//!
//! Promises: a [`Secret`] is wiped when dropped and has no `Display` and no `Serialize`; its `Debug` says only
//! that there is one. A [`Credential`] is replaced whole, never changed. This module never writes a secret
//! anywhere, a log line included.

mod callers;

use std::{fmt, path::PathBuf, process::Stdio, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use zeroize::Zeroizing;

pub(crate) use self::callers::{CallerSlots, Shown, Wanted};
use crate::clock::Timestamp;

/// A value that must not be shown. `expose` is the only way to its text.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text over; the caller's copy is gone.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text itself. Whoever calls this answers for where it goes.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where a secret is read from. Configuration names one of these; a secret is never written inline.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file, read anew at each refresh.
    File(PathBuf),
    /// An environment variable of this process.
    Env(String),
    /// A program and its arguments; its standard output is the secret. It has ten seconds.
    Command(Vec<String>),
}

/// Why a secret could not be read. Names the place, never the value.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum SourceError {
    #[error("cannot read the secret file `{}`", .0.display())]
    File(PathBuf, #[source] std::io::Error),
    #[error("the environment variable `{0}` is not set or is not UTF-8")]
    Env(String),
    #[error("the secret command `{0}` failed: {1}")]
    Command(String, String),
    #[error("the secret from {0} is empty")]
    Empty(String),
}

const COMMAND_DEADLINE: Duration = Duration::from_secs(10);

impl Source {
    /// Reads the secret. Surrounding white space is not part of it: editors and `echo` leave newlines behind.
    ///
    /// # Errors
    /// When the file, variable or command cannot be read, or gives nothing.
    pub async fn read(&self) -> Result<Secret, SourceError> {
        let text = Zeroizing::new(match self {
            Self::File(path) => {
                tokio::fs::read_to_string(path).await.map_err(|e| SourceError::File(path.clone(), e))?
            }
            Self::Env(name) => environment(name).ok_or_else(|| SourceError::Env(name.clone()))?,
            Self::Command(words) => run(words).await?,
        });
        match text.trim() {
            "" => Err(SourceError::Empty(self.to_string())),
            trimmed => Ok(Secret::new(trimmed.to_owned())),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file `{}`", path.display()),
            Self::Env(name) => write!(f, "environment variable `{name}`"),
            Self::Command(words) => write!(f, "command `{}`", words.first().map_or("", String::as_str)),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "configuration named this variable as the source of a secret")]
fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

async fn run(words: &[String]) -> Result<String, SourceError> {
    let (program, arguments) = words.split_first().ok_or_else(|| SourceError::Empty("an empty command".into()))?;
    let failed = |why: String| SourceError::Command(program.clone(), why);
    let child = tokio::process::Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(COMMAND_DEADLINE, child)
        .await
        .map_err(|_| failed(format!("no answer within {} s", COMMAND_DEADLINE.as_secs())))?
        .map_err(|e| failed(e.to_string()))?;
    if !output.status.success() {
        return Err(failed(output.status.to_string()));
    }
    String::from_utf8(output.stdout).map_err(|_| failed("its output is not UTF-8".into()))
}

/// What an upstream is shown: one generation of one downstream credential.
#[derive(Debug)]
pub struct Credential {
    /// The value of the `Authorization` header, marked sensitive so that no log prints it.
    pub authorization: HeaderValue,
    /// Counts up from 1 each time the value changes.
    pub generation: u64,
    /// When this generation was obtained.
    pub obtained_at: Timestamp,
    /// When the upstream stops accepting it; `None` where that is not known in advance.
    pub expires_at: Option<Timestamp>,
}

/// A named place that a keeper fills and requests read: no lock, no wait.
#[derive(Clone, Debug)]
pub struct CredentialSlot {
    name: Arc<str>,
    current: Arc<ArcSwapOption<Credential>>,
}

impl PartialEq for CredentialSlot {
    /// The same place, whatever is in it.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.current, &other.current)
    }
}

impl CredentialSlot {
    /// An empty slot: until it is filled, requests that need it are refused.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), current: Arc::new(ArcSwapOption::empty()) }
    }

    /// The credential's name, for audit and metrics.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The current generation, or nothing when there is none or it has expired by `now`.
    #[must_use]
    pub fn usable(&self, now: Timestamp) -> Option<Arc<Credential>> {
        self.current.load_full().filter(|held| held.expires_at.is_none_or(|end| now < end))
    }

    /// The current generation, expired or not, for metrics.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Credential>> {
        self.current.load_full()
    }

    /// Puts the next generation in place; from here on requests use it.
    pub fn replace(&self, next: Credential) {
        self.current.store(Some(Arc::new(next)));
    }
}

/// An `Authorization` value that logs print as `Sensitive`.
///
/// # Errors
/// When `text` holds bytes that no header value may hold.
pub(crate) fn authorization(text: &str) -> Result<HeaderValue, http::header::InvalidHeaderValue> {
    let mut value = HeaderValue::from_str(text)?;
    value.set_sensitive(true);
    Ok(value)
}
