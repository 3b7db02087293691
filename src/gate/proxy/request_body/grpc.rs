//! gRPC request bodies: the resource of a call is in its first message.
//!
//! Promises: a call is permitted for the resource that its first message names. A unary method gets exactly one message.
//! Each later message of a stream is checked before any byte of it is forwarded; one that names another resource ends the
//! call.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    body::{Message, RequestBody, RequestHead},
    buffer::{self, Buffer, CallerBudget, MAX_BODY},
    grpc_frame::{GrpcEncoding, frame_length},
    grpc_head::check_grpc_head,
    grpc_stream::{CheckedStream, StreamViolation},
    references::NameFinder,
    wire,
};
use crate::{
    gate::{
        policy::BodyNames,
        routes::{Matched, Payload, Route, Rpc, Streaming},
    },
    http::{Body, FRAME_PREFIX},
    refusal::Refusal,
};

/// The number of the field `instances`, the same in every message that has it.
const INSTANCES: u32 = 2;

/// Reads as much of a call as names its resource: the whole body of a unary call, the first message of a stream.
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
    let bytes = buffer::read_whole(body, MAX_BODY + FRAME_PREFIX, head.caller).await?;
    match frame_length(&bytes)? {
        Some(length) if length == bytes.len() => {}
        Some(length) if length < bytes.len() => {
            return Err(Refusal::malformed("rpc_malformed", "this method takes one message, but bytes follow it"));
        }
        _ => return Err(no_message()),
    }
    let (found, _, content) = read_first_message(rpc, encoding, &bytes, &CallerBudget::of(head.caller))?;
    let size = Some(bytes.len() as u64);
    Ok(content.with(found, bytes.into(), size))
}

/// What the gate learns from the first message of a call.
#[derive(Default)]
struct FirstMessage {
    named: Option<BodyNames>,
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

/// Reads until the first frame is complete. The buffer keeps the bytes that follow it.
async fn first_frame(body: &mut Body, caller: &Arc<str>) -> Result<(Bytes, Buffer), Refusal> {
    let mut buffer = Buffer::new(CallerBudget::of(caller));
    loop {
        if let Some(length) = frame_length(buffer.bytes())?
            && buffer.bytes().len() >= length
        {
            return Ok((buffer.split_to(length), buffer));
        }
        let data = buffer::next_data(body).await?.ok_or_else(no_message)?;
        buffer.push(&data)?;
    }
}

fn no_message() -> Refusal {
    Refusal::malformed("rpc_malformed", "the call ends inside its first message")
}
