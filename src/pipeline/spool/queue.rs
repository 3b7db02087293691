//! The spool as a queue: its settings, a batch's sequence number, what may be released, and how much is stored.

use std::path::PathBuf;

/// Where the spool is and how large it may become.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The spool's own directory; made if it is absent. One process at a time can have it open.
    pub directory: PathBuf,
    /// Appends are refused beyond this, in bytes on disk.
    pub max_bytes: u64,
}

/// A batch's place in the queue; the first is 1.
pub(crate) type Sequence = u64;

/// What its readers no longer need. Times are milliseconds since the Unix epoch, compared with a batch's newest sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Released {
    /// Every batch up to here has been delivered.
    pub delivered: Sequence,
    /// Delivered batches from before this are reached by no window.
    pub keep_from: i64,
    /// Undelivered batches from before this can no longer be sent by anybody.
    pub expire_before: i64,
}

/// How much is in the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Depth {
    /// Batches stored, delivered or not.
    pub batches: u64,
    /// What they take on disk.
    pub bytes: u64,
}
