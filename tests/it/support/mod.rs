//! Shared parts of the suite: one [`Harness`] that starts the real program between real sockets.

pub(crate) mod browser;
pub(crate) mod call;
pub(crate) mod clients;
pub(crate) mod gate;
pub(crate) mod glewlwyd;
pub(crate) mod google;
pub(crate) mod google_rpc;
pub(crate) mod grpc;
pub(crate) mod harness;
pub(crate) mod import_graph;
pub(crate) mod issuer;
pub(crate) mod login_harness;
pub(crate) mod page;
pub(crate) mod peers;
pub(crate) mod person;
pub(crate) mod pki;
pub(crate) mod program;
pub(crate) mod proof;
pub(crate) mod scripted_upstream;
pub(crate) mod sdk;
pub(crate) mod shell;
pub(crate) mod upstream;
pub(crate) mod wire;

use std::{future::Future, time::Duration};

pub(crate) use call::Answer;
pub(crate) use gate::Gate;
pub(crate) use harness::{Directory, Harness};

/// Longer than anything here takes on a loaded machine; a condition that needs it has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// How often a condition is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until `condition` gives something. `what` is what the test waits for, as the failure names it.
pub(crate) async fn eventually<T, F, Fut>(what: &str, condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    within(DEADLINE, what, condition).await
}

/// Like [`eventually`], with a patience of its own.
pub(crate) async fn within<T, F, Fut>(patience: Duration, what: &str, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let looks = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    };
    match tokio::time::timeout(patience, looks).await {
        Ok(found) => found,
        Err(_) => panic!("waited {patience:?} in vain for {what}"),
    }
}
