//! What the data path's own tests share: directories that clean up, and an HTTP peer that answers what it is told.

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

use crate::{
    client::{Client, Upstream},
    http::{Body, read_bounded},
};

/// A fresh directory that is removed at the end.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("wicketgate-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// One request as the peer saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

type Answer = Box<dyn Fn(&Seen) -> Response<Body> + Send + Sync>;

/// An HTTP server on a loopback port of its own; it ends with its handle.
pub(crate) struct Peer {
    pub(crate) url: String,
    seen: Arc<Mutex<VecDeque<Seen>>>,
    count: watch::Receiver<usize>,
    _server: JoinSet<()>,
}

impl Peer {
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Response<Body> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (answer, seen): (Arc<Answer>, Arc<Mutex<VecDeque<Seen>>>) = (Arc::new(Box::new(answer)), Arc::default());
        let (sender, count) = watch::channel(0);
        let mut server = JoinSet::new();
        let log = Arc::clone(&seen);
        server.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let answer = Arc::clone(&answer);
                let log = Arc::clone(&log);
                let sender = sender.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let answer = Arc::clone(&answer);
                    let log = Arc::clone(&log);
                    let sender = sender.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = read_bounded(body, 16 << 20, Duration::from_secs(10)).await.unwrap();
                        let path = head.uri.path_and_query().unwrap().to_string();
                        let seen = Seen { path, headers: head.headers, body };
                        let response = answer(&seen);
                        log.lock().unwrap().push_back(seen);
                        sender.send_modify(|count| *count += 1);
                        Ok::<_, std::convert::Infallible>(response)
                    }
                });
                connections.spawn(async move {
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                });
            }
        });
        Self { url, seen, count, _server: server }
    }

    /// The next request, waiting for it if need be.
    pub(crate) async fn next(&mut self) -> Seen {
        loop {
            self.count.borrow_and_update();
            if let Some(seen) = self.seen.lock().unwrap().pop_front() {
                return seen;
            }
            self.count.changed().await.unwrap();
        }
    }

    pub(crate) fn upstream(&self) -> Upstream {
        Upstream::new(&self.url, Arc::new(Client::new(None).unwrap())).unwrap()
    }
}

pub(crate) fn answer(status: u16, media: &str, body: impl Into<String>) -> Response<Body> {
    let response = Response::builder().status(status).header("content-type", media);
    response.body(Body::from(body.into())).unwrap()
}
