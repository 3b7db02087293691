//! Where samples go from the spool.
//!
//! Promises: a sink reads the spool at its own pace, and says what it has delivered; one slow or dead endpoint holds
//! up no other. It never sends a request without a credential.

pub(crate) mod vertex;
