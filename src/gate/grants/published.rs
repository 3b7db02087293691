//! The grants that this gate knows, and until when its store is trusted to have told all of them.
//!
//! Promises: readers load one immutable index without a lock; each change publishes a new index and cancels what depends on
//! a grant that no longer counts.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, Ordering},
};

use arc_swap::ArcSwap;
use http::StatusCode;

use super::index::{Book, Entries};
use crate::{
    clock::{self, Timestamp},
    refusal::Refusal,
};

/// Grants kept at once, ended ones included.
pub(super) const GRANTS_LIMIT: usize = 50_000;
/// The component's name in readiness.
pub(super) const COMPONENT: &str = "grants";

/// The current index of grants.
pub(super) struct PublishedGrants {
    pub(super) book: ArcSwap<Book>,
    /// Milliseconds since the Unix epoch: until then the index is what the store holds. `i64::MAX` for a file that only
    /// this process has open.
    trusted_until: AtomicI64,
    publishing: Mutex<()>,
    /// Locked while a change is decided and stored, so that each change follows the one before.
    pub(super) turn: Arc<tokio::sync::Mutex<()>>,
}

impl PublishedGrants {
    pub(super) fn new(entries: Entries, trusted_until: i64) -> Self {
        Self {
            book: ArcSwap::from_pointee(Book::new(entries, true, &Book::default(), clock::now())),
            trusted_until: AtomicI64::new(trusted_until),
            publishing: Mutex::default(),
            turn: Arc::default(),
        }
    }

    pub(super) fn is_trusted(&self, now: Timestamp) -> bool {
        now.as_millisecond() < self.trusted_until.load(Ordering::Relaxed)
    }

    pub(super) fn trust_until(&self, until: Timestamp) {
        self.trusted_until.store(until.as_millisecond(), Ordering::Relaxed);
    }

    /// Publishes the edited index, and ends what depends on a grant that no longer counts.
    pub(super) fn publish(&self, edit: impl FnOnce(&mut Entries)) {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::now();
        let before = self.book.load_full();
        let mut entries = before.entries.clone();
        edit(&mut entries);
        let next = Arc::new(Book::new(entries, self.is_trusted(now), &before, now));
        self.book.store(next.clone());
        before.lost(&next).for_each(|grant| grant.ended.cancel());
    }
}

/// 404: no grant has this id.
pub(super) fn unknown_grant() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, "unknown_grant", "there is no grant of this id; `grant list` shows yours")
}

/// 503: the change could not be stored.
pub(super) fn store_unavailable() -> Refusal {
    Refusal::unavailable("grants_unavailable", "grants cannot be changed now; look again, and try once more")
}
