//! Sources of secrets: a file, an environment variable, or the output of a command.

use std::{fmt, path::PathBuf, process::Stdio, time::Duration};

use zeroize::Zeroizing;

use super::zeroized::Secret;

/// The place that a secret is read from. The configuration names one of these; it never holds the secret itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SecretSource {
    /// A file, read anew at each refresh.
    File(PathBuf),
    /// An environment variable of this process.
    Env(String),
    /// A program and its arguments; its standard output is the secret. It may run for ten seconds.
    Command(Vec<String>),
}

/// A secret could not be read. The text names the source, never the value.
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

impl SecretSource {
    /// Reads the secret. Surrounding white space is not part of it: editors and `echo` leave newlines behind.
    ///
    /// # Errors
    /// If the file, variable or command cannot be read, or the secret is empty.
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

impl fmt::Display for SecretSource {
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
    let failed = |problem: String| SourceError::Command(program.clone(), problem);
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
