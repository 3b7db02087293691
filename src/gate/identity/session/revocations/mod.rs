//! What the gate itself remembers of sessions, since their cookies remember the rest: which have ended before their
//! time, which requests stand on one now, which login attempts and logout tokens were used.
//!
//! Promises: an ended session counts for nothing from the moment [`Memory::end`] returns, its open streams included,
//! and so it stays over restarts where there is a file; the file's lines are synced before that. Where the file cannot
//! be read, no session of an earlier process counts. Everything here is bounded, by number or by the longest that any
//! configuration lets a session last. Lives on over reloads, whatever they change: what has ended stays so.

use std::{
    collections::HashMap,
    io::Write as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    LONGEST,
    keys::{Key, SealError},
    refresh::Flights,
};
use crate::{
    clock::{self, Timestamp},
    refusal::Refusal,
};

/// Sessions that are used at once, and things of one use that are remembered at once, of each kind.
const MOST: usize = 100_000;

/// What survives a reload. See the module.
pub struct Memory {
    /// What seals where no key is configured; ends with the process.
    pub(super) own_key: Key,
    pub(super) flights: Flights,
    file: Mutex<Option<PathBuf>>,
    /// Held while a line is written, so that lines stay whole.
    writing: tokio::sync::Mutex<()>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    live: HashMap<Uuid, Live>,
    over: HashMap<Who, Over>,
    /// Apart from each other, so that no flood of the one leaves no room for the other.
    logins: Used,
    logout_tokens: Used,
    /// Sessions from before this do not count.
    since: Option<Timestamp>,
}

/// Digests of what counts once, until when each is remembered.
type Used = HashMap<[u8; 32], Timestamp>;

/// What counts once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Once {
    /// A login attempt, by its state, whose code the provider has taken.
    Login,
    /// A provider's logout token, by its `jti`.
    LogoutToken,
}

/// A session that a request has stood on.
struct Live {
    ended: CancellationToken,
    names: Names,
    until: Timestamp,
}

/// What a session can be ended by.
#[derive(Clone, Debug)]
pub(super) struct Names {
    pub(super) id: Uuid,
    pub(super) issuer: Arc<str>,
    pub(super) subject: Box<str>,
    /// The provider's own name of its session, `sid`.
    pub(super) sid: Option<Box<str>>,
    pub(super) created: Timestamp,
}

/// Whose sessions have ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Who {
    /// One session of the gate's.
    Session(Uuid),
    /// All that came of one session at the provider: (issuer, sid).
    Sid(Box<str>, Box<str>),
    /// All of a person's that had begun: (issuer, subject).
    Subject(Box<str>, Box<str>),
    /// Those of a person's that had begun for which the provider told no `sid`: (issuer, subject).
    Unnamed(Box<str>, Box<str>),
}

#[derive(Clone, Copy, Debug)]
struct Over {
    at: Timestamp,
    /// When the last session that this could mean has ended by itself.
    until: Timestamp,
}

#[derive(Serialize, Deserialize)]
struct Line {
    who: Who,
    at: Timestamp,
    until: Timestamp,
}

impl Over {
    fn means(&self, who: &Who, names: &Names) -> bool {
        match who {
            Who::Session(id) => *id == names.id,
            Who::Sid(issuer, sid) => **issuer == *names.issuer && names.sid.as_ref() == Some(sid),
            Who::Subject(issuer, subject) => {
                **issuer == *names.issuer && *subject == names.subject && names.created <= self.at
            }
            Who::Unnamed(issuer, subject) => {
                names.sid.is_none()
                    && **issuer == *names.issuer
                    && *subject == names.subject
                    && names.created <= self.at
            }
        }
    }
}

impl Line {
    fn text(&self) -> std::io::Result<Vec<u8>> {
        let mut text = serde_json::to_vec(self)?;
        text.push(b'\n');
        Ok(text)
    }
}

/// The session has ended before its time.
#[derive(Debug)]
pub(super) struct Ended;

impl Memory {
    /// What the file of an earlier process says, or nothing where there is no file.
    ///
    /// # Errors
    /// When the operating system gives no randomness.
    pub fn open(file: Option<&Path>, now: Timestamp) -> Result<Self, SealError> {
        let mut inner = Inner::default();
        if let Some(file) = file {
            inner.read(file, now);
        }
        Ok(Self {
            own_key: Key::random()?,
            flights: Flights::default(),
            file: Mutex::new(file.map(Path::to_owned)),
            writing: tokio::sync::Mutex::default(),
            inner: Mutex::new(inner),
        })
    }

    /// Where ended sessions are kept from now on. What the file there says counts too, and what has ended is written
    /// to it.
    pub fn keep_in(&self, file: Option<&Path>, now: Timestamp) {
        if self.file().as_deref() == file {
            return;
        }
        if let Some(file) = file {
            self.inner.lock().unwrap_or_else(PoisonError::into_inner).read(file, now);
        }
        // first, so that who ends from here on is written there, and who ended before is among these lines
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = file.map(Path::to_owned);
        let Some(file) = file else { return };
        let over = self.inner.lock().unwrap_or_else(PoisonError::into_inner).over.clone();
        let lines = over.into_iter().map(|(who, Over { at, until })| Line { who, at, until });
        let written = lines.map(|line| line.text()).collect::<std::io::Result<Vec<_>>>().and_then(|lines| {
            let mut open = std::fs::OpenOptions::new().create(true).append(true).open(file)?;
            open.write_all(&lines.concat())?;
            open.sync_data()
        });
        if let Err(error) = written {
            let file = file.display();
            tracing::error!(%file, %error, "the ended sessions cannot be written: they count again after a restart");
        }
    }

    fn file(&self) -> Option<PathBuf> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What is cancelled when the session of these names ends before its time. 503 where too many are in use.
    pub(super) fn admit(
        &self,
        names: &Names,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Result<CancellationToken, Ended>, Refusal> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.since.is_some_and(|since| names.created < since)
            || inner.over_by(names).any(|(who, over)| over.means(who, names))
        {
            return Ok(Err(Ended));
        }
        if let Some(live) = inner.live.get_mut(&names.id) {
            live.until = live.until.max(until);
            if names.sid.is_some() {
                // a refreshed ID token may be the first to say it
                live.names.sid.clone_from(&names.sid);
            }
            return Ok(Ok(live.ended.clone()));
        }
        if inner.live.len() >= MOST {
            inner.live.retain(|_, live| now < live.until);
            if inner.live.len() >= MOST {
                return Err(full());
            }
        }
        let ended = CancellationToken::new();
        inner.live.insert(names.id, Live { ended: ended.clone(), names: names.clone(), until });
        Ok(Ok(ended))
    }

    /// Ends sessions, at once in this process and for good in the file.
    ///
    /// # Errors
    /// When the file cannot be written; in this process they have ended all the same.
    pub(super) async fn end(&self, who: Who, now: Timestamp) -> std::io::Result<()> {
        // not by today's `max`: a reload may raise it, and with it the end of whatever this means
        let over = Over { at: now, until: clock::after(now, LONGEST) };
        let line = Line { who: who.clone(), at: over.at, until: over.until };
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            inner.over.retain(|_, over| now < over.until);
            inner.live.retain(|_, live| {
                let meant = over.means(&who, &live.names);
                if meant {
                    live.ended.cancel();
                }
                !meant && now < live.until
            });
            inner.over.insert(who, over);
        }
        let Some(file) = self.file() else { return Ok(()) };
        let text = line.text()?;
        let _writing = self.writing.lock().await;
        let mut open = tokio::fs::OpenOptions::new().create(true).append(true).open(file).await?;
        open.write_all(&text).await?;
        open.flush().await?;
        open.sync_data().await
    }

    /// Cancels what stands on sessions of this issuer's name. They have not ended: whoever comes again is looked at
    /// again.
    pub(super) fn withdraw(&self, issuer: &str) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.live.retain(|_, live| {
            let stays = *live.names.issuer != *issuer;
            if !stays {
                live.ended.cancel();
            }
            stays
        });
    }

    /// Whether this was used.
    pub(super) fn was_used(&self, once: Once, what: [u8; 32], now: Timestamp) -> bool {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.used(once).get(&what).is_some_and(|until| now < *until)
    }

    /// Marks something as used until `until`; whether it had not been. 503 where too much is remembered.
    pub(super) fn use_once(
        &self,
        once: Once,
        what: [u8; 32],
        until: Timestamp,
        now: Timestamp,
    ) -> Result<bool, Refusal> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let used = inner.used(once);
        if used.len() >= MOST {
            used.retain(|_, until| now < *until);
            if used.len() >= MOST {
                return Err(full());
            }
        }
        Ok(used.insert(what, until).is_none_or(|until| until <= now))
    }
}

impl Inner {
    /// Takes in what a file says.
    fn read(&mut self, file: &Path, now: Timestamp) {
        match read(file, now) {
            Ok(over) => over.into_iter().for_each(|(who, over)| self.insert(who, over)),
            Err(error) => {
                let file = file.display();
                tracing::error!(%file, %error, "the ended sessions cannot be read: no session from before now counts");
                self.since = Some(now);
            }
        }
    }

    fn insert(&mut self, who: Who, Over { at, until }: Over) {
        let kept = self.over.entry(who).or_insert(Over { at, until });
        *kept = Over { at: kept.at.max(at), until: kept.until.max(until) };
    }

    fn used(&mut self, once: Once) -> &mut Used {
        match once {
            Once::Login => &mut self.logins,
            Once::LogoutToken => &mut self.logout_tokens,
        }
    }

    /// What could have ended the session of these names.
    fn over_by(&self, names: &Names) -> impl Iterator<Item = (&Who, &Over)> {
        let issuer = || Box::<str>::from(&*names.issuer);
        let sid = names.sid.clone().map(|sid| Who::Sid(issuer(), sid));
        let subject = Who::Subject(issuer(), names.subject.clone());
        let unnamed = Who::Unnamed(issuer(), names.subject.clone());
        let who = [Some(Who::Session(names.id)), sid, Some(subject), Some(unnamed)];
        who.into_iter().flatten().filter_map(|who| self.over.get_key_value(&who))
    }
}

fn full() -> Refusal {
    Refusal::unavailable("too_many_sessions", "too many people are signed in or signing in; try again later")
}

/// Reads what still matters, and writes that alone back.
fn read(file: &Path, now: Timestamp) -> std::io::Result<Vec<(Who, Over)>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    // a line without an end was not synced, so nobody was told that it counts
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines: Vec<Line> = whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let lines: Vec<Line> = lines.into_iter().filter(|line| now < line.until).collect();
    let next = file.with_extension("next");
    let mut open = std::fs::File::create(&next)?;
    for line in &lines {
        serde_json::to_writer(&mut open, line)?;
        open.write_all(b"\n")?;
    }
    open.sync_data()?;
    std::fs::rename(next, file)?;
    Ok(lines.into_iter().map(|Line { who, at, until }| (who, Over { at, until })).collect())
}

#[cfg(test)]
mod tests;
