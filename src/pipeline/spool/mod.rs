//! The durable queue between the door and the sinks.
//!
//! Promises:
//! - [`Spool::append`] resolves with a place in the queue only after the batch is on disk, synced. Appends that wait
//!   at the same time share one sync (group commit) on a thread of its own.
//! - A kill at any moment loses nothing that was acknowledged; what was torn is rolled back by the store.
//! - It holds at most `max_bytes`. When it is full, appends are told so and nothing waiting is thrown away.
//! - Batches are read in the order they were acknowledged, again and again until they are released: delivery is at
//!   least once.
//!
//! What is kept and for how long (the retention rule): a batch that some sink has yet to deliver stays. A delivered
//! one stays as long as a window may reach back to its newest sample, because windows live in memory and are rebuilt
//! from here after a restart; but when room is needed for a new batch, delivered ones go first, oldest first. A batch
//! that is older than every window goes even if it was never delivered: nobody can send it any more. That is counted
//! as expired.
//!
//! It must never answer an append before the sync, and never delete what is neither delivered nor expired.

mod metrics;
mod queue;
mod store;
mod writer;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use self::{
    store::{Outcome, Shared},
    writer::Work,
};
use crate::series::Batch;

pub(crate) use self::{
    metrics::Metrics,
    queue::{Depth, Released, Sequence, Settings},
    store::OpenError,
};

/// Appends that may wait for the disk at once; more wait for a place in this line.
const WAITING: usize = 1024;

/// Why a batch was not taken. In both cases the sender keeps it and comes again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// No room, and nothing delivered that could make room.
    #[error("the spool is full")]
    Full,
    /// The disk or the store refused.
    #[error("the spool cannot be written: {0}")]
    Failed(String),
}

/// Why the spool could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the spool cannot be read: {0}")]
pub(crate) struct ReadError(String);

/// A handle on the queue; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Spool {
    work: mpsc::Sender<Work>,
    shared: Arc<Shared>,
    committed: watch::Receiver<Sequence>,
    metrics: Metrics,
}

impl Spool {
    /// Opens the spool, or makes one. Blocks: after a crash the store checks itself first, about half a second for
    /// each GiB it holds.
    ///
    /// # Errors
    /// When the directory cannot be made, another process has it open, or the store is damaged beyond its own repair.
    pub(crate) fn open(settings: &Settings, metrics: Metrics) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared::open(settings)?);
        let (committed_sender, committed) = watch::channel(shared.last_sequence());
        let (work, queue) = mpsc::channel(WAITING);
        writer::start(Arc::clone(&shared), queue, committed_sender, metrics.clone()).map_err(OpenError::Thread)?;
        Ok(Self { work, shared, committed, metrics })
    }

    /// Stores a batch; resolves when it is synced to disk.
    ///
    /// # Errors
    /// When the spool is full or failing. A future dropped early may still store its batch.
    pub(crate) async fn append(&self, batch: Batch) -> Result<Sequence, AppendError> {
        let (done, outcome) = oneshot::channel();
        let gone = || AppendError::Failed("it is closed".to_owned());
        self.work.send(Work::Append(batch, done)).await.map_err(|_| gone())?;
        match outcome.await.map_err(|_| gone())? {
            Outcome::Stored(sequence) => Ok(sequence),
            Outcome::Full => Err(AppendError::Full),
            Outcome::Failed(problem) => Err(AppendError::Failed(problem)),
        }
    }

    /// The batches behind `after`, oldest first, until they exceed `max_bytes`; at least one if there is any.
    /// `after` 0 starts with the oldest that is kept. A batch that cannot be read is counted and passed over: the
    /// sequence that is returned with the batches is where to go on from.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn read_after(
        &self,
        after: Sequence,
        max_bytes: usize,
    ) -> Result<(Vec<(Sequence, Batch)>, Sequence), ReadError> {
        let shared = Arc::clone(&self.shared);
        let stored = tokio::task::spawn_blocking(move || shared.read_after(after, max_bytes))
            .await
            .map_err(|e| ReadError(e.to_string()))?
            .map_err(|e| ReadError(e.to_string()))?;
        let end = stored.last().map_or(after, |(sequence, _)| *sequence);
        let readable = |(sequence, bytes)| match Batch::from_stored(bytes) {
            Ok(batch) => Some((sequence, batch)),
            Err(problem) => {
                tracing::error!(sequence, error = %problem, "a spooled batch was passed over");
                self.metrics.broken.inc();
                None
            }
        };
        Ok((stored.into_iter().filter_map(readable).collect(), end))
    }

    /// Waits until there is a batch behind `after`; false when the spool has closed.
    pub(crate) async fn wait_beyond(&self, after: Sequence) -> bool {
        self.committed.clone().wait_for(|&last| last > after).await.is_ok()
    }

    /// The place of the newest batch that was ever acknowledged; 0 before the first.
    #[must_use]
    pub(crate) fn last_sequence(&self) -> Sequence {
        *self.committed.borrow()
    }

    /// Says what is no longer needed. The store deletes what the retention rule lets it, in its own time.
    pub(crate) async fn release(&self, released: Released) {
        // a closed spool has nothing left to delete
        let _ = self.work.send(Work::Release(released)).await;
    }

    /// How much is stored.
    #[must_use]
    pub(crate) fn depth(&self) -> Depth {
        self.shared.depth()
    }

    /// Finishes what is queued and gives the directory back. Later appends fail.
    pub(crate) async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.work.send(Work::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

#[cfg(test)]
mod tests;
