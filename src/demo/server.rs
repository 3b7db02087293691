//! Loopback HTTP server of the emulators: reads each request, records it, and passes it to a [`Handler`].
//!
//! Promises: it binds 127.0.0.1 and nothing else. Bodies and the record of requests are bounded. Stopping or dropping it
//! closes its connections. Tests set a [`Behaviour`] to make it fail, disconnect or answer late.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header::CONTENT_TYPE};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{error::DemoError, pki::Leaf};
use crate::http::{Body, BoxFuture, read_bounded};

/// Larger than any limit of Google that the emulator imitates.
const BODY_LIMIT: usize = 16 << 20;
const BODY_DEADLINE: Duration = Duration::from_secs(30);
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Requests that are recorded; a new one replaces the oldest.
const RECORDED_REQUESTS: usize = 1024;
/// Bytes that are recorded of each body.
const RECORDED_BODY: usize = 64 << 10;

/// A request that an emulator received.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// The method.
    pub method: Method,
    /// Path and query, as sent.
    pub path: String,
    /// HTTP/1.1 or HTTP/2.
    pub version: Version,
    /// Every header, `Authorization` included.
    pub headers: HeaderMap,
    /// The body's first 64 KiB.
    pub body: Bytes,
    /// The body's length in bytes; 0 if it is incomplete or too large.
    pub body_length: usize,
}

impl RecordedRequest {
    /// A header's value; `None` if it is missing or not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The reaction of a server to requests. Tests set it.
#[derive(Clone, Copy, Debug, Default)]
pub enum Behaviour {
    /// It answers.
    #[default]
    Up,
    /// It answers every request with this status and no body.
    Fail(StatusCode),
    /// It answers after this delay.
    Slow(Duration),
    /// It closes the connection without an answer.
    Disconnect,
}

/// One whole request.
pub(crate) struct ReceivedRequest {
    pub(crate) method: Method,
    /// As sent: percent-encoding untouched.
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl ReceivedRequest {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The token of `Authorization: Bearer …`.
    pub(crate) fn bearer(&self) -> Option<&str> {
        self.header("authorization").strip_prefix("Bearer ")
    }

    /// The fields of a form body.
    pub(crate) fn form(&self) -> Vec<(String, String)> {
        url::form_urlencoded::parse(&self.body).into_owned().collect()
    }
}

/// The service behind a server: the issuer, Google or the exporter.
pub(crate) trait Handler: Send + Sync + 'static {
    fn handle(self: Arc<Self>, call: ReceivedRequest) -> BoxFuture<'static, Response<Body>>;
}

/// A running server; dropping it stops it.
pub struct Server {
    address: SocketAddr,
    tls: bool,
    recorder: Arc<Recorder>,
    tasks: JoinSet<()>,
}

struct Recorder {
    requests: Mutex<VecDeque<RecordedRequest>>,
    count: watch::Sender<u64>,
    behaviour: Mutex<Behaviour>,
}

impl Server {
    /// Listens on 127.0.0.1:`port`, any free port if 0; with TLS if `leaf` is given.
    pub(crate) async fn start(port: u16, leaf: Option<&Leaf>, handler: Arc<dyn Handler>) -> Result<Self, DemoError> {
        let requested = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let failed = |cause| DemoError::Listen(requested, cause);
        let listener = TcpListener::bind(requested).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let acceptor = leaf.map(Leaf::server_config).transpose()?.map(TlsAcceptor::from);
        let recorder = Arc::new(Recorder {
            requests: Mutex::default(),
            count: watch::Sender::new(0),
            behaviour: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let tls = acceptor.is_some();
        tasks.spawn(accept(listener, acceptor, recorder.clone(), handler));
        Ok(Self { address, tls, recorder, tasks })
    }

    /// The address on which it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL without a trailing slash, such as `http://127.0.0.1:41234`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }

    /// The last 1024 requests, oldest first.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.recorder.requests.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Waits until `find` returns a value for the recorded requests. Tests put a deadline around it.
    pub async fn wait_for<T>(&self, mut find: impl FnMut(&[RecordedRequest]) -> Option<T>) -> T {
        let mut count = self.recorder.count.subscribe();
        loop {
            count.borrow_and_update();
            if let Some(found) = find(&self.requests()) {
                return found;
            }
            // the sender lives as long as `self`
            let _ = count.changed().await;
        }
    }

    /// Deletes the recorded requests.
    pub fn clear_requests(&self) {
        self.recorder.requests.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Sets the reaction to requests from now on.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        *self.recorder.behaviour.lock().unwrap_or_else(PoisonError::into_inner) = behaviour;
    }

    /// Closes the socket and every connection.
    pub async fn stop(mut self) {
        self.tasks.shutdown().await;
    }
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    recorder: Arc<Recorder>,
    handler: Arc<dyn Handler>,
) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((socket, _)) = listener.accept().await else {
            // out of file descriptors: connections that end give some back
            let _ = connections.join_next().await;
            continue;
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(socket, acceptor.clone(), recorder.clone(), handler.clone()));
    }
}

async fn connection(
    socket: TcpStream,
    acceptor: Option<TlsAcceptor>,
    recorder: Arc<Recorder>,
    handler: Arc<dyn Handler>,
) {
    // without it, small answers wait for the client's delayed acknowledgement
    let _ = socket.set_nodelay(true);
    let Some(acceptor) = acceptor else { return serve(socket, recorder, handler).await };
    if let Ok(Ok(socket)) = tokio::time::timeout(HANDSHAKE_DEADLINE, acceptor.accept(socket)).await {
        serve(socket, recorder, handler).await;
    }
}

async fn serve<S>(socket: S, recorder: Arc<Recorder>, handler: Arc<dyn Handler>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| handle(request, recorder.clone(), handler.clone()));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new());
    server.http2().timer(TokioTimer::new());
    // an error here means that the client disconnected
    let _ = server.serve_connection(TokioIo::new(socket), service).await;
}

/// Closes the connection without an answer.
#[derive(Debug, thiserror::Error)]
#[error("the emulator closes the connection")]
struct Disconnected;

async fn handle(
    request: Request<Incoming>,
    recorder: Arc<Recorder>,
    handler: Arc<dyn Handler>,
) -> Result<Response<Body>, Disconnected> {
    let (head, body) = request.into_parts();
    let body = read_bounded(body, BODY_LIMIT, BODY_DEADLINE).await;
    let whole = body.is_ok();
    let body = body.unwrap_or_default();
    recorder.record(RecordedRequest {
        method: head.method.clone(),
        path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
        version: head.version,
        headers: head.headers.clone(),
        body: body.slice(..body.len().min(RECORDED_BODY)),
        body_length: body.len(),
    });
    if !whole {
        return Err(Disconnected);
    }
    let behaviour = *recorder.behaviour.lock().unwrap_or_else(PoisonError::into_inner);
    match behaviour {
        Behaviour::Up => {}
        Behaviour::Fail(status) => return Ok(respond(status, "text/plain", Bytes::new())),
        Behaviour::Slow(wait) => tokio::time::sleep(wait).await,
        Behaviour::Disconnect => return Err(Disconnected),
    }
    let call = ReceivedRequest { method: head.method, path: head.uri.path().to_owned(), headers: head.headers, body };
    Ok(handler.handle(call).await)
}

impl Recorder {
    fn record(&self, request: RecordedRequest) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() == RECORDED_REQUESTS {
            requests.pop_front();
        }
        requests.push_back(request);
        drop(requests);
        self.count.send_modify(|count| *count += 1);
    }
}

/// An answer with a body of this type.
pub(crate) fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::Full(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A JSON answer with the content type that Google and identity providers send.
pub(crate) fn json(status: StatusCode, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(text) => respond(status, "application/json; charset=UTF-8", text),
        Err(problem) => respond(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", problem.to_string()),
    }
}
