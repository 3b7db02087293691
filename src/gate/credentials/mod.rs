//! The credentials used downstream: obtained, renewed before they end, and handed out by slot.
//!
//! Promises: no caller ever sees one; a renewal replaces a credential without a request failing; when renewals fail the
//! last good one serves until its own expiry, then the slot is empty and requests are refused. They are kept in memory
//! only and no log or metric holds a value.

mod callers;
mod google;

use std::{sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};

pub(crate) use self::{
    callers::{CallerKeeper, CallerMetrics, CallerOrigin, Minter},
    google::{Google, Settings as GoogleSettings, Subject as GoogleSubject},
};
use crate::{
    clock::{self, Timestamp},
    secret::{self, Credential, CredentialSlot, Secret, Source},
    telemetry::{Telemetry, chain},
};

/// How often files, variables and commands are looked at again.
const REREAD: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(30);

/// What kind of credential a keeper keeps, and where it comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Origin {
    /// HTTP Basic (RFC 7617): a user name and where the password is.
    Basic {
        /// The user name.
        username: String,
        /// Where the password is.
        password: Source,
    },
    /// A bearer token (RFC 6750) and where it is.
    Bearer(Source),
    /// An access token for this Google service account.
    Google {
        /// Whom to ask, and as whom.
        google: Arc<Google>,
        /// The service account's e-mail address.
        account: String,
    },
    /// The same as a principal of the gate's own, for what the gate does on nobody's behalf.
    GoogleAs {
        /// The principal.
        principal: &'static str,
        /// Whom to ask, and who signs for the principal.
        origin: CallerOrigin,
    },
}

/// Why a credential could not be obtained. Holds no value.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub(crate) enum CredentialError {
    #[error(transparent)]
    Source(#[from] secret::SourceError),
    #[error("the secret holds bytes that no header may hold")]
    NotAHeader,
    #[error("a user name may not hold `:`")]
    Username,
    #[error("the security token service refused or could not be asked: {0}")]
    Sts(String),
    #[error("the gate has no key to sign a subject token with")]
    NoKey,
    #[error("the principal's name has {0} bytes, and Google takes subjects of at most 127")]
    Subject(usize),
    #[error("the IAM Credentials service refused or could not be asked: {0}")]
    Iam(String),
}

/// A fresh value and when it ends.
struct Fresh {
    authorization: http::HeaderValue,
    expires_at: Option<Timestamp>,
}

/// Keeps one credential fresh: one loop for all kinds.
pub(crate) struct Keeper {
    /// Where requests find it.
    pub slot: CredentialSlot,
    origin: Origin,
}

impl Keeper {
    /// A keeper whose slot is empty until [`Keeper::keep`] has filled it.
    #[must_use]
    pub(crate) fn new(name: &str, origin: Origin) -> Self {
        Self { slot: CredentialSlot::new(name), origin }
    }

    /// What readiness calls it.
    #[must_use]
    pub(crate) fn part(&self) -> String {
        format!("credential {}", self.slot.name())
    }

    /// Obtains and renews the credential for as long as it is polled.
    pub(crate) async fn keep(&self, telemetry: &Telemetry) {
        let part = self.part();
        let mut retry = RETRY_FIRST;
        loop {
            let wait = match self.obtain().await {
                Ok(fresh) => {
                    telemetry.well(&part);
                    retry = RETRY_FIRST;
                    place(&self.slot, fresh)
                }
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(credential = %self.slot.name(), error, "it cannot be renewed");
                    telemetry.trouble(&part, false, format!("it cannot be renewed: {error}"));
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_MOST);
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn obtain(&self) -> Result<Fresh, CredentialError> {
        match &self.origin {
            Origin::Basic { username, password } => basic(username, &password.read().await?),
            Origin::Bearer(source) => bearer(source.read().await?.expose(), None),
            Origin::Google { google, account } => google.access_token(account).await,
            Origin::GoogleAs { principal, origin } => origin.obtain(principal).await,
        }
    }
}

/// Puts a fresh value into the slot and says when to look again.
fn place(slot: &CredentialSlot, fresh: Fresh) -> Duration {
    let now = clock::now();
    let before = slot.latest();
    let same =
        before.as_ref().is_some_and(|b| b.authorization == fresh.authorization && b.expires_at == fresh.expires_at);
    if !same {
        let generation = before.map_or(1, |b| b.generation + 1);
        tracing::info!(credential = %slot.name(), generation, "renewed");
        let Fresh { authorization, expires_at } = fresh;
        slot.replace(Credential { authorization, generation, obtained_at: now, expires_at });
    }
    match slot.latest().and_then(|held| held.expires_at) {
        // three quarters of its life: the last quarter is for retries
        Some(end) => Duration::from_secs_f64(clock::seconds_between(now, end) * 0.75).max(RETRY_FIRST),
        None => REREAD,
    }
}

fn basic(username: &str, password: &Secret) -> Result<Fresh, CredentialError> {
    if username.contains(':') {
        return Err(CredentialError::Username);
    }
    let pair = Secret::new(format!("{username}:{}", password.expose()));
    let value = Secret::new(format!("Basic {}", STANDARD.encode(pair.expose())));
    let authorization = secret::authorization(value.expose()).map_err(|_| CredentialError::NotAHeader)?;
    Ok(Fresh { authorization, expires_at: None })
}

fn bearer(token: &str, expires_at: Option<Timestamp>) -> Result<Fresh, CredentialError> {
    let value = Secret::new(format!("Bearer {token}"));
    let authorization = secret::authorization(value.expose()).map_err(|_| CredentialError::NotAHeader)?;
    Ok(Fresh { authorization, expires_at })
}
