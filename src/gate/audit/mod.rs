//! The audit log: one record for every request, in a chain that shows any change.
//!
//! Promises: a request that is refused leaves one line; a request that is permitted leaves a line with
//! `"event":"permit"` before anything is forwarded and one with `"event":"request"` when its last byte has left. A
//! permit that cannot be written refuses its request; while nothing can be written, lines wait in bounded memory, and
//! what it has no room for is counted in a line with `"event":"lost"` when writing goes on. Lines hold names and
//! generations of credentials, never values, and nothing of a token but its principal and the roles that it earns. What
//! policy was asked can be asked again from its line alone, but for the claims, which are not there.
//!
//! A line is a JSON object that ends in `"seq":N,"hash":"H"}`. `N` counts up by one from line to line, over restarts.
//! `H` is hex BLAKE3 of the previous line's hash (32 bytes, zeros before the first line) followed by this line's bytes
//! up to and not including `,"hash"`. So a line that is changed, removed or moved breaks the chain at its place.

mod context;
mod line;
mod log;
mod record;
mod verify;

pub(crate) use self::{
    context::{RecordedBodyNames, RecordedCertificate, RecordedContext},
    line::{Event, Line, Lines, RecordedGrantRequest},
    log::{AuditError, PermitWritten},
    record::{Decision, RecordedGrant, cut},
    verify::{Verdict, verify},
};
pub use self::{log::Log, record::Record};

use std::path::PathBuf;

/// The `[audit]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The file that lines are appended to.
    pub file: PathBuf,
}
