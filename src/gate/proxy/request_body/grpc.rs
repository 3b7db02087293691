//! gRPC calls: frames, the message that says on what, and the messages behind it.
//!
//! Promises: a call is permitted for the resource that its first message names. A method that takes one message is
//! given one. Each later message of a stream is looked at before any byte of it is forwarded, and one that names
//! another resource ends the call.

use std::{
    io::Read,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http::{HeaderMap, StatusCode, Version, header::CONTENT_TYPE};
use http_body::Frame;
use tokio_util::sync::CancellationToken;

use super::{
    MAX_BODY, Message, RequestBody, RequestHead,
    buffer::{self, Buffer, CallerBudget},
    references::NameFinder,
    wire,
};
use crate::{
    gate::routes::{Field, Matched, Payload, Route, Rpc, Streaming},
    http::{Body, BodyError},
    refusal::Refusal,
};

/// Flag and length in front of each message (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX: usize = 5;
/// The field that holds instances, in every message that has them.
const INSTANCES: u32 = 2;

/// What ends a call whose messages are not what it was permitted for.
#[derive(Debug, Default)]
pub(in crate::gate::proxy) struct StreamViolation {
    token: CancellationToken,
    why: OnceLock<Refusal>,
}

impl StreamViolation {
    fn report(&self, why: Refusal) {
        let _ = self.why.set(why);
        self.token.cancel();
    }

    /// Waits for one.
    pub(in crate::gate::proxy) async fn wait(&self) -> Refusal {
        self.token.cancelled().await;
        self.why.get().cloned().unwrap_or_else(|| Refusal::malformed("rpc_malformed", "the stream cannot be read"))
    }
}

/// Reads as much of a call as says what it is on.
pub(super) async fn read<'r>(rpc: Rpc<'r>, head: RequestHead<'_>, mut body: Body) -> Result<RequestBody<'r>, Refusal> {
    check_grpc_head(head)?;
    let encoding = GrpcEncoding::of(head.headers)?;
    if rpc.streaming() == Streaming::Bidi {
        let first = tokio::time::timeout(buffer::DEADLINE, first_frame(&mut body, head.caller));
        let (frame, buffer) = first.await.map_err(|_| buffer::too_slow())??;
        let (found, values, mut content) = read_first_message(rpc, encoding, &frame, buffer.budget())?;
        let violation = Arc::new(StreamViolation::default());
        let checked = CheckedStream {
            first: Some(frame),
            buffer,
            body,
            fields: rpc.fields(),
            values: values.into(),
            encoding,
            violation: violation.clone(),
        };
        content.violation = Some(violation);
        return Ok(content.with(found, Body::Boxed(Box::pin(checked)), None));
    }
    let bytes = buffer::read_whole(body, MAX_BODY + PREFIX, head.caller).await?;
    match length(&bytes)? {
        Some(length) if length == bytes.len() => {}
        Some(length) if length < bytes.len() => {
            return Err(Refusal::malformed("rpc_malformed", "this method takes one message, and there are more"));
        }
        _ => return Err(no_message()),
    }
    let (found, _, content) = read_first_message(rpc, encoding, &bytes, &CallerBudget::of(head.caller))?;
    let size = Some(bytes.len() as u64);
    Ok(content.with(found, bytes.into(), size))
}

/// What is known of a call by its first message.
#[derive(Default)]
struct FirstMessage {
    named: Option<crate::gate::policy::Named>,
    instances: Option<u64>,
    message: Option<Message>,
    violation: Option<Arc<StreamViolation>>,
}

impl FirstMessage {
    fn with(self, found: Matched<'_>, body: Body, size: Option<u64>) -> RequestBody<'_> {
        let Self { named, instances, message, violation } = self;
        RequestBody { found, body, size, named, instances, message, violation }
    }
}

fn read_first_message<'r>(
    rpc: Rpc<'r>,
    encoding: GrpcEncoding,
    frame: &Bytes,
    budget: &Arc<CallerBudget>,
) -> Result<(Matched<'r>, Vec<String>, FirstMessage), Refusal> {
    let message = encoding.message(frame, budget)?;
    let values = rpc.fields().iter().map(|field| wire::text_at(&message, &field.tags).map(str::to_owned));
    let values = values.collect::<Result<Vec<_>, _>>()?;
    let found = rpc.matched(&values)?;
    let mut names = NameFinder::default();
    wire::scan(&message, &mut names)?;
    let counted = matches!(found.route, Route::Vertex { payload: Payload::Counted(_), .. });
    let instances = counted.then(|| wire::count(&message, INSTANCES));
    let opened = FirstMessage {
        named: Some(names.found()?),
        instances,
        message: Some(Message::Grpc(message)),
        ..FirstMessage::default()
    };
    Ok((found, values, opened))
}

/// Whether the call is what gRPC over HTTP/2 is.
fn check_grpc_head(head: RequestHead<'_>) -> Result<(), Refusal> {
    if head.version != Version::HTTP_2 {
        let text = "gRPC needs HTTP/2; ask the gate for it by ALPN on a TLS listener";
        return Err(Refusal::new(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "rpc_needs_http2", text));
    }
    if !is_grpc(head.headers) {
        let text = "send `content-type: application/grpc`: this path is a gRPC method";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_grpc", text));
    }
    grpc_timeout(head.headers).map(drop)
}

/// Whether these headers are of a gRPC call with protobuf messages.
pub(in crate::gate::proxy) fn is_grpc(headers: &HeaderMap) -> bool {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let kind = kinds.next().and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    matches!(kind, "application/grpc" | "application/grpc+proto") && kinds.next().is_none()
}

/// How long the caller waits ("Timeout": at most eight digits and a unit); no bound where it does not say.
pub(in crate::gate::proxy) fn grpc_timeout(headers: &HeaderMap) -> Result<Duration, Refusal> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(Duration::MAX) };
    let bad = || Refusal::malformed("rpc_timeout", "grpc-timeout is at most eight digits and one of HMSmun");
    let text = value.to_str().map_err(|_| bad())?;
    let (digits, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(bad)?;
    let number: u32 = digits.parse().ok().filter(|_| digits.len() <= 8 && !digits.starts_with('+')).ok_or_else(bad)?;
    Ok(match unit {
        "H" => Duration::from_secs(3600) * number,
        "M" => Duration::from_secs(60) * number,
        "S" => Duration::from_secs(1) * number,
        "m" => Duration::from_millis(1) * number,
        "u" => Duration::from_micros(1) * number,
        "n" => Duration::from_nanos(1) * number,
        _ => return Err(bad()),
    })
}

/// How messages whose flag says so are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcEncoding {
    Identity,
    Gzip,
}

impl GrpcEncoding {
    fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut codings = headers.get_all("grpc-encoding").iter().map(|value| value.as_bytes());
        match (codings.next(), codings.next()) {
            (None | Some(b"identity"), None) => Ok(Self::Identity),
            (Some(b"gzip"), None) => Ok(Self::Gzip),
            _ => {
                let text = "messages must be plain or compressed with gzip: the gate reads what they are for";
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "rpc_encoding", text))
            }
        }
    }

    /// The message of a whole frame.
    pub(super) fn message(self, frame: &Bytes, budget: &Arc<CallerBudget>) -> Result<Bytes, Refusal> {
        let payload = frame.slice(PREFIX.min(frame.len())..);
        match (frame.first(), self) {
            (Some(0), _) => Ok(payload),
            (Some(1), Self::Gzip) => {
                let mut plain = Buffer::new(budget.clone());
                let mut decoder = GzDecoder::new(&*payload);
                let mut chunk = vec![0; 16 << 10];
                loop {
                    let read = decoder
                        .read(&mut chunk)
                        .map_err(|_| Refusal::malformed("rpc_malformed", "the message is not compressed as it says"))?;
                    if read == 0 {
                        // RFC 1952 section 2.2: another member may follow, and readers differ in whether they read it
                        let more = !decoder.get_ref().is_empty();
                        return if more { Err(more_behind()) } else { Ok(plain.into_bytes()) };
                    }
                    if plain.bytes().len() + read > MAX_BODY {
                        return Err(too_large());
                    }
                    plain.push(chunk.get(..read).unwrap_or_default())?;
                }
            }
            _ => Err(Refusal::malformed("rpc_malformed", "a message is compressed and the call does not say how")),
        }
    }
}

/// The length of the frame that begins here, once its prefix is there.
fn length(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let Some(&[_, a, b, c, d]) = bytes.first_chunk::<PREFIX>() else { return Ok(None) };
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > MAX_BODY { Err(too_large()) } else { Ok(Some(PREFIX + length)) }
}

fn too_large() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the message is larger than 10 MiB")
}

fn more_behind() -> Refusal {
    Refusal::malformed("rpc_malformed", "there is something behind the compressed message")
}

fn no_message() -> Refusal {
    Refusal::malformed("rpc_malformed", "the call ends before its first message does")
}

/// The first frame of a stream, and what came behind it.
async fn first_frame(body: &mut Body, caller: &Arc<str>) -> Result<(Bytes, Buffer), Refusal> {
    let mut buffer = Buffer::new(CallerBudget::of(caller));
    loop {
        if let Some(length) = length(buffer.bytes())?
            && buffer.bytes().len() >= length
        {
            return Ok((buffer.split_to(length), buffer));
        }
        let data = buffer::next_data(body).await?.ok_or_else(no_message)?;
        buffer.push(&data)?;
    }
}

/// The messages of a stream, each looked at before it goes on.
struct CheckedStream {
    first: Option<Bytes>,
    buffer: Buffer,
    body: Body,
    fields: &'static [Field],
    values: Box<[String]>,
    encoding: GrpcEncoding,
    violation: Arc<StreamViolation>,
}

impl CheckedStream {
    /// The next whole message that came, if it may go on.
    fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let Some(length) = length(self.buffer.bytes())? else { return Ok(None) };
        if self.buffer.bytes().len() < length {
            return Ok(None);
        }
        let frame = self.buffer.split_to(length);
        let message = self.encoding.message(&frame, self.buffer.budget())?;
        for (field, permitted) in self.fields.iter().zip(&self.values) {
            let named = wire::text_at(&message, &field.tags)?;
            if !named.is_empty() && named != permitted {
                let text = "a later message of the stream names another resource than the first";
                return Err(Refusal::malformed("rpc_other_resource", text));
            }
        }
        Ok(Some(frame))
    }

    fn break_off(&mut self, why: Refusal) -> BodyError {
        let text = why.text.clone().into_owned();
        self.body = Body::Empty;
        self.buffer = Buffer::new(self.buffer.budget().clone());
        self.violation.report(why);
        text.into()
    }
}

impl http_body::Body for CheckedStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(first) = this.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            match this.next() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(Frame::data(frame)))),
                Ok(None) => {}
                Err(why) => return Poll::Ready(Some(Err(this.break_off(why)))),
            }
            let came = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(came) => came,
            };
            match came {
                Some(Ok(frame)) => {
                    if let Err(why) = this.buffer.push(&frame.into_data().unwrap_or_default()) {
                        return Poll::Ready(Some(Err(this.break_off(why))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if this.buffer.bytes().is_empty() => return Poll::Ready(None),
                None => {
                    let why = Refusal::malformed("rpc_malformed", "the stream ends within a message");
                    return Poll::Ready(Some(Err(this.break_off(why))));
                }
            }
        }
    }
}
