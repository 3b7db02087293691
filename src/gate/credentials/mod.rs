//! Downstream credentials: obtained, renewed before they expire, and read by requests from slots.
//!
//! Promises: no caller ever sees one. A renewal replaces a credential without a failed request. While renewals fail, the
//! last credential serves until its own expiry; then the slot is empty and requests are refused. Credentials are in
//! memory only; no log and no metric holds a value.

mod callers;
mod google;
mod obtained;
mod refresher;
mod subject_token;

pub(crate) use self::{
    callers::{CallerCredentialOrigin, CallerCredentialRefresher, CallerMetrics},
    google::{Google, Settings as GoogleSettings, Subject as GoogleSubject},
    refresher::{CredentialOrigin, CredentialRefresher},
    subject_token::SubjectTokenSigner,
};
