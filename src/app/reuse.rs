//! Reuse over a reload: a value and its background task go on as long as the settings that they were made from are
//! equal.

use std::{future::Future, sync::Arc};

use tokio_util::sync::{CancellationToken, DropGuard};

/// A value, the settings that it was made from, and its background task. The task is cancelled when the last reference
/// is dropped.
pub(super) struct Reused<S, T> {
    settings: S,
    pub(super) value: Arc<T>,
    _task: DropGuard,
}

/// Returns the value in `before` whose settings equal `settings`. If there is none, makes one and spawns its task.
pub(super) fn reuse<'a, S: PartialEq + 'a, T: 'a, F: Future<Output = ()> + Send + 'static>(
    before: impl IntoIterator<Item = &'a Arc<Reused<S, T>>>,
    settings: S,
    make: impl FnOnce(&S) -> T,
    task: impl FnOnce(Arc<T>) -> F,
) -> Arc<Reused<S, T>> {
    if let Some(reused) = before.into_iter().find(|part| part.settings == settings) {
        return reused.clone();
    }
    let value = Arc::new(make(&settings));
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let work = task(value.clone());
    #[allow(clippy::disallowed_methods, reason = "the guard beside the value cancels the task")]
    tokio::spawn(async move {
        tokio::select! {
            () = work => {}
            () = stopped.cancelled() => {}
        }
    });
    Arc::new(Reused { settings, value, _task: stop.drop_guard() })
}
