//! The login cache: one directory (0700) with a file of tokens `NAME.json` (0600) and a lock file `NAME.lock` (empty) for
//! each login. `NAME.new` is the next content until it is renamed.
//!
//! Promises: a file is replaced atomically, and is on disk before the write returns; a file that is open to other users
//! or owned by another user is not read; no symbolic link is followed. A new refresh token always has disk space: its
//! file is made at full size before the token is requested. This is the only module that writes a secret.

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

use super::stored::StoredLogin;
use crate::clock;

/// Largest file that is read. Tokens are bounded by the request heads that they must fit into.
const LIMIT: u64 = 256 << 10;
/// Bytes reserved on disk before a refresh token is used.
const RESERVED: usize = 64 << 10;
/// How long another process may take to refresh a login.
const LOCK_DEADLINE: Duration = Duration::from_secs(45);
const LOCK_POLL: Duration = Duration::from_millis(20);
/// Version of the file format.
const FORMAT: u32 = 1;

/// An error of the login cache.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub(in crate::cli) enum CacheError {
    #[error("`{0}` is not a valid name of a login; write up to 64 letters, digits, `-`, `_` and `.`, but no `.` first")]
    Name(String),
    #[error("`{path}` cannot be {what}", path = .0.display(), what = .1)]
    Io(PathBuf, &'static str, #[source] io::Error),
    #[error("`{}` is a symbolic link, or not a regular file or directory; remove it", .0.display())]
    FileKind(PathBuf),
    #[error("`{}` belongs to another user; remove it, or write another directory with `--cache`", .0.display())]
    Owner(PathBuf),
    #[error(
        "`{path}` is open to other users, who may know its tokens: run `wicketgate logout`, or make it private with \
         `chmod go= {path}`", path = .0.display()
    )]
    Open(PathBuf),
    #[error("`{}` is not a valid file of a login; run `wicketgate logout` and log in again", .0.display())]
    Content(PathBuf),
    #[error("another process has held the lock of `{0}` for too long")]
    Busy(String),
}

/// The directory, opened once, so that the directory that was checked is the one that is used.
#[derive(Debug)]
pub(in crate::cli) struct LoginCache {
    path: PathBuf,
    directory: OwnedFd,
}

/// The exclusive lock of one login, until it is dropped.
#[derive(Debug)]
pub(in crate::cli::login) struct LoginLock<'a> {
    cache: &'a LoginCache,
    name: String,
    // the lock ends with the file
    _lock: File,
}

/// The file `NAME.new`, at full size. Removed unless it is filled.
#[derive(Debug)]
pub(in crate::cli::login) struct ReservedFile<'a> {
    locked: &'a LoginLock<'a>,
    file: File,
    filled: bool,
}

#[derive(Serialize, Deserialize)]
struct CacheFile<L> {
    format: u32,
    login: L,
}

impl LoginCache {
    /// The cache at `path`, made if it does not exist.
    ///
    /// # Errors
    /// If it cannot be made, belongs to another user, or is open to others.
    pub(in crate::cli) fn make(path: &Path) -> Result<Self, CacheError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
        made.map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => CacheError::FileKind(path.to_owned()),
            _ => CacheError::Io(path.to_owned(), "made", e),
        })?;
        Self::existing(path)?.ok_or_else(|| CacheError::Io(path.to_owned(), "opened", Errno::NOENT.into()))
    }

    /// The cache at `path`; `None` if it does not exist.
    ///
    /// # Errors
    /// If it cannot be opened, belongs to another user, or is open to others.
    pub(in crate::cli) fn existing(path: &Path) -> Result<Option<Self>, CacheError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = match fs::open(path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(CacheError::FileKind(path.to_owned())),
            Err(e) => return Err(CacheError::Io(path.to_owned(), "opened", e.into())),
        };
        check_private(&directory, path, FileType::Directory)?;
        Ok(Some(Self { path: path.to_owned(), directory }))
    }

    /// The names of the stored logins, sorted.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(in crate::cli) fn names(&self) -> Result<Vec<String>, CacheError> {
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

    /// The login `name`; `None` if there is none.
    ///
    /// # Errors
    /// If its file is a link, belongs to another user, is open to others, or is invalid.
    pub(in crate::cli::login) fn read(&self, name: &str) -> Result<Option<StoredLogin>, CacheError> {
        let file = file_name(name, "json")?;
        let path = self.path.join(&file);
        // opening a FIFO would block
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match fs::openat(&self.directory, &file, flags, Mode::empty()) {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP) => return Err(CacheError::FileKind(path)),
            Err(e) => return Err(CacheError::Io(path, "opened", e.into())),
        };
        check_private(&file, &path, FileType::RegularFile)?;
        let mut text = Zeroizing::new(Vec::new());
        let read = File::from(file).take(LIMIT).read_to_end(&mut text);
        read.map_err(|e| CacheError::Io(path.clone(), "read", e))?;
        // the parser's own text could repeat a token
        let content: CacheFile<StoredLogin> =
            serde_json::from_slice(&text).map_err(|_| CacheError::Content(path.clone()))?;
        if content.format == FORMAT { Ok(Some(content.login)) } else { Err(CacheError::Content(path)) }
    }

    /// Waits for the exclusive lock of the login `name`.
    ///
    /// # Errors
    /// If another process holds it for too long, or it cannot be made.
    pub(in crate::cli::login) async fn lock(&self, name: &str) -> Result<LoginLock<'_>, CacheError> {
        let file = file_name(name, "lock")?;
        let path = self.path.join(&file);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let lock = fs::openat(&self.directory, &file, flags, Mode::RUSR | Mode::WUSR).map_err(|e| match e {
            Errno::LOOP => CacheError::FileKind(path.clone()),
            e => CacheError::Io(path.clone(), "opened", e.into()),
        })?;
        check_private(&lock, &path, FileType::RegularFile)?;
        let lock = File::from(lock);
        let end = clock::monotonic() + LOCK_DEADLINE;
        loop {
            match lock.try_lock() {
                Ok(()) => return Ok(LoginLock { cache: self, name: name.to_owned(), _lock: lock }),
                Err(std::fs::TryLockError::Error(e)) => return Err(CacheError::Io(path, "locked", e)),
                Err(std::fs::TryLockError::WouldBlock) if clock::monotonic() > end => {
                    return Err(CacheError::Busy(name.to_owned()));
                }
                Err(std::fs::TryLockError::WouldBlock) => tokio::time::sleep(LOCK_POLL).await,
            }
        }
    }
}

impl LoginLock<'_> {
    /// The login's name.
    #[must_use]
    pub(in crate::cli::login) fn name(&self) -> &str {
        &self.name
    }

    /// Reserves disk space for the next content, so that a full disk fails before a token is requested.
    ///
    /// # Errors
    /// If the disk is full.
    pub(in crate::cli::login) fn reserve(&self) -> Result<ReservedFile<'_>, CacheError> {
        let file = file_name(&self.name, "new")?;
        let path = self.cache.path.join(&file);
        // left behind by a process that was killed; only the holder of the lock makes one
        match fs::unlinkat(&self.cache.directory, &file, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(e) => return Err(CacheError::Io(path, "replaced", e.into())),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = fs::openat(&self.cache.directory, &file, flags, Mode::RUSR | Mode::WUSR);
        let made = made.map_err(|e| CacheError::Io(path.clone(), "made", e.into()))?;
        let mut reserved = ReservedFile { locked: self, file: File::from(made), filled: false };
        let written = reserved.file.write_all(&[b' '; RESERVED]).and_then(|()| reserved.file.sync_all());
        written.map_err(|e| CacheError::Io(path, "written", e))?;
        Ok(reserved)
    }

    /// Removes the login.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub(in crate::cli::login) fn remove(&self) -> Result<(), CacheError> {
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

impl ReservedFile<'_> {
    /// Replaces the stored login; the new one is on disk when this returns.
    ///
    /// # Errors
    /// If it cannot be written; the old one is then still there.
    pub(in crate::cli::login) fn fill(mut self, login: &StoredLogin) -> Result<(), CacheError> {
        let LoginLock { cache, name, .. } = self.locked;
        let new = file_name(name, "new")?;
        let file = file_name(name, "json")?;
        let path = cache.path.join(&file);
        let unwritten = |e: io::Error| CacheError::Io(path.clone(), "written", e);
        let mut text = Zeroizing::new(Vec::with_capacity(RESERVED));
        serde_json::to_writer(&mut *text, &CacheFile { format: FORMAT, login }).map_err(|e| unwritten(e.into()))?;
        self.file.rewind().map_err(unwritten)?;
        self.file.write_all(&text).map_err(unwritten)?;
        self.file.set_len(text.len() as u64).map_err(unwritten)?;
        self.file.sync_all().map_err(unwritten)?;
        fs::renameat(&cache.directory, &new, &cache.directory, &file).map_err(|e| unwritten(e.into()))?;
        self.filled = true;
        fs::fsync(&cache.directory).map_err(|e| unwritten(e.into()))
    }
}

impl Drop for ReservedFile<'_> {
    fn drop(&mut self) {
        if !self.filled
            && let Ok(file) = file_name(&self.locked.name, "new")
        {
            // a file that stays is replaced by the next one
            let _ = fs::unlinkat(&self.locked.cache.directory, &file, AtFlags::empty());
        }
    }
}

/// Checks that a file is of this kind, belongs to this user, and is closed to others.
fn check_private(file: &OwnedFd, path: &Path, kind: FileType) -> Result<(), CacheError> {
    let found = fs::fstat(file).map_err(|e| CacheError::Io(path.to_owned(), "examined", e.into()))?;
    if FileType::from_raw_mode(found.st_mode) != kind {
        return Err(CacheError::FileKind(path.to_owned()));
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

/// Whether `name` is a valid name of a login.
///
/// # Errors
/// If it could lead out of the directory, or is too long.
pub(in crate::cli) fn check_name(name: &str) -> Result<(), CacheError> {
    if is_name(name) { Ok(()) } else { Err(CacheError::Name(name.to_owned())) }
}

fn file_name(name: &str, kind: &str) -> Result<String, CacheError> {
    check_name(name).map(|()| format!("{name}.{kind}"))
}

#[cfg(test)]
mod tests;
