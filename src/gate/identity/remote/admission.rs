//! Admission of remote validations: bounded concurrency, with permits reserved for tokens that were active before.
//!
//! Promises: the number of running and of queued validations is bounded. A token that was active before does not queue
//! behind unknown tokens, however many arrive. Never: a reserved permit for an unknown token.

use std::sync::Arc;

use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// BLAKE3 of a token.
pub(super) type Digest = [u8; 32];

/// Concurrent validations, of any token.
pub(super) const MAX_CONCURRENT: usize = 48;
/// Additional concurrent validations of tokens that were active before.
const RESERVED: usize = 16;
/// Queued validations of unknown tokens.
pub(super) const MAX_QUEUED: usize = 1000;
/// Tokens remembered as active, also after their cached result has expired; the least recently used are evicted.
const MAX_ACTIVE: usize = 50_000;

/// Admission control of one issuer's validations.
pub(super) struct Admission {
    pub(super) concurrent: Semaphore,
    reserved: Semaphore,
    queue: Arc<Semaphore>,
    active: Cache<Digest, ()>,
}

/// The queue position of a token's first validation.
pub(super) enum QueueTicket {
    /// The token was active before.
    Reserved,
    /// The token is unknown. Dropping the permit frees its position.
    Queued(OwnedSemaphorePermit),
}

impl Admission {
    pub(super) fn new() -> Self {
        Self {
            concurrent: Semaphore::new(MAX_CONCURRENT),
            reserved: Semaphore::new(RESERVED),
            queue: Arc::new(Semaphore::new(MAX_QUEUED)),
            active: Cache::new(MAX_ACTIVE),
        }
    }

    /// A queue position for a token's first validation; `None` if too many unknown tokens are queued.
    pub(super) fn enqueue(&self, digest: &Digest) -> Option<QueueTicket> {
        if self.active.get(digest).is_some() {
            return Some(QueueTicket::Reserved);
        }
        self.queue.clone().try_acquire_owned().ok().map(QueueTicket::Queued)
    }

    /// Waits for the permit of a first validation. It is never `None`, because the semaphores are never closed.
    pub(super) async fn acquire(&self, ticket: QueueTicket) -> Option<SemaphorePermit<'_>> {
        match ticket {
            QueueTicket::Reserved => self.acquire_reserved().await,
            QueueTicket::Queued(_until_acquired) => self.concurrent.acquire().await.ok(),
        }
    }

    /// Waits for the permit of a validation of a token that was active before.
    pub(super) async fn acquire_reserved(&self) -> Option<SemaphorePermit<'_>> {
        let permit = tokio::select! {
            biased;
            permit = self.reserved.acquire() => permit,
            permit = self.concurrent.acquire() => permit,
        };
        permit.ok()
    }

    /// Records the result of a validation.
    pub(super) fn record(&self, digest: &Digest, active: bool) {
        if active {
            self.active.insert(*digest, ());
        } else {
            self.active.remove(digest);
        }
    }
}
