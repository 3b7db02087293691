//! What becomes of samples between the spool and a model: kept or not, resampled, put into a model's words.
//!
//! Promises: everything here is a pure function of its arguments; `now` is one of them. Windows are bounded in series
//! and in points. It does no I/O and never reads the clock.

pub(crate) mod keep;
pub(crate) mod timesfm;
pub(crate) mod windows;
