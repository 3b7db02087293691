//! Whose question is asked next.
//!
//! Promises: what is under way and what waits is bounded in number. A token that was active before does not wait behind
//! tokens that nobody knows, however many come: turns are reserved for it. Never: a place that a stranger takes from a
//! token that was active.

use std::sync::Arc;

use quick_cache::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use super::Digest;

/// Questions under way at once that may be about any token.
pub(super) const OPEN: usize = 48;
/// As many more about tokens that were active before.
const RESERVED: usize = 16;
/// Tokens that nobody knows yet whose question waits for its turn.
pub(super) const MAX_WAITING: usize = 1000;
/// Tokens that were active, known beyond their answer's time; the least used make room.
const MAX_ACTIVE: usize = 50_000;

/// The turns of one issuer's questions.
pub(super) struct Turns {
    pub(super) open: Semaphore,
    reserved: Semaphore,
    places: Arc<Semaphore>,
    active: Cache<Digest, ()>,
}

/// Where a first question waits.
pub(super) enum Place {
    /// Its token was active before.
    Reserved,
    /// Among the strangers; the place is free again when this is dropped.
    Stranger(OwnedSemaphorePermit),
}

impl Turns {
    pub(super) fn new() -> Self {
        Self {
            open: Semaphore::new(OPEN),
            reserved: Semaphore::new(RESERVED),
            places: Arc::new(Semaphore::new(MAX_WAITING)),
            active: Cache::new(MAX_ACTIVE),
        }
    }

    /// A place for a token's first question; nothing where too many strangers wait.
    pub(super) fn place(&self, digest: &Digest) -> Option<Place> {
        if self.active.get(digest).is_some() {
            return Some(Place::Reserved);
        }
        self.places.clone().try_acquire_owned().ok().map(Place::Stranger)
    }

    /// Waits for the turn of a first question. There always is one: nobody closes them.
    pub(super) async fn first(&self, place: Place) -> Option<SemaphorePermit<'_>> {
        match place {
            Place::Reserved => self.again().await,
            Place::Stranger(_until_its_turn) => self.open.acquire().await.ok(),
        }
    }

    /// Waits for the turn of a question about a token that was active.
    pub(super) async fn again(&self) -> Option<SemaphorePermit<'_>> {
        let turn = tokio::select! {
            biased;
            turn = self.reserved.acquire() => turn,
            turn = self.open.acquire() => turn,
        };
        turn.ok()
    }

    /// Takes note of what the judge said.
    pub(super) fn judged(&self, digest: &Digest, active: bool) {
        if active {
            self.active.insert(*digest, ());
        } else {
            self.active.remove(digest);
        }
    }
}
