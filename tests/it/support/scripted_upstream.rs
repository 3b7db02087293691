//! Both sides of a stream, frame by frame: a client and an upstream that send what the test says, when it says so.
//! HTTP/2 with gRPC framing, and plain streams.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, request::Parts};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::{body::Incoming, client::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use prost::encoding::{WireType, encode_key, encode_varint};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc, oneshot},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{DEADLINE, Gate, call::Stream};

/// A body that the test writes.
pub(crate) struct Written(mpsc::Receiver<Frame<Bytes>>);

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// The pen for such a body; dropping it ends the body.
pub(crate) struct BodyWriter(mpsc::Sender<Frame<Bytes>>);

impl BodyWriter {
    fn new() -> (Self, Written) {
        let (sender, receiver) = mpsc::channel(16);
        (Self(sender), Written(receiver))
    }

    pub(crate) async fn write(&self, data: impl Into<Bytes>) {
        let _ = self.0.send(Frame::data(data.into())).await;
    }

    /// Ends the body with trailers.
    pub(crate) async fn end(self, trailers: &[(&str, &str)]) {
        let _ = self.0.send(Frame::trailers(headers(trailers))).await;
    }
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.append(name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap());
    }
    map
}

/// A body that the test reads, one piece of data at a time.
pub(crate) struct Reader(Incoming);

impl Reader {
    /// The next data; `Err` with the trailers at the end (none where the body just ends), or where it breaks off.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Option<HeaderMap>> {
        let frame = tokio::time::timeout(DEADLINE, self.0.frame()).await.expect("nothing comes");
        match frame {
            None => Err(Some(HeaderMap::new())),
            Some(Err(_)) => Err(None),
            Some(Ok(frame)) => frame.into_data().map_err(|frame| frame.into_trailers().ok()),
        }
    }

    /// All data, and the trailers; `None` where it broke off.
    pub(crate) async fn rest(&mut self) -> (Vec<u8>, Option<HeaderMap>) {
        let mut all = Vec::new();
        loop {
            match self.next().await {
                Ok(data) => all.extend_from_slice(&data),
                Err(trailers) => return (all, trailers),
            }
        }
    }
}

/// An upstream of HTTP/1.1 and clear-text HTTP/2 that the test scripts.
pub(crate) struct ScriptedUpstream {
    pub(crate) address: SocketAddr,
    requests: Mutex<mpsc::Receiver<ForwardedRequest>>,
    count: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

/// A request that reached the scripted upstream.
pub(crate) struct ForwardedRequest {
    pub(crate) head: Parts,
    pub(crate) body: Reader,
    reply: oneshot::Sender<Response<Written>>,
}

impl ForwardedRequest {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.head.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// Answers with a head; the body follows.
    pub(crate) fn answer(self, media: &str, more: &[(&str, &str)]) -> (BodyWriter, Reader) {
        let (pen, written) = BodyWriter::new();
        let mut response = Response::new(written);
        *response.headers_mut() = headers(more);
        response.headers_mut().insert("content-type", media.parse().unwrap());
        let _ = self.reply.send(response);
        (pen, self.body)
    }
}

impl ScriptedUpstream {
    pub(crate) async fn start() -> Self {
        Self::start_with(None).await
    }

    /// With TLS, as the gate's own certificate names it: HTTP/2 if the client offers it by ALPN.
    pub(crate) async fn start_tls(directory: &Path) -> Self {
        let chain =
            CertificateDer::pem_file_iter(directory.join("certs/gate.pem")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(directory.join("certs/gate.key")).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Self::start_with(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start_with(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (requests, receiver) = mpsc::channel(16);
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let requests = requests.clone();
                let counted = counted.clone();
                let tls = tls.clone();
                open.spawn(async move {
                    let Some(tls) = tls else { return serve(stream, requests, counted).await };
                    if let Ok(stream) = tls.accept(stream).await {
                        assert!(stream.get_ref().1.alpn_protocol().is_some(), "no ALPN");
                        serve(stream, requests, counted).await;
                    }
                });
            }
        });
        Self { address, requests: Mutex::new(receiver), count, _tasks: tasks }
    }

    /// The section of the configuration that puts Vertex here.
    pub(crate) fn section(&self) -> String {
        format!("[vertex]\nlocations = [\"us-central1\"]\nurl = \"http://{}\"", self.address)
    }

    /// The next request that reaches it.
    pub(crate) async fn next_request(&self) -> ForwardedRequest {
        let next = async { self.requests.lock().await.recv().await.unwrap() };
        tokio::time::timeout(DEADLINE, next).await.expect("no request reached the upstream")
    }

    /// How many requests have reached it.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }
}

async fn serve(stream: impl Stream + 'static, requests: mpsc::Sender<ForwardedRequest>, counted: Arc<AtomicUsize>) {
    let service = service_fn(|request| converse(request, requests.clone(), counted.clone()));
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

async fn converse(
    request: Request<Incoming>,
    requests: mpsc::Sender<ForwardedRequest>,
    count: Arc<AtomicUsize>,
) -> Result<Response<Written>, &'static str> {
    count.fetch_add(1, Ordering::SeqCst);
    let (head, body) = request.into_parts();
    let (reply, answer) = oneshot::channel();
    let _ = requests.send(ForwardedRequest { head, body: Reader(body), reply }).await;
    answer.await.map_err(|_| "the test hung up")
}

/// A connection of HTTP/2 to the gate.
pub(crate) struct Line {
    sender: http2::SendRequest<Written>,
    authority: String,
    _driver: JoinSet<()>,
}

/// A call that the client has begun.
pub(crate) struct Open {
    pub(crate) pen: Option<BodyWriter>,
    answer: Pin<Box<dyn Future<Output = hyper::Result<Response<Incoming>>> + Send>>,
}

/// What a call was answered with.
#[derive(Debug)]
pub(crate) struct CommandOutput {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) data: Vec<u8>,
    pub(crate) trailers: HeaderMap,
}

impl CommandOutput {
    /// The gRPC status, from the trailers or from a head that is all there is.
    pub(crate) fn code(&self) -> u16 {
        let value = self.trailers.get("grpc-status").or(self.headers.get("grpc-status"));
        value.unwrap_or_else(|| panic!("no grpc-status: {self:?}")).to_str().unwrap().parse().unwrap()
    }

    pub(crate) fn id(&self) -> String {
        self.headers["x-request-id"].to_str().unwrap().to_owned()
    }
}

impl Line {
    pub(crate) async fn open(gate: &Gate) -> Self {
        let door = gate.door(0, b"h2");
        let stream = TokioIo::new(door.connect().await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            let _ = connection.await;
        });
        Self { sender, authority: door.address.to_string(), _driver: driver }
    }

    /// Begins a POST; nothing of its body is sent yet.
    pub(crate) fn post(&mut self, path: &str, token: &str, more: &[(&str, &str)]) -> Open {
        let (pen, written) = BodyWriter::new();
        let mut request = Request::new(written);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = format!("https://{}{path}", self.authority).parse().unwrap();
        *request.headers_mut() = headers(more);
        if !token.is_empty() {
            request.headers_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        Open { pen: Some(pen), answer: Box::pin(self.sender.send_request(request)) }
    }

    /// Begins a gRPC call.
    pub(crate) fn call(&mut self, path: &str, token: &str, more: &[(&str, &str)]) -> Open {
        let mut headers = vec![("content-type", "application/grpc"), ("te", "trailers")];
        headers.extend(more);
        self.post(path, token, &headers)
    }

    /// A call of one message, to its end.
    pub(crate) async fn unary(
        &mut self,
        path: &str,
        token: &str,
        more: &[(&str, &str)],
        frames: &[u8],
    ) -> CommandOutput {
        let mut open = self.call(path, token, more);
        open.write(frames.to_vec()).await;
        open.pen = None;
        open.said().await
    }
}

impl Open {
    pub(crate) async fn write(&self, data: impl Into<Bytes>) {
        self.pen.as_ref().unwrap().write(data).await;
    }

    /// The answer's head, and its body as it comes.
    pub(crate) async fn head(&mut self) -> (Response<()>, Reader) {
        let answer = tokio::time::timeout(DEADLINE, &mut self.answer).await.expect("no answer");
        let (head, body) = answer.expect("the gate breaks off").into_parts();
        (Response::from_parts(head, ()), Reader(body))
    }

    /// The whole answer.
    pub(crate) async fn said(&mut self) -> CommandOutput {
        let (head, mut body) = self.head().await;
        let (data, trailers) = body.rest().await;
        let trailers = trailers.expect("the answer breaks off");
        CommandOutput { status: head.status(), headers: head.headers().clone(), data, trailers }
    }
}

/// A message of these fields, each of them text or a message.
pub(crate) fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, payload) in fields {
        encode_key(*tag, WireType::LengthDelimited, &mut bytes);
        encode_varint(payload.len() as u64, &mut bytes);
        bytes.extend_from_slice(payload);
    }
    bytes
}

/// A message in its frame.
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    framed(0, message)
}

/// A frame with this flag.
pub(crate) fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![flag];
    bytes.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    bytes
}
