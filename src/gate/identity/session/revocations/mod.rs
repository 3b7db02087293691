//! Session revocations, the sessions in use, and values that may be used once (login states, logout tokens).
//!
//! Promises: a revoked session is refused from the moment [`Revocations::revoke`] returns, its open streams included.
//! If there is a file, the revocation is synced to it before that and survives a restart. If the file cannot be read,
//! no session of an earlier process is accepted. Everything here is bounded: by number, or by the longest lifetime that
//! any configuration allows a session. A reload never removes a revocation, whatever it changes.

mod file;

use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::file::RevocationEntry;
use super::subject::{RevocationTarget, SessionIdentifiers};
use crate::{
    clock::{self, Timestamp},
    gate::identity::session::lifetime::MAX_LIFETIME,
    refusal::Refusal,
};

/// Sessions in use at once, and single-use values remembered at once, of each kind.
const CAPACITY: usize = 100_000;

/// Revocations, sessions in use and single-use values. See the module.
pub(super) struct Revocations {
    file: Mutex<Option<PathBuf>>,
    /// Held while an entry is written, so that lines stay whole.
    writing: tokio::sync::Mutex<()>,
    tables: Mutex<Tables>,
}

#[derive(Default)]
struct Tables {
    in_use: HashMap<Uuid, SessionInUse>,
    revoked: HashMap<RevocationTarget, Revocation>,
    /// Two tables, so that a flood of logins leaves room for logout tokens.
    login_states: UsedDigests,
    logout_tokens: UsedDigests,
    /// Sessions created before this are refused.
    valid_from: Option<Timestamp>,
}

/// Digests of used values, and until when each is remembered.
type UsedDigests = HashMap<[u8; 32], Timestamp>;

/// A kind of value that may be used once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SingleUse {
    /// The `state` of a login attempt whose code the provider has accepted.
    LoginState,
    /// A provider's logout token, by its `jti`.
    LogoutToken,
}

/// A session that a request or stream depends on.
struct SessionInUse {
    ended: CancellationToken,
    session: SessionIdentifiers,
    until: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Revocation {
    at: Timestamp,
    /// When the last session that it could include has expired.
    until: Timestamp,
}

/// The session was revoked.
#[derive(Debug)]
pub(super) struct SessionRevoked;

impl Revocations {
    /// The revocations in the file of an earlier process; none if there is no file.
    pub(super) fn open(file: Option<&Path>, now: Timestamp) -> Self {
        let mut tables = Tables::default();
        if let Some(file) = file {
            tables.load(file, now);
        }
        let file = Mutex::new(file.map(Path::to_owned));
        Self { file, writing: tokio::sync::Mutex::default(), tables: Mutex::new(tables) }
    }

    /// Changes the file. The entries of the new file are added, and the revocations of this process are written to it.
    pub(super) fn set_file(&self, file: Option<&Path>, now: Timestamp) {
        if self.file().as_deref() == file {
            return;
        }
        if let Some(file) = file {
            self.tables.lock().unwrap_or_else(PoisonError::into_inner).load(file, now);
        }
        // first, so that a revocation from here on is written there, and an earlier one is among these entries
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file.map(Path::to_owned);
        let Some(file) = file else { return };
        let revoked = self.tables.lock().unwrap_or_else(PoisonError::into_inner).revoked.clone();
        let entries =
            revoked.into_iter().map(|(target, Revocation { at, until })| RevocationEntry { target, at, until });
        let written = entries.map(|entry| entry.line()).collect::<std::io::Result<Vec<_>>>().and_then(|lines| {
            let mut open = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
            open.write_all(&lines.concat())?;
            open.sync_data()
        });
        if let Err(error) = written {
            let file = file.display();
            tracing::error!(%file, %error, "cannot write session revocations: the sessions are valid again after a restart");
        }
    }

    fn file(&self) -> Option<PathBuf> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Marks a session as in use; gives the token that is cancelled if the session is revoked. 503 if too many sessions
    /// are in use.
    pub(super) fn admit(
        &self,
        session: &SessionIdentifiers,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Result<CancellationToken, SessionRevoked>, Refusal> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.valid_from.is_some_and(|valid_from| session.created < valid_from) || tables.is_revoked(session) {
            return Ok(Err(SessionRevoked));
        }
        if let Some(in_use) = tables.in_use.get_mut(&session.id) {
            in_use.until = in_use.until.max(until);
            if session.sid.is_some() {
                // a refreshed ID token may be the first that has one
                in_use.session.sid.clone_from(&session.sid);
            }
            return Ok(Ok(in_use.ended.clone()));
        }
        if tables.in_use.len() >= CAPACITY {
            tables.in_use.retain(|_, in_use| now < in_use.until);
            if tables.in_use.len() >= CAPACITY {
                return Err(full());
            }
        }
        let ended = CancellationToken::new();
        tables.in_use.insert(session.id, SessionInUse { ended: ended.clone(), session: session.clone(), until });
        Ok(Ok(ended))
    }

    /// Revokes sessions: at once in this process, and in the file.
    ///
    /// # Errors
    /// If the file cannot be written; in this process the sessions have ended all the same.
    pub(super) async fn revoke(&self, target: RevocationTarget, now: Timestamp) -> std::io::Result<()> {
        // not by today's `max_lifetime`: a reload may raise it, and with it the end of the sessions that this target includes
        let revocation = Revocation { at: now, until: clock::after(now, MAX_LIFETIME) };
        let entry = RevocationEntry { target: target.clone(), at: revocation.at, until: revocation.until };
        {
            let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
            tables.revoked.retain(|_, revocation| now < revocation.until);
            tables.in_use.retain(|_, in_use| {
                let included = target.includes(&in_use.session, now);
                if included {
                    in_use.ended.cancel();
                }
                !included && now < in_use.until
            });
            tables.revoked.insert(target, revocation);
        }
        let Some(file) = self.file() else { return Ok(()) };
        let line = entry.line()?;
        let _writing = self.writing.lock().await;
        let mut open = tokio::fs::OpenOptions::new().create(true).append(true).open(file).await?;
        open.write_all(&line).await?;
        open.flush().await?;
        open.sync_data().await
    }

    /// Cancels what depends on sessions of this issuer. They are not revoked: the next request checks them again.
    pub(super) fn cancel_issuer(&self, issuer: &str) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.in_use.retain(|_, in_use| {
            let stays = *in_use.session.issuer != *issuer;
            if !stays {
                in_use.ended.cancel();
            }
            stays
        });
    }

    /// Whether this value was used.
    pub(super) fn was_used(&self, kind: SingleUse, digest: [u8; 32], now: Timestamp) -> bool {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.used(kind).get(&digest).is_some_and(|until| now < *until)
    }

    /// Marks a value as used until `until`; whether it was unused before. 503 if too many are remembered.
    pub(super) fn use_once(
        &self,
        kind: SingleUse,
        digest: [u8; 32],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let used = tables.used(kind);
        if used.len() >= CAPACITY {
            used.retain(|_, until| now < *until);
            if used.len() >= CAPACITY {
                return Err(full());
            }
        }
        Ok(used.insert(digest, until).is_none_or(|until| until <= now))
    }
}

impl Tables {
    /// Adds the entries of a file.
    fn load(&mut self, file: &Path, now: Timestamp) {
        match file::compact(file, now) {
            Ok(entries) => entries.into_iter().for_each(|entry| self.insert(entry)),
            Err(error) => {
                let file = file.display();
                tracing::error!(%file, %error, "cannot read session revocations: sessions created before now are refused");
                self.valid_from = Some(now);
            }
        }
    }

    fn insert(&mut self, RevocationEntry { target, at, until }: RevocationEntry) {
        let revocation = self.revoked.entry(target).or_insert(Revocation { at, until });
        *revocation = Revocation { at: revocation.at.max(at), until: revocation.until.max(until) };
    }

    fn used(&mut self, kind: SingleUse) -> &mut UsedDigests {
        match kind {
            SingleUse::LoginState => &mut self.login_states,
            SingleUse::LogoutToken => &mut self.logout_tokens,
        }
    }

    fn is_revoked(&self, session: &SessionIdentifiers) -> bool {
        RevocationTarget::including(session)
            .any(|target| self.revoked.get(&target).is_some_and(|revocation| target.includes(session, revocation.at)))
    }
}

fn full() -> Refusal {
    Refusal::unavailable("too_many_sessions", "too many people are signed in or signing in; try again later")
}

#[cfg(test)]
mod tests;
