//! The serving threads: one single-threaded runtime each.

use std::{net::TcpListener, sync::Arc, thread, time::Duration};

use http::{Request, Response};
use hyper::body::Incoming;
use tokio::{runtime::Builder, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::serving::Shared;
use crate::{
    client, clock,
    gate::{
        listen::{self, ParseFailure},
        proxy::{self, AuditedBody},
    },
    peer::Peer,
};

/// What still runs on a thread of its own when a worker is aborted (a large remote write) is not waited for longer.
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

/// The two steps in which workers end.
#[derive(Clone, Default)]
pub(super) struct Shutdown {
    /// Accepts nothing new and lets open requests end.
    pub(super) stop: CancellationToken,
    /// Drops open requests, each of which closes its audit record.
    pub(super) abort: CancellationToken,
}

/// Starts a thread for each list of sockets.
pub(super) fn start(
    sockets: Vec<Vec<TcpListener>>,
    shared: &Arc<Shared>,
    connections: &Arc<Semaphore>,
    shutdown: &Shutdown,
) -> std::io::Result<Vec<Worker>> {
    sockets
        .into_iter()
        .enumerate()
        .map(|(index, sockets)| {
            let door = Door { shared: shared.clone(), worker: client::Worker::serving(index), index: 0 };
            let connections = connections.clone();
            let shutdown = shutdown.clone();
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let ended = CancellationToken::new();
            let done = ended.clone().drop_guard();
            thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
                let work = serve(sockets, door, connections, shutdown.stop);
                runtime.block_on(shutdown.abort.run_until_cancelled(work));
                runtime.shutdown_timeout(LAST_WORK);
                drop(done);
            })?;
            Ok(Worker { ended })
        })
        .collect()
}

async fn serve(sockets: Vec<TcpListener>, door: Door, connections: Arc<Semaphore>, stop: CancellationToken) {
    let mut listeners = JoinSet::new();
    for (index, socket) in sockets.into_iter().enumerate() {
        match tokio::net::TcpListener::from_std(socket) {
            Ok(socket) => {
                let door = Door { index, ..door.clone() };
                listeners.spawn(listen::serve(socket, door, connections.clone(), stop.clone()));
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
