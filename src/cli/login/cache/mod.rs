//! Where logins are kept: one directory (0700), and in it for each login `NAME.json` (0600), which holds its tokens,
//! and `NAME.lock` (empty), which whoever changes it holds; `NAME.new` is the next content until it takes the old one's
//! name.
//!
//! Promises: a file is replaced whole, and on disk before anybody is told; nothing is read that others can read or that
//! somebody else owns; no symbolic link is followed. A new refresh token always finds room: what it is written to was
//! made, at its full size, before it was asked for. This is the only module that writes a secret.

use std::{
    fs::{DirBuilder, File},
    io::{self, Read, Seek, Write},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{self, AtFlags, FileType, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::login::Login;
use crate::clock;

/// Largest file that is read: tokens are bounded by the heads they have to fit in.
const LIMIT: u64 = 256 << 10;
/// What is made sure of before a refresh token is spent: a file of this many bytes.
const ROOM: usize = 64 << 10;
/// How long another process may take to renew a login.
const LOCK_PATIENCE: Duration = Duration::from_secs(45);
const LOCK_LOOK: Duration = Duration::from_millis(20);
/// What the file's members mean.
const FORMAT: u32 = 1;

/// Why a login cannot be kept or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub(crate) enum CacheError {
    #[error("`{0}` is no name for a login; write up to 64 letters, digits, `-`, `_` and `.`, the first no `.`")]
    Name(String),
    #[error("`{path}` cannot be {what}", path = .0.display(), what = .1)]
    Io(PathBuf, &'static str, #[source] io::Error),
    #[error("`{}` is a symbolic link or of a kind that tokens are not kept in; remove it", .0.display())]
    Kind(PathBuf),
    #[error("`{}` belongs to another user; remove it, or name another place with `--cache`", .0.display())]
    Owner(PathBuf),
    #[error(
        "`{path}` is open to other users; what it holds may be known to them: run `wicketgate logout`, or make it \
         private with `chmod go= {path}`", path = .0.display()
    )]
    Open(PathBuf),
    #[error("`{}` cannot be understood; run `wicketgate logout` and log in again", .0.display())]
    Content(PathBuf),
    #[error("another process has been renewing `{0}` for too long")]
    Busy(String),
}

/// The directory, opened once: what is checked is what is used.
#[derive(Debug)]
pub(crate) struct Cache {
    path: PathBuf,
    directory: OwnedFd,
}

/// The right to change one login, for as long as this lives. Other processes wait.
#[derive(Debug)]
pub(crate) struct Locked<'a> {
    cache: &'a Cache,
    name: String,
    // the lock ends with the file
    _lock: File,
}

/// Room on disk for the next content of a login. Removed again unless it is filled.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    locked: &'a Locked<'a>,
    file: File,
    filled: bool,
}

#[derive(Serialize, Deserialize)]
struct Content<L> {
    format: u32,
    login: L,
}

impl Cache {
    /// The cache at `path`, made where it is not there yet.
    ///
    /// # Errors
    /// When it cannot be made, is somebody else's, or is open to others.
    pub(crate) fn make(path: &Path) -> Result<Self, CacheError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => CacheError::Kind(path.to_owned()),
            _ => CacheError::Io(path.to_owned(), "made", e),
        })?;
        Self::existing(path)?.ok_or_else(|| CacheError::Io(path.to_owned(), "opened", Errno::NOENT.into()))
    }

    /// The cache at `path`, where there is one.
    ///
    /// # Errors
    /// When it cannot be opened, is somebody else's, or is open to others.
    pub(crate) fn existing(path: &Path) -> Result<Option<Self>, CacheError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match fs::open(path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(CacheError::Kind(path.to_owned())),
            Err(e) => return Err(CacheError::Io(path.to_owned(), "opened", e.into())),
        };
        private(&directory, path, FileType::Directory)?;
        Ok(Some(Self { path: path.to_owned(), directory }))
    }

    /// The names of the logins that are kept, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn names(&self) -> Result<Vec<String>, CacheError> {
        let unreadable = |e: Errno| CacheError::Io(self.path.clone(), "read", e.into());
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.directory).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_str().ok().and_then(|file| file.strip_suffix(".json"));
            names.extend(name.filter(|name| is_name(name)).map(str::to_owned));
        }
        names.sort();
        Ok(names)
    }

    /// The login kept as `name`.
    ///
    /// # Errors
    /// When its file is a link, somebody else's, open to others, or not understood.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Login>, CacheError> {
        let file = file_name(name, "json")?;
        let path = self.path.join(&file);
        // a FIFO would keep whoever opens it
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match fs::openat(&self.directory, &file, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(CacheError::Kind(path)),
            Err(e) => return Err(CacheError::Io(path, "opened", e.into())),
        };
        private(&file, &path, FileType::RegularFile)?;
        let mut text = Zeroizing::new(Vec::new());
        let read = File::from(file).take(LIMIT).read_to_end(&mut text);
        read.map_err(|e| CacheError::Io(path.clone(), "read", e))?;
        // the parser's own words could repeat a token
        let content: Content<Login> = serde_json::from_slice(&text).map_err(|_| CacheError::Content(path.clone()))?;
        if content.format == FORMAT { Ok(Some(content.login)) } else { Err(CacheError::Content(path)) }
    }

    /// Waits until nobody else changes the login `name`.
    ///
    /// # Errors
    /// When another process takes too long, or the lock cannot be made.
    pub(crate) async fn lock(&self, name: &str) -> Result<Locked<'_>, CacheError> {
        let file = file_name(name, "lock")?;
        let path = self.path.join(&file);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let lock = fs::openat(&self.directory, &file, flags, Mode::RUSR | Mode::WUSR).map_err(|e| match e {
            Errno::LOOP => CacheError::Kind(path.clone()),
            e => CacheError::Io(path.clone(), "opened", e.into()),
        })?;
        private(&lock, &path, FileType::RegularFile)?;
        let lock = File::from(lock);
        let end = clock::monotonic() + LOCK_PATIENCE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(Locked { cache: self, name: name.to_owned(), _lock: lock }),
                Err(std::fs::TryLockError::Error(e)) => return Err(CacheError::Io(path, "locked", e)),
                Err(std::fs::TryLockError::WouldBlock) if clock::monotonic() > end => {
                    return Err(CacheError::Busy(name.to_owned()));
                }
                Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_LOOK).await,
            }
        }
    }
}

impl Locked<'_> {
    /// The login's name.
    #[must_use]
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Makes room for the next content, so that a full disk shows before anything is asked for.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn reserve(&self) -> Result<Place<'_>, CacheError> {
        let file = file_name(&self.name, "new")?;
        let path = self.cache.path.join(&file);
        // what a process left behind that was killed; only the holder of the lock makes one
        match fs::unlinkat(&self.cache.directory, &file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(CacheError::Io(path, "replaced", e.into())),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = fs::openat(&self.cache.directory, &file, flags, Mode::RUSR | Mode::WUSR);
        let made = made.map_err(|e| CacheError::Io(path.clone(), "made", e.into()))?;
        let mut place = Place { locked: self, file: File::from(made), filled: false };
        let written = place.file.write_all(&[b' '; ROOM]).and_then(|()| place.file.sync_all());
        written.map_err(|e| CacheError::Io(path, "written", e))?;
        Ok(place)
    }

    /// Removes the login.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub(crate) fn remove(&self) -> Result<(), CacheError> {
        let cache = self.cache;
        for kind in ["new", "json"] {
            let file = file_name(&self.name, kind)?;
            match fs::unlinkat(&cache.directory, &file, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(e) => return Err(CacheError::Io(cache.path.join(&file), "removed", e.into())),
            }
        }
        fs::fsync(&cache.directory).map_err(|e| CacheError::Io(cache.path.clone(), "written", e.into()))
    }
}

impl Place<'_> {
    /// Puts `login` in place of what was kept; it is on disk when this returns.
    ///
    /// # Errors
    /// When it cannot be written; what was kept before is then still there.
    pub(crate) fn fill(mut self, login: &Login) -> Result<(), CacheError> {
        let Locked { cache, name, .. } = self.locked;
        let (new, file) = (file_name(name, "new")?, file_name(name, "json")?);
        let path = cache.path.join(&file);
        let unwritten = |e: io::Error| CacheError::Io(path.clone(), "written", e);
        let mut text = Zeroizing::new(Vec::with_capacity(ROOM));
        serde_json::to_writer(&mut *text, &Content { format: FORMAT, login }).map_err(|e| unwritten(e.into()))?;
        self.file.rewind().map_err(unwritten)?;
        self.file.write_all(&text).map_err(unwritten)?;
        self.file.set_len(text.len() as u64).map_err(unwritten)?;
        self.file.sync_all().map_err(unwritten)?;
        fs::renameat(&cache.directory, &new, &cache.directory, &file).map_err(|e| unwritten(e.into()))?;
        self.filled = true;
        fs::fsync(&cache.directory).map_err(|e| unwritten(e.into()))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.filled
            && let Ok(file) = file_name(&self.locked.name, "new")
        {
            // what stays is overwritten by the next one
            let _ = fs::unlinkat(&self.locked.cache.directory, &file, AtFlags::empty());
        }
    }
}

/// Whether it may be trusted with tokens: of this kind, this user's own, and closed to everybody else.
fn private(file: &OwnedFd, path: &Path, kind: FileType) -> Result<(), CacheError> {
    let found = fs::fstat(file).map_err(|e| CacheError::Io(path.to_owned(), "looked at", e.into()))?;
    if FileType::from_raw_mode(found.st_mode) != kind {
        return Err(CacheError::Kind(path.to_owned()));
    }
    if found.st_uid != rustix::process::geteuid().as_raw() {
        return Err(CacheError::Owner(path.to_owned()));
    }
    if found.st_mode & 0o077 != 0 {
        return Err(CacheError::Open(path.to_owned()));
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Whether a login may be kept as `name`.
///
/// # Errors
/// When it could lead out of the directory, or is too long.
pub(crate) fn check_name(name: &str) -> Result<(), CacheError> {
    if is_name(name) { Ok(()) } else { Err(CacheError::Name(name.to_owned())) }
}

fn file_name(name: &str, kind: &str) -> Result<String, CacheError> {
    check_name(name).map(|()| format!("{name}.{kind}"))
}

#[cfg(test)]
mod tests;
