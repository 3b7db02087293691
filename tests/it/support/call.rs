//! One HTTP exchange on a connection of its own, so that no earlier exchange affects it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, pki_types::ServerName};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use wicketgate::internals::read_bounded;

use super::DEADLINE;

/// Either kind of connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A whole response.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The header's value, or "" where there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {self:?}"))
    }

    /// The request id that the gate gave this exchange.
    pub(crate) fn id(&self) -> String {
        let id = self.header("x-request-id").to_owned();
        assert!(!id.is_empty(), "no x-request-id: {self:?}");
        id
    }
}

/// Where a request goes and how the connection is secured.
#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) address: SocketAddr,
    /// In clear where there is none.
    pub(crate) tls: Option<Arc<ClientConfig>>,
}

impl Connector {
    pub(crate) async fn connect(&self) -> Box<dyn Stream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let connector = tokio_rustls::TlsConnector::from(Arc::clone(config));
                let name = ServerName::try_from("localhost").unwrap();
                Box::new(connector.connect(name, stream).await.expect("the TLS handshake fails"))
            }
        }
    }

    /// Sends `bytes`, waits for the first of the answer, and walks away.
    pub(crate) async fn abandon(&self, bytes: &[u8]) {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        let first = tokio::time::timeout(DEADLINE, stream.read_u8()).await.expect("no answer");
        first.expect("the gate breaks off");
    }

    /// Sends `bytes` and walks away once `condition` is met, without having read anything.
    pub(crate) async fn abandon_when<T>(&self, bytes: &[u8], condition: impl Future<Output = T>) -> T {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        stream.flush().await.unwrap();
        condition.await
    }

    /// Sends `bytes` as they are and reads until the server closes: for what no HTTP library would send. The
    /// request has to say `connection: close`.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> Answer {
        let exchange = async {
            let mut stream = self.connect().await;
            // a server that has seen enough may stop reading
            let _ = stream.write_all(bytes).await;
            let mut answer = Vec::new();
            // a TLS connection may end without its goodbye
            let _ = stream.read_to_end(&mut answer).await;
            answer
        };
        let bytes = tokio::time::timeout(DEADLINE, exchange).await.expect("the connection stays open");
        parse(&bytes)
    }
}

/// Reads a response with a `content-length` or none.
fn parse(bytes: &[u8]) -> Answer {
    let text = String::from_utf8_lossy(bytes);
    let end = text.find("\r\n\r\n").unwrap_or_else(|| panic!("no response head: {text:?}"));
    let mut lines = text[..end].split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let mut headers = HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        headers.append(
            http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
            http::HeaderValue::from_str(value.trim()).unwrap(),
        );
    }
    let body = Bytes::copy_from_slice(&bytes[end + 4..]);
    Answer { status: status.expect("no status"), headers, body }
}

/// A request on its way to be sent.
pub(crate) struct Call {
    door: Connector,
    request: http::request::Builder,
    body: Bytes,
    http2: bool,
}

impl Call {
    pub(crate) fn new(door: Connector, method: Method, target: &str) -> Self {
        let request = Request::builder().method(method).uri(target);
        Self { door, request, body: Bytes::new(), http2: false }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.request = self.request.header(name, value);
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Over HTTP/2. The target must then be a whole URL.
    pub(crate) fn http2(mut self) -> Self {
        self.http2 = true;
        self
    }

    pub(crate) async fn send(self) -> Answer {
        tokio::time::timeout(DEADLINE, self.exchange()).await.expect("no answer")
    }

    async fn exchange(self) -> Answer {
        let stream = TokioIo::new(self.door.connect().await);
        let mut driver = JoinSet::new();
        let answer = if self.http2 {
            let (mut sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
            driver.spawn(connection);
            sender.send_request(self.request.body(Full::new(self.body)).unwrap()).await
        } else {
            let (mut sender, connection) = http1::handshake(stream).await.unwrap();
            driver.spawn(connection);
            let named = self.request.headers_ref().is_some_and(|headers| headers.contains_key("host"));
            let host = self.door.address.to_string();
            let request = if named { self.request } else { self.request.header("host", host) };
            sender.send_request(request.body(Full::new(self.body)).unwrap()).await
        };
        whole(answer.expect("the gate breaks off")).await
    }
}

async fn whole(answer: Response<Incoming>) -> Answer {
    let (head, body) = answer.into_parts();
    let body = read_bounded(body, 64 << 20, Duration::from_secs(60)).await.expect("the answer breaks off");
    Answer { status: head.status, headers: head.headers, body }
}
