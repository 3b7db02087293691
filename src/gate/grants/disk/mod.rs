//! Grants on disk: one redb file, a JSON document by id.
//!
//! Promises: a change is synced when [`File::put`] returns, and a kill at any moment leaves all of it or nothing. After
//! an I/O error the file is opened anew at the next change, since redb refuses a file it failed on.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use uuid::Uuid;

use super::{
    Grant,
    index::{Entries, Entry},
};

const GRANTS: TableDefinition<'_, u128, &[u8]> = TableDefinition::new("grants");
const FILE: &str = "grants.redb";
/// redb's page cache; all grants are in memory besides.
const CACHE: usize = 1 << 20;

/// Why grants cannot be kept in a directory.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be made or synced.
    #[error("cannot use the directory of grants `{}`", .0.display())]
    Directory(PathBuf, #[source] io::Error),
    /// Another process has it open.
    #[error("the grants in `{}` are in use by another process", .0.display())]
    InUse(PathBuf),
    /// The file cannot be opened, repaired or read.
    #[error("cannot open the grants `{}`", .0.display())]
    Store(PathBuf, #[source] Box<redb::Error>),
    /// A grant in it cannot be understood: it may have been one that was revoked.
    #[error("the grants `{}` hold one that cannot be read", .0.display())]
    Broken(PathBuf, #[source] serde_json::Error),
}

/// The file.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    /// Nothing while it has failed and could not be opened again.
    database: Mutex<Option<Database>>,
    revision: AtomicU64,
}

impl File {
    /// Opens or makes it, and reads all there is. Blocks.
    pub(super) fn open(directory: &Path) -> Result<(Self, Entries), OpenError> {
        let unusable = |e| OpenError::Directory(directory.to_owned(), e);
        make_directory(directory).map_err(unusable)?;
        let path = directory.join(FILE);
        let unopened = |e: redb::Error| match e {
            redb::Error::DatabaseAlreadyOpen => OpenError::InUse(directory.to_owned()),
            other => OpenError::Store(path.clone(), Box::new(other)),
        };
        let database = open(&path).map_err(unopened)?;
        std::fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(unusable)?;
        let mut entries = Entries::new();
        for (id, kept) in all(&database).map_err(unopened)? {
            let grant: Grant = serde_json::from_slice(&kept).map_err(|e| OpenError::Broken(path.clone(), e))?;
            entries.insert(Uuid::from_u128(id), Entry { grant: grant.into(), revision: 0 });
        }
        Ok((Self { path, database: Mutex::new(Some(database)), revision: AtomicU64::new(0) }, entries))
    }

    /// Writes a grant and forgets others, in one synced transaction; gives the new revision. Blocks. On an error
    /// nothing has changed.
    pub(super) fn put(&self, grant: Option<&Grant>, forget: &[Uuid]) -> Result<u64, redb::Error> {
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let open = match database.take() {
            Some(open) => open,
            None => open(&self.path)?,
        };
        write(&open, grant, forget)?;
        // what failed is closed by now
        *database = Some(open);
        Ok(self.revision.fetch_add(1, Ordering::Relaxed) + 1)
    }
}

fn write(database: &Database, grant: Option<&Grant>, forget: &[Uuid]) -> Result<(), redb::Error> {
    let transaction = database.begin_write()?;
    {
        let mut table = transaction.open_table(GRANTS)?;
        if let Some(grant) = grant {
            let kept = serde_json::to_vec(grant).map_err(|e| redb::Error::Io(e.into()))?;
            table.insert(grant.id.as_u128(), kept.as_slice())?;
        }
        for id in forget {
            table.remove(id.as_u128())?;
        }
    }
    Ok(transaction.commit()?)
}

fn all(database: &Database) -> Result<Vec<(u128, Vec<u8>)>, redb::Error> {
    let transaction = database.begin_write()?;
    // makes the table where there is none yet
    transaction.open_table(GRANTS)?;
    transaction.commit()?;
    let table = database.begin_read()?.open_table(GRANTS)?;
    let kept = table.iter()?.map(|row| row.map(|(id, kept)| (id.value(), kept.value().to_vec())));
    Ok(kept.collect::<Result<_, _>>()?)
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    Ok(Database::builder().set_cache_size(CACHE).create(path)?)
}

/// Makes the directory for this user alone: who may write there grants what they like.
fn make_directory(path: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}

#[cfg(test)]
mod tests;
