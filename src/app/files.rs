//! Polling of the configuration's files for changes.
//!
//! Polling costs a few microseconds. Kernel notification (inotify) would cost more: it also reports each write to an
//! audit log in the same folder, which took a fifth of the CPU time of a request.

use std::{os::unix::fs::MetadataExt, path::PathBuf, sync::Arc, time::Duration};

use super::serving::Shared;

const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// The kernel stamps files with a clock that may lag by one tick.
const TICK: Duration = Duration::from_millis(10);

/// The configuration's files with their state; `None` for a path that is no file.
pub(super) type FileStates = Vec<(PathBuf, Option<FileState>)>;

/// What tells one version of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileState {
    length: u64,
    /// In nanoseconds since 1970.
    modified: i128,
    inode: u64,
}

/// Waits until the files differ from `last` and have stayed so for one interval: editors and Kubernetes change them in
/// several steps, which count as one change. Updates `last`.
pub(super) async fn changed(shared: &Arc<Shared>, last: &mut FileStates) {
    let mut before = last.clone();
    loop {
        tokio::time::sleep(POLL_INTERVAL).await;
        let now = current(shared).await;
        if now != *last && now == before {
            *last = now;
            return;
        }
        before = now;
    }
}

/// The files as they were read for the served configuration. Empty if one has changed since, so that the next poll sees
/// a difference.
pub(super) async fn as_read(shared: &Arc<Shared>) -> FileStates {
    let read_at = shared.serving.load().read_at.as_nanosecond() - TICK.as_nanos().cast_signed();
    let states = current(shared).await;
    let is_newer = |state: &Option<FileState>| state.is_some_and(|state| state.modified >= read_at);
    if states.iter().any(|(_, state)| is_newer(state)) { Vec::new() } else { states }
}

/// The files as they are now.
pub(super) async fn current(shared: &Arc<Shared>) -> FileStates {
    let shared = shared.clone();
    let states = tokio::task::spawn_blocking(move || {
        let serving = shared.serving.load();
        let mut paths: Vec<PathBuf> = serving.files.clone();
        for folder in serving.files.iter().filter(|path| path.is_dir()) {
            paths.extend(std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()));
        }
        paths.sort();
        let with_state = |path: PathBuf| {
            let metadata = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file);
            let state = metadata.map(|m| FileState {
                length: m.len(),
                modified: i128::from(m.mtime()) * 1_000_000_000 + i128::from(m.mtime_nsec()),
                inode: m.ino(),
            });
            (path, state)
        };
        paths.into_iter().map(with_state).collect()
    });
    // the closure cannot panic; the runtime drops it only at a stop, when no change matters
    states.await.unwrap_or_default()
}
