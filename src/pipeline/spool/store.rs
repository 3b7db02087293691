//! The spool on disk: one redb file, batches by sequence, and the few numbers that must survive.
//!
//! Promises: every change is one transaction, synced when [`Shared::commit`] returns. After an I/O error the store is
//! closed and opened anew, since redb refuses a file it failed on; until that succeeds every commit fails.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::queue::{Depth, Released, Sequence, Settings};
use crate::series::Batch;

const BATCHES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("batches");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
/// The last sequence given out: sequences are never used twice, even when the spool has run empty.
const LAST: &str = "last";
/// Everything up to here was delivered.
const DELIVERED: &str = "delivered";
/// What the stored batches take on disk.
const BYTES: &str = "bytes";

const FILE: &str = "spool.redb";
/// redb's page cache. Values pass through it once on their way in and once on their way out.
const CACHE: usize = 16 << 20;
/// Batches deleted in one commit at most, so that a long deletion does not keep appends waiting.
const DELETIONS: usize = 256;

/// Why the spool could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or synced.
    #[error("cannot use the spool directory `{}`", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    /// Another process has the spool open.
    #[error("the spool `{}` is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The store's file cannot be opened or repaired.
    #[error("cannot open the spool `{}`", .0.display())]
    Store(PathBuf, #[source] Box<redb::Error>),
    /// No thread for writing.
    #[error("cannot start the spool's thread")]
    Thread(#[source] io::Error),
}

/// What became of one append.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Stored(Sequence),
    Full,
    Failed(String),
}

/// What one commit did.
#[derive(Debug, Default)]
pub(super) struct Committed {
    pub(super) outcomes: Vec<Outcome>,
    pub(super) expired_samples: u64,
    /// Whether more could be deleted right away.
    pub(super) more_to_delete: bool,
}

/// The store, as the writing thread and the readers share it.
#[derive(Debug)]
pub(super) struct Shared {
    settings: Settings,
    /// Nothing while the store has failed and could not be opened again.
    database: RwLock<Option<Database>>,
    batches: AtomicU64,
    bytes: AtomicU64,
    last: AtomicU64,
    delivered: AtomicU64,
}

impl Shared {
    pub(super) fn open(settings: &Settings) -> Result<Self, OpenError> {
        make_directory(&settings.directory).map_err(|e| OpenError::Directory(settings.directory.clone(), e))?;
        let path = settings.directory.join(FILE);
        let database = open_database(&path).map_err(|e| match e {
            redb::Error::DatabaseAlreadyOpen => OpenError::InUse(settings.directory.clone()),
            other => OpenError::Store(path.clone(), Box::new(other)),
        })?;
        File::open(&settings.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(|e| OpenError::Directory(settings.directory.clone(), e))?;
        let shared = Self {
            settings: settings.clone(),
            database: RwLock::new(None),
            batches: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            last: AtomicU64::new(0),
            delivered: AtomicU64::new(0),
        };
        shared.adopt(database).map_err(|e| OpenError::Store(path, Box::new(e)))?;
        Ok(shared)
    }

    /// Opens the store again after it failed. The file's state is what the last good commit left.
    pub(super) fn reopen(&self) -> Result<(), redb::Error> {
        self.discard();
        self.adopt(open_database(&self.settings.directory.join(FILE))?)
    }

    /// Gives the file back.
    pub(super) fn discard(&self) {
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(super) fn last_sequence(&self) -> Sequence {
        self.last.load(Ordering::Acquire)
    }

    pub(super) fn delivered(&self) -> Sequence {
        self.delivered.load(Ordering::Acquire)
    }

    pub(super) fn depth(&self) -> Depth {
        Depth { batches: self.batches.load(Ordering::Acquire), bytes: self.bytes.load(Ordering::Acquire) }
    }

    /// Stores what fits and deletes what may go, in one synced transaction. On an error nothing has changed.
    pub(super) fn commit(&self, batches: &[Batch], released: Released) -> Result<Committed, redb::Error> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let transaction = database.begin_write()?;
        let mut committed = Committed::default();
        let mut last = self.last_sequence();
        let mut bytes = self.bytes.load(Ordering::Acquire);
        let stored = {
            let mut table = transaction.open_table(BATCHES)?;
            let mut deletable = Deletable { released, bytes: &mut bytes, expired_samples: 0 };
            committed.more_to_delete = deletable.sweep(&mut table)?;
            for batch in batches {
                let cost = cost(batch.as_bytes().len());
                if !deletable.make_room(&mut table, cost, self.settings.max_bytes)? {
                    committed.outcomes.push(Outcome::Full);
                    continue;
                }
                last += 1;
                *deletable.bytes += cost;
                table.insert(last, batch.as_bytes())?;
                committed.outcomes.push(Outcome::Stored(last));
            }
            committed.expired_samples = deletable.expired_samples;
            table.len()?
        };
        {
            let mut numbers = transaction.open_table(NUMBERS)?;
            numbers.insert(LAST, last)?;
            numbers.insert(BYTES, bytes)?;
            numbers.insert(DELIVERED, released.delivered)?;
        }
        transaction.commit()?;
        self.publish(stored, bytes, last, released.delivered);
        Ok(committed)
    }

    pub(super) fn read_after(&self, after: Sequence, max_bytes: usize) -> Result<Vec<(Sequence, Bytes)>, redb::Error> {
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        let database = guard.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let table = database.begin_read()?.open_table(BATCHES)?;
        let mut found = Vec::new();
        let mut room = max_bytes;
        for entry in table.range(after.saturating_add(1)..)? {
            let (sequence, value) = entry?;
            let bytes = Bytes::copy_from_slice(value.value());
            let fits = bytes.len() <= room;
            if !fits && !found.is_empty() {
                break;
            }
            room = room.saturating_sub(bytes.len());
            found.push((sequence.value(), bytes));
        }
        Ok(found)
    }

    fn adopt(&self, database: Database) -> Result<(), redb::Error> {
        let transaction = database.begin_write()?;
        let (stored, bytes, last, delivered) = {
            let table = transaction.open_table(BATCHES)?;
            let numbers = transaction.open_table(NUMBERS)?;
            let number = |name| Ok::<_, redb::Error>(numbers.get(name)?.map_or(0, |found| found.value()));
            (table.len()?, number(BYTES)?, number(LAST)?, number(DELIVERED)?)
        };
        transaction.commit()?;
        self.publish(stored, bytes, last, delivered);
        *self.database.write().unwrap_or_else(PoisonError::into_inner) = Some(database);
        Ok(())
    }

    fn publish(&self, batches: u64, bytes: u64, last: Sequence, delivered: Sequence) {
        self.batches.store(batches, Ordering::Release);
        self.bytes.store(bytes, Ordering::Release);
        self.last.store(last, Ordering::Release);
        self.delivered.store(delivered, Ordering::Release);
    }
}

type Table<'a> = redb::Table<'a, u64, &'static [u8]>;

/// The retention rule, applied to the oldest batches of one transaction.
struct Deletable<'a> {
    released: Released,
    bytes: &'a mut u64,
    expired_samples: u64,
}

impl Deletable<'_> {
    /// Deletes from the front what no window reaches any more. True when it stopped before it was done.
    fn sweep(&mut self, table: &mut Table<'_>) -> Result<bool, redb::Error> {
        for _ in 0..DELETIONS {
            let passed = match table.first()? {
                Some((sequence, value)) if sequence.value() <= self.released.delivered => {
                    reach(value.value()) < self.released.keep_from
                }
                Some((_, value)) => reach(value.value()) < self.released.expire_before,
                None => false,
            };
            if !passed {
                return Ok(false);
            }
            self.delete_first(table)?;
        }
        Ok(true)
    }

    /// Deletes delivered batches from the front until `cost` fits; false when it does not.
    fn make_room(&mut self, table: &mut Table<'_>, cost: u64, max_bytes: u64) -> Result<bool, redb::Error> {
        while *self.bytes + cost > max_bytes {
            let delivered = table.first()?.is_some_and(|(sequence, _)| sequence.value() <= self.released.delivered);
            if !delivered {
                return Ok(false);
            }
            self.delete_first(table)?;
        }
        Ok(true)
    }

    fn delete_first(&mut self, table: &mut Table<'_>) -> Result<(), redb::Error> {
        if let Some((sequence, value)) = table.pop_first()? {
            let value = value.value();
            *self.bytes = self.bytes.saturating_sub(cost(value.len()));
            if sequence.value() > self.released.delivered
                && let Ok(batch) = Batch::from_stored(Bytes::copy_from_slice(value))
            {
                self.expired_samples += u64::from(batch.samples());
            }
        }
        Ok(())
    }
}

/// Until when a window may want a batch: its newest sample, but not later than it arrived, so that a sender whose
/// clock is ahead cannot keep it for ever. What cannot be read is wanted by nobody.
fn reach(value: &[u8]) -> i64 {
    let head = Bytes::copy_from_slice(value.get(..value.len().min(64)).unwrap_or_default());
    Batch::from_stored(head).map_or(i64::MIN, |batch| batch.newest().min(batch.received()))
}

/// What a value of this length takes on disk: redb gives a large one pages of the next power of two, and packs small
/// ones together. 64 bytes are for its key and its share of the tree.
fn cost(length: usize) -> u64 {
    let padded = length as u64 + 64;
    if padded < 4096 { padded } else { padded.next_power_of_two() }
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    Ok(Database::builder().set_cache_size(CACHE).create(path)?)
}

/// Makes the directory for this user alone: what callers send is theirs.
fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}
