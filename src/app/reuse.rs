//! Things with a life of their own: each has a task, and both end when nobody holds it any longer.

use std::{future::Future, sync::Arc};

use tokio_util::sync::{CancellationToken, DropGuard};

/// A value with the settings that it was made from and the task that works for it.
pub(super) struct Kept<S, T> {
    settings: S,
    pub(super) value: Arc<T>,
    _task: DropGuard,
}

/// The kept value with these settings, from `before` or made and started now.
pub(super) fn keep<S: PartialEq, T, F: Future<Output = ()> + Send + 'static>(
    before: &[Arc<Kept<S, T>>],
    settings: S,
    make: impl FnOnce(&S) -> T,
    task: impl FnOnce(Arc<T>) -> F,
) -> Arc<Kept<S, T>> {
    if let Some(kept) = before.iter().find(|kept| kept.settings == settings) {
        return kept.clone();
    }
    let value = Arc::new(make(&settings));
    let stop = CancellationToken::new();
    let (stopped, work) = (stop.clone(), task(value.clone()));
    #[allow(clippy::disallowed_methods, reason = "the task ends with the guard that is kept beside its value")]
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = stopped.cancelled() => {}
        }
    });
    Arc::new(Kept { settings, value, _task: stop.drop_guard() })
}
