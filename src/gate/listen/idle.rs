//! Idle detection for connections.
//!
//! Promises: a connection on which the client sends no request and reads no available response loses its slot. Time that
//! the gate or an upstream needs never counts as idle.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};

/// The activity of one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Counts what the client did: requests sent and response frames read.
    steps: AtomicU64,
    /// Requests and responses that wait for the gate or an upstream.
    waiting: AtomicUsize,
}

impl Activity {
    /// Waits until nothing has happened for `span`, and up to twice as long.
    pub(super) async fn idle(&self, span: Duration) {
        loop {
            let before = self.steps.load(Ordering::Relaxed);
            tokio::time::sleep(span).await;
            if self.waiting.load(Ordering::Relaxed) == 0 && self.steps.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }

    /// Counts an action of the client, which then waits until the returned value is dropped.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(self))
    }
}

/// While it exists, the client waits for the gate or an upstream.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Activity>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response body whose frames count as activity. hyper polls it when the client can receive a frame.
#[derive(Debug)]
pub(super) struct Watched<B> {
    body: B,
    activity: Arc<Activity>,
    waiting: Option<Waiting>,
}

impl<B> Watched<B> {
    pub(super) fn new(body: B, activity: Arc<Activity>) -> Self {
        Self { body, activity, waiting: None }
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_pending() {
            this.waiting.get_or_insert_with(|| this.activity.wait());
        } else {
            this.activity.steps.fetch_add(1, Ordering::Relaxed);
            this.waiting = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
