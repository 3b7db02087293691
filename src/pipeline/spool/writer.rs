//! The one thread that writes: it takes what waits, commits it as a group, and tells everybody at once.
//!
//! Promises: nobody is told "stored" before the sync of their group returned. A store that failed is opened anew, at
//! most once a second.

use std::{io, sync::Arc, time::Duration};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    metrics::Metrics,
    queue::{Released, Sequence},
    store::{Outcome, Shared},
};
use crate::{clock, series::Batch};

/// Batches that share a sync at most.
const GROUP: usize = 64;
/// Bytes that share a sync at most, beyond the first batch.
const GROUP_BYTES: usize = 8 << 20;
const REOPEN_EVERY: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
#[derive(Debug)]
pub(super) enum Work {
    Append(Batch, oneshot::Sender<Outcome>),
    Release(Released),
    Close(oneshot::Sender<()>),
}

/// Starts the thread. It ends when it is told to close or when the last handle is gone.
pub(super) fn start(
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Work>,
    committed: watch::Sender<Sequence>,
    metrics: Metrics,
) -> io::Result<()> {
    let released = Released { delivered: shared.delivered(), keep_from: i64::MIN, expire_before: i64::MIN };
    let writer = Writer { shared, committed, metrics, released, failed_at: None };
    std::thread::Builder::new().name("spool".to_owned()).spawn(move || writer.run(queue)).map(drop)
}

struct Writer {
    shared: Arc<Shared>,
    committed: watch::Sender<Sequence>,
    metrics: Metrics,
    released: Released,
    /// When the store failed; nothing while it works.
    failed_at: Option<clock::Instant>,
}

/// Everything that waited when the thread looked.
#[derive(Default)]
struct Group {
    batches: Vec<Batch>,
    waiting: Vec<oneshot::Sender<Outcome>>,
    bytes: usize,
    release: bool,
    close: Option<oneshot::Sender<()>>,
}

impl Group {
    fn add(&mut self, work: Work, released: &mut Released) {
        match work {
            Work::Append(batch, done) => {
                self.bytes += batch.as_bytes().len();
                self.batches.push(batch);
                self.waiting.push(done);
            }
            Work::Release(next) => {
                *released = Released { delivered: released.delivered.max(next.delivered), ..next };
                self.release = true;
            }
            Work::Close(done) => self.close = Some(done),
        }
    }

    fn is_full(&self) -> bool {
        self.batches.len() >= GROUP || self.bytes >= GROUP_BYTES || self.close.is_some()
    }
}

impl Writer {
    fn run(mut self, mut queue: mpsc::Receiver<Work>) {
        self.show();
        while let Some(first) = queue.blocking_recv() {
            let mut group = Group::default();
            group.add(first, &mut self.released);
            while !group.is_full()
                && let Ok(next) = queue.try_recv()
            {
                group.add(next, &mut self.released);
            }
            self.commit(&mut group);
            if let Some(closed) = group.close {
                self.shared.discard();
                let _ = closed.send(());
                return;
            }
        }
    }

    fn commit(&mut self, group: &mut Group) {
        if group.batches.is_empty() && !group.release {
            return;
        }
        let outcome = self.revive().and_then(|()| self.shared.commit(&group.batches, self.released));
        let outcomes = match outcome {
            Ok(mut done) => {
                self.metrics.commits.inc();
                self.metrics.expired.inc_by(done.expired_samples);
                while done.more_to_delete && group.batches.is_empty() {
                    let Ok(more) = self.shared.commit(&[], self.released) else { break };
                    self.metrics.expired.inc_by(more.expired_samples);
                    done.more_to_delete = more.more_to_delete;
                }
                done.outcomes
            }
            Err(problem) => {
                self.metrics.failures.inc();
                if self.failed_at.is_none() {
                    // once for each failure: every append of a busy sender comes through here
                    tracing::error!(error = %problem, "the spool cannot be written");
                    self.failed_at = Some(clock::monotonic());
                }
                vec![Outcome::Failed(problem.to_string()); group.batches.len()]
            }
        };
        self.show();
        self.committed.send_if_modified(|last| {
            let grown = self.shared.last_sequence() > *last;
            *last = self.shared.last_sequence();
            grown
        });
        for (waiting, outcome) in group.waiting.drain(..).zip(outcomes) {
            // a caller who has gone away does not hear it
            let _ = waiting.send(outcome);
        }
    }

    /// Opens the store again if it failed a while ago.
    fn revive(&mut self) -> Result<(), redb::Error> {
        let Some(failed_at) = self.failed_at else { return Ok(()) };
        if failed_at.elapsed() < REOPEN_EVERY {
            return Err(redb::Error::PreviousIo);
        }
        self.failed_at = Some(clock::monotonic());
        self.shared.reopen()?;
        self.failed_at = None;
        tracing::info!("the spool works again");
        Ok(())
    }

    fn show(&self) {
        let depth = self.shared.depth();
        self.metrics.batches.set(i64::try_from(depth.batches).unwrap_or(i64::MAX));
        self.metrics.bytes.set(i64::try_from(depth.bytes).unwrap_or(i64::MAX));
    }
}
