//! Whether anything happens on a connection.
//!
//! Promises: a connection on which nothing is asked, and nothing that is ready is taken, does not keep its slot. Time
//! that the gate or an upstream needs is never held against the client.

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

/// What happens on one connection.
#[derive(Debug, Default)]
pub(super) struct Activity {
    /// Counts what the client did: requests that it made, pieces of answers that it took.
    steps: AtomicU64,
    /// Requests and answers that wait for the gate or an upstream.
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

    /// The client did something, and waits for as long as the result is held.
    pub(super) fn wait(self: &Arc<Self>) -> Waiting {
        self.steps.fetch_add(1, Ordering::Relaxed);
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Waiting(Arc::clone(self))
    }
}

/// While it lives, the client is not the one who is slow.
#[derive(Debug)]
pub(super) struct Waiting(Arc<Activity>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An answer's body, whose pieces are steps. hyper asks for a piece when the client has room for one.
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
