//! An HTTP server that answers as instructed and remembers every request.
//!
//! It counts connections as well as requests, so that a test can assert that nothing arrived.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, task::JoinSet};
use wicketgate::internals::read_bounded;

use super::google_rpc;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    /// Path and query, exactly as sent.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    /// Of a gRPC call its first message.
    pub(crate) body: Bytes,
}

impl Seen {
    /// The header's value, or "" where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

pub(crate) type Reply = Response<Full<Bytes>>;
type Answers = Arc<Mutex<Box<dyn Fn(&Seen) -> Reply + Send>>>;
type Intercepts = Arc<Mutex<Box<dyn Fn(&Seen) -> Option<Reply> + Send>>>;

/// A recording server in clear on a loopback port of its own; it ends when dropped. It speaks HTTP/1.1 and, to a
/// client that starts with its preface, HTTP/2. [`google_rpc`] answers gRPC calls, whatever answer the test sets.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
    answers: Answers,
    intercepts: Intercepts,
    _tasks: JoinSet<()>,
}

impl Upstream {
    pub(crate) async fn start(answer: impl Fn(&Seen) -> Reply + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::default();
        let connections = Arc::new(AtomicUsize::new(0));
        let answers: Answers = Arc::new(Mutex::new(Box::new(answer)));
        let intercepts: Intercepts = Arc::new(Mutex::new(Box::new(|_| None)));
        let first = Arc::clone(&intercepts);
        let then = Arc::clone(&answers);
        let both: Answers = Arc::new(Mutex::new(Box::new(move |seen| {
            let intercepted = first.lock().unwrap()(seen);
            intercepted.unwrap_or_else(|| then.lock().unwrap()(seen))
        })));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&seen), Arc::clone(&connections), both));
        Self { address, seen, connections, answers, intercepts, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From here on it answers like this.
    pub(crate) fn answer(&self, answer: impl Fn(&Seen) -> Reply + Send + 'static) {
        *self.answers.lock().unwrap() = Box::new(answer);
    }

    /// From here on it answers like this where `answer` gives something, and as before where not.
    pub(crate) fn intercept(&self, answer: impl Fn(&Seen) -> Option<Reply> + Send + 'static) {
        *self.intercepts.lock().unwrap() = Box::new(answer);
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub(crate) fn requests(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// The last request; there must be one.
    pub(crate) fn last(&self) -> Seen {
        self.seen.lock().unwrap().last().cloned().expect("the upstream saw no request")
    }
}

async fn accept(listener: TcpListener, seen: Arc<Mutex<Vec<Seen>>>, connections: Arc<AtomicUsize>, answers: Answers) {
    let mut open = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        connections.fetch_add(1, Ordering::SeqCst);
        let seen = Arc::clone(&seen);
        let answers = Arc::clone(&answers);
        open.spawn(async move {
            let service = service_fn(move |request| {
                let seen = Arc::clone(&seen);
                let answers = Arc::clone(&answers);
                async move { serve(request, &seen, &answers).await }
            });
            // a connection that the gate drops is no failure of the upstream
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
        while open.try_join_next().is_some() {}
    }
}

type Answered = Response<UnsyncBoxBody<Bytes, Infallible>>;

async fn serve(request: Request<Incoming>, seen: &Mutex<Vec<Seen>>, answers: &Answers) -> Result<Answered, Infallible> {
    let (head, body) = request.into_parts();
    if head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc")) {
        return Ok(google_rpc::serve(head, body, seen).await.map(BodyExt::boxed_unsync));
    }
    let Ok(body) = read_bounded(body, 64 << 20, Duration::from_secs(30)).await else {
        return Ok(reply(StatusCode::BAD_REQUEST, "text/plain", "the body broke off").map(BodyExt::boxed_unsync));
    };
    let target = head.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let request = Seen { method: head.method, target, headers: head.headers, body };
    seen.lock().unwrap().push(request.clone());
    Ok(answers.lock().unwrap()(&request).map(BodyExt::boxed_unsync))
}

/// A response with a body and its type.
pub(crate) fn reply(status: StatusCode, kind: &str, body: impl Into<Bytes>) -> Reply {
    Response::builder().status(status).header("content-type", kind).body(Full::new(body.into())).unwrap()
}

/// A 200 with a JSON body.
pub(crate) fn json(value: &serde_json::Value) -> Reply {
    reply(StatusCode::OK, "application/json", value.to_string())
}
