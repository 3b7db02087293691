//! Secrets and credentials: where they are read from, how memory holds them, how a request gets them.
//!
//! Promises: a [`Secret`] is wiped when dropped and has no `Display` and no `Serialize`; its `Debug` says only
//! that there is one. A [`Credential`] is replaced whole, never changed. This module never writes a secret
//! anywhere, a log line included.

mod callers;
mod credential;
mod source;
mod zeroized;

pub(crate) use self::{
    callers::{CallerSlots, CredentialSource, RefreshTask},
    credential::{Credential, CredentialSlot, authorization},
    source::{SecretSource, SourceError},
    zeroized::Secret,
};
