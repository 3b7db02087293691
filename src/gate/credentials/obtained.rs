//! A newly obtained credential, and the error if there is none.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};

use crate::{
    clock::{self, Timestamp},
    secret::{self, Credential, CredentialSlot, Secret},
};

/// How often files, variables and commands are read again.
const REREAD: Duration = Duration::from_secs(10);
pub(super) const RETRY_MIN: Duration = Duration::from_secs(1);
pub(super) const RETRY_MAX: Duration = Duration::from_secs(30);

/// A credential could not be obtained. Holds no value.
#[derive(Debug, thiserror::Error)]
pub(super) enum CredentialError {
    #[error(transparent)]
    Source(#[from] secret::SourceError),
    #[error("the secret holds bytes that no header may hold")]
    NotAHeader,
    #[error("a user name may not hold `:`")]
    Username,
    #[error("the security token service refused the token exchange or could not be reached: {0}")]
    Sts(String),
    #[error("the gate has no key to sign a subject token with")]
    NoKey,
    #[error("the principal's name has {0} bytes, and Google takes subjects of at most 127")]
    Subject(usize),
    #[error("the IAM Credentials service refused the request or could not be reached: {0}")]
    Iam(String),
}

/// A newly obtained value of the `Authorization` header.
pub(super) struct NewCredential {
    authorization: http::HeaderValue,
    expires_at: Option<Timestamp>,
}

impl NewCredential {
    /// HTTP Basic (RFC 7617).
    pub(super) fn basic(username: &str, password: &Secret) -> Result<Self, CredentialError> {
        if username.contains(':') {
            return Err(CredentialError::Username);
        }
        let pair = Secret::new(format!("{username}:{}", password.expose()));
        let value = Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())));
        Self::new(&value, None)
    }

    /// A bearer token (RFC 6750).
    pub(super) fn bearer(token: &str, expires_at: Option<Timestamp>) -> Result<Self, CredentialError> {
        Self::new(&Secret::new(format!("Bearer {token}")), expires_at)
    }

    fn new(value: &Secret, expires_at: Option<Timestamp>) -> Result<Self, CredentialError> {
        let authorization = secret::authorization(value.expose()).map_err(|_| CredentialError::NotAHeader)?;
        Ok(Self { authorization, expires_at })
    }

    /// Puts the credential into `slot`, as a new generation if it differs. Returns the wait until the next renewal.
    pub(super) fn store(self, slot: &CredentialSlot) -> Duration {
        let Self { authorization, expires_at } = self;
        let now = clock::now();
        let before = slot.latest();
        let same = before.as_ref().is_some_and(|b| b.authorization == authorization && b.expires_at == expires_at);
        if !same {
            let generation = before.map_or(1, |b| b.generation + 1);
            tracing::info!(credential = %slot.name(), generation, "credential renewed");
            slot.replace(Credential { authorization, generation, obtained_at: now, expires_at });
        }
        match expires_at {
            // three quarters of its lifetime: the last quarter is for retries
            Some(end) => Duration::from_secs_f64(clock::seconds_between(now, end) * 0.75).max(RETRY_MIN),
            None => REREAD,
        }
    }
}
