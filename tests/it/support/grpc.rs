//! gRPC as bytes: frames, the result of a call, and a connection on which a test sends exactly what it wants.
//!
//! It shares no code with the gate's gRPC reader.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{sync::mpsc, task::JoinSet};

use super::{DEADLINE, call::Connector};

/// Status codes of gRPC.
pub(crate) const OK: u32 = 0;
pub(crate) const PERMISSION_DENIED: u32 = 7;

/// A message as it travels: not compressed, its length, its bytes.
pub(crate) fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len().try_into().unwrap());
    framed.put_slice(message);
    framed.freeze()
}

/// Takes whole messages off the front of what has arrived.
pub(crate) fn next_message(arrived: &mut BytesMut) -> Option<Bytes> {
    let length = arrived.get(1..5).map(|mut length| length.get_u32() as usize)?;
    assert_eq!(arrived[0], 0, "a compressed message");
    (arrived.len() >= 5 + length).then(|| {
        arrived.advance(5);
        arrived.split_to(length).freeze()
    })
}

/// A body that sends each frame when the test passes it.
pub(crate) struct FrameBody {
    frames: mpsc::Receiver<Frame<Bytes>>,
    /// The task that sends the frames; it ends with the body.
    pub(crate) teller: JoinSet<()>,
}

impl FrameBody {
    pub(crate) fn new() -> (mpsc::Sender<Frame<Bytes>>, Self) {
        let (tell, frames) = mpsc::channel(16);
        (tell, Self { frames, teller: JoinSet::new() })
    }
}

impl http_body::Body for FrameBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.frames.poll_recv(cx).map(|frame| frame.map(Ok))
    }
}

/// What a call ended with.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: StatusCode,
    /// Headers and trailers.
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Outcome {
    fn text(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// `grpc-status`; none where it is missing or no number.
    pub(crate) fn code(&self) -> Option<u32> {
        self.text("grpc-status").parse().ok()
    }

    /// `grpc-message`, without its percent-encoding.
    pub(crate) fn message(&self) -> String {
        decode(self.text("grpc-message"))
    }

    pub(crate) fn id(&self) -> String {
        self.text("x-request-id").to_owned()
    }
}

/// Without percent-escapes; what is no escape stays as it is.
fn decode(text: &str) -> String {
    // a form's decoder would take these for more
    let form = format!("message={}", text.replace('+', "%2B").replace('&', "%26"));
    url::form_urlencoded::parse(form.as_bytes()).next().map(|(_, text)| text.into_owned()).unwrap_or_default()
}

/// An HTTP/2 connection that stays open from one request to the next, for REST and gRPC alike.
pub(crate) struct Connection {
    sender: http2::SendRequest<Full<Bytes>>,
    origin: String,
    _driver: JoinSet<()>,
}

impl Connection {
    pub(crate) async fn open(door: &Connector) -> Self {
        let stream = TokioIo::new(door.connect().await);
        let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(async { drop(connection.await) });
        let origin = format!("https://localhost:{}", door.address.port());
        Self { sender, origin, _driver: driver }
    }

    /// One call with one message.
    pub(crate) async fn call(&mut self, method: &str, token: &str, message: &[u8]) -> Outcome {
        let request = Request::post(format!("{}/{method}", self.origin))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("authorization", format!("Bearer {token}"));
        self.exchange(request.body(Full::new(frame(message))).unwrap()).await
    }

    /// One request; `target` is path and query.
    pub(crate) async fn request(&mut self, method: &http::Method, target: &str, token: &str, body: &str) -> Outcome {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{target}", self.origin))
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json");
        self.exchange(request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).unwrap()).await
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Outcome {
        let exchange = async {
            let answer = self.sender.send_request(request).await.expect("the gate breaks off");
            let (mut head, body) = answer.into_parts();
            let (body, trailers) = whole(body).await;
            head.headers.extend(trailers);
            Outcome { status: head.status, headers: head.headers, body }
        };
        tokio::time::timeout(DEADLINE, exchange).await.expect("no answer")
    }
}

/// All data and the trailers.
async fn whole(mut body: Incoming) -> (Bytes, HeaderMap) {
    let mut data = BytesMut::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = body.frame().await {
        match frame.expect("the answer breaks off").into_data() {
            Ok(more) => data.extend_from_slice(&more),
            Err(frame) => trailers = frame.into_trailers().unwrap(),
        }
    }
    (data.freeze(), trailers)
}
