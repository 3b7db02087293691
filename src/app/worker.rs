//! The serving threads: one single-threaded runtime each.

use std::{net::TcpListener, sync::Arc, thread, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{runtime::Builder, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::{
    client, clock,
    gate::{
        listen::{self, ParseFailure},
        proxy::{self, AuditedBody},
    },
    peer::Peer,
};

/// What still runs on a thread of its own when a worker is cut (a large remote write) is not waited for longer.
const LAST_WORK: Duration = Duration::from_secs(1);

/// A serving thread.
pub(super) struct Worker {
    ended: CancellationToken,
}

impl Worker {
    /// Waits until its requests have ended.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }
}

/// Starts a thread for each list of sockets. With `stop` it lets open requests end; with `cut` it drops them, each of
/// which closes its record.
pub(super) fn start(
    sockets: Vec<Vec<TcpListener>>,
    shared: &Arc<Shared>,
    slots: &Arc<Semaphore>,
    stop: &CancellationToken,
    cut: &CancellationToken,
) -> std::io::Result<Vec<Worker>> {
    sockets
        .into_iter()
        .enumerate()
        .map(|(index, sockets)| {
            let (shared, slots, stop, cut) = (shared.clone(), slots.clone(), stop.clone(), cut.clone());
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let ended = CancellationToken::new();
            let done = ended.clone().drop_guard();
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let work = serve(client::Worker::serving(index), sockets, shared, slots, stop);
                runtime.block_on(cut.run_until_cancelled(work));
                runtime.shutdown_timeout(LAST_WORK);
                drop(done);
            })?;
            Ok(Worker { ended })
        })
        .collect()
}

async fn serve(
    worker: client::Worker,
    sockets: Vec<TcpListener>,
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    stop: CancellationToken,
) {
    let mut listeners = JoinSet::new();
    for (index, socket) in sockets.into_iter().enumerate() {
        match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => {
                let door = Door { shared: shared.clone(), worker, index };
                listeners.spawn(listen::serve(socket, door, slots.clone(), stop.clone()));
            }
            Err(error) => tracing::error!(%error, "a socket cannot be served"),
        }
    }
    while listeners.join_next().await.is_some() {}
}

/// One listener of one worker.
#[derive(Clone)]
struct Door {
    shared: Arc<Shared>,
    worker: client::Worker,
    index: usize,
}

impl listen::Service for Door {
    type Body = AuditedBody;

    fn tls(&self) -> Option<listen::Tls> {
        self.shared.serving.load().tls.get(self.index).cloned().flatten()
    }

    async fn answer(&self, peer: Peer, request: Request<Incoming>) -> Response<AuditedBody> {
        let serving = self.shared.serving.load_full();
        let peer = match serving.tls.get(self.index) {
            Some(Some(tls)) => tls.judge(peer, clock::now()),
            _ => peer,
        };
        proxy::handle(&serving.gate, self.worker, &peer, request).await
    }

    fn parse_failed(&self, peer: &Peer, what: ParseFailure) {
        proxy::record_parse_failure(&self.shared.serving.load().gate, peer, what);
    }
}
