//! HTTP types that every module shares: the body type, bounded reads of bodies, media types, and the trait of local
//! services.
//!
//! Promises: every read of a whole body has a limit of bytes and a deadline. Media types are parsed here and nowhere else.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use mediatype::MediaType;
pub(crate) use mediatype::ReadParams;

use crate::{principal::Caller, refusal::Refusal};

/// Any error a body can end with.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// A boxed future, for traits and fields that take several future types.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The body of a request or a response.
#[derive(Default)]
pub enum Body {
    /// No bytes.
    #[default]
    Empty,
    /// All bytes at once.
    Full(Bytes),
    /// Bytes as they arrive from the network.
    Stream(Incoming),
    /// A request's bytes as they arrive from the network, counted for the audit record. Trailers are dropped: they are
    /// headers that no check has read.
    Counted(Incoming, Arc<AtomicU64>),
    /// Another body, wrapped: its bytes are inspected or changed in transit.
    Boxed(BoxedBody),
}

/// A body of a type that is erased.
pub(crate) type BoxedBody = Pin<Box<dyn http_body::Body<Data = Bytes, Error = BodyError> + Send>>;

impl Body {
    /// A wrapper around another body.
    pub(crate) fn boxed(body: impl http_body::Body<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        Self::Boxed(Box::pin(body))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Stream(_) => "Stream",
            Self::Counted(..) => "Counted",
            Self::Boxed(_) => "Boxed",
        };
        write!(f, "Body::{kind}({:?})", self.size_hint())
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Stream(incoming) => Pin::new(incoming).poll_frame(cx).map_err(Into::into),
            Self::Boxed(boxed) => boxed.as_mut().poll_frame(cx),
            Self::Counted(incoming, count) => {
                let frame = ready!(Pin::new(incoming).poll_frame(cx)).transpose()?;
                let data = frame.and_then(|frame| frame.into_data().ok());
                if let Some(data) = &data {
                    count.fetch_add(data.len() as u64, Ordering::Relaxed);
                }
                Poll::Ready(data.map(|data| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Stream(incoming) | Self::Counted(incoming, _) => incoming.is_end_stream(),
            Self::Boxed(boxed) => boxed.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(incoming) | Self::Counted(incoming, _) => incoming.size_hint(),
            Self::Boxed(boxed) => boxed.size_hint(),
        }
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Full(bytes)
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Self::Full(text.into())
    }
}

/// An error of [`read_bounded`].
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message says it")]
pub enum ReadError {
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the body did not arrive within {0:?}")]
    TooSlow(Duration),
    #[error("the body broke off")]
    Broken(#[source] BodyError),
}

impl From<ReadError> for Refusal {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::TooLarge(_) => Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", error.to_string()),
            ReadError::TooSlow(_) => Self::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", error.to_string()),
            ReadError::Broken(cause) => Self::malformed("body_broken", error.to_string()).with_detail(cause),
        }
    }
}

/// Reads a body of at most `limit` bytes within `deadline`.
///
/// # Errors
/// If the body is larger or slower, or breaks off. A declared length over the limit is refused before any byte is read.
pub async fn read_bounded<B>(body: B, limit: usize, deadline: Duration) -> Result<Bytes, ReadError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge(limit));
    }
    tokio::time::timeout(deadline, read_up_to(body, limit)).await.map_err(|_| ReadError::TooSlow(deadline))?
}

async fn read_up_to<B>(mut body: B, limit: usize) -> Result<Bytes, ReadError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BodyError>,
{
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|e| ReadError::Broken(e.into()))?.into_data() else { continue };
        if first.len() + rest.len() + data.len() > limit {
            return Err(ReadError::TooLarge(limit));
        }
        if first.is_empty() {
            first = data;
        } else {
            rest.extend_from_slice(&data);
        }
    }
    if rest.is_empty() {
        return Ok(first);
    }
    let mut whole = BytesMut::with_capacity(first.len() + rest.len());
    whole.extend_from_slice(&first);
    whole.extend_from_slice(&rest);
    Ok(whole.freeze())
}

/// A service inside the gate: remote write, predictions. It is called only with a permit; `caller` is its principal.
pub trait LocalService: Send + Sync {
    /// Answers one permitted request, or refuses it.
    fn serve<'a>(&'a self, caller: Caller, request: Request<Body>) -> BoxFuture<'a, Result<Response<Body>, Refusal>>;
}

/// Length of the flag and length in front of each gRPC message (gRPC over HTTP/2, "Length-Prefixed-Message").
pub(crate) const FRAME_PREFIX: usize = 5;

/// The flag of a gRPC message (1 if it is compressed) and its length in bytes.
pub(crate) fn frame_prefix([flag, length @ ..]: [u8; FRAME_PREFIX]) -> (u8, usize) {
    (flag, usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX))
}

/// The first `Content-Type` of a message; empty if there is none or if it is not ASCII.
pub(crate) fn content_type(headers: &HeaderMap) -> &str {
    headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// Parses a `Content-Type`, or one element of `Accept` (RFC 9110 section 8.3.1). `None` if it is malformed. Names of
/// types and parameters compare without case.
pub(crate) fn media_type(value: &str) -> Option<MediaType<'_>> {
    MediaType::parse(value.trim()).ok()
}

/// Whether `value` is the media type `essence`, such as `application/json`, with any parameters.
pub(crate) fn is_media_type(value: &str, essence: &str) -> bool {
    media_type(value).is_some_and(|media| media_type(essence).is_some_and(|essence| media.essence() == essence))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;
    use hyper::{client::conn::http2 as client, server::conn::http2 as server, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};

    use super::*;

    type Frames = Vec<Frame<Bytes>>;

    async fn frames(mut body: impl http_body::Body<Data = Bytes, Error = BodyError> + Unpin) -> Frames {
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap());
        }
        frames
    }

    #[test]
    fn a_media_type_is_compared_without_case_and_parameters() {
        let check = |value: &str, essence: &str, expected: bool| {
            assert_eq!(is_media_type(value, essence), expected, "{value} {essence}");
        };
        for value in [
            "application/json",
            "Application/JSON",
            "application/json; charset=UTF-8",
            "application/json ; charset=\"utf-8\"",
            "application/json;",
            " application/json ",
        ] {
            check(value, "application/json", true);
        }
        for value in
            ["", "json", "application/json5", "application/json, text/plain", "application/a+json", "text/plain"]
        {
            check(value, "application/json", false);
        }
        check("application/grpc+proto", "application/grpc+proto", true);
        check("application/grpc+proto", "application/grpc", false);
    }

    #[tokio::test]
    async fn trailers_of_a_request_go_no_further() {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (seen, mut frames_seen) = tokio::sync::mpsc::channel(1);
        let answer = service_fn(move |request: Request<Incoming>| {
            let seen = seen.clone();
            async move {
                let count = Arc::new(AtomicU64::new(0));
                let found = frames(Body::Counted(request.into_body(), count.clone())).await;
                seen.send((found, count.load(Ordering::Relaxed))).await.unwrap();
                Ok::<_, BodyError>(Response::new(Body::Empty))
            }
        });
        let serving = server::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(theirs), answer);
        let (mut sender, driver) = client::handshake(TokioExecutor::new(), TokioIo::new(ours)).await.unwrap();
        let trailers = http::HeaderMap::from_iter([("x-forwarded-user".parse().unwrap(), "forged".parse().unwrap())]);
        let body = Full::new(Bytes::from_static(b"abc")).with_trailers(std::future::ready(Some(Ok(trailers))));
        let request = Request::post("http://gate.test/").body(body).unwrap();
        // what is left of the answer would keep the connection open
        let exchange = async move { sender.send_request(request).await.map(drop) };
        let (answered, _, _) = tokio::join!(exchange, serving, driver);
        answered.unwrap();
        let (found, count) = frames_seen.recv().await.unwrap();
        assert!(found.iter().all(Frame::is_data), "{found:?}");
        assert_eq!((found.len(), count), (1, 3));
    }
}
