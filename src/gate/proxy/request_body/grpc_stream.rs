//! Client-streaming gRPC bodies: each message is checked before it is forwarded.

use std::{
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::Frame;
use tokio_util::sync::CancellationToken;

use super::{
    buffer::Buffer,
    grpc_frame::{GrpcEncoding, frame_length},
    wire,
};
use crate::{
    gate::routes::Field,
    http::{Body, BodyError},
    refusal::Refusal,
};

/// Carries the refusal of a later message from the request's stream to the response.
#[derive(Debug, Default)]
pub(in crate::gate::proxy) struct StreamViolation {
    token: CancellationToken,
    refusal: OnceLock<Refusal>,
}

impl StreamViolation {
    fn report(&self, refusal: Refusal) {
        let _ = self.refusal.set(refusal);
        self.token.cancel();
    }

    /// Waits until a message is refused.
    pub(in crate::gate::proxy) async fn wait(&self) -> Refusal {
        self.token.cancelled().await;
        self.refusal.get().cloned().unwrap_or_else(|| Refusal::malformed("rpc_malformed", "the stream is malformed"))
    }
}

/// A stream of messages. Each is checked against the permitted resource before any byte of it is forwarded.
pub(super) struct CheckedStream {
    /// The first frame, until it is forwarded.
    pub(super) first: Option<Bytes>,
    pub(super) buffer: Buffer,
    pub(super) body: Body,
    /// The fields that name the resource, and the permitted value of each.
    pub(super) fields: &'static [Field],
    pub(super) values: Box<[String]>,
    pub(super) encoding: GrpcEncoding,
    pub(super) violation: Arc<StreamViolation>,
}

impl CheckedStream {
    /// The next complete frame, checked. `None` if it has not arrived yet.
    fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let Some(length) = frame_length(self.buffer.bytes())? else { return Ok(None) };
        if self.buffer.bytes().len() < length {
            return Ok(None);
        }
        let frame = self.buffer.split_to(length);
        let message = self.encoding.message(&frame, self.buffer.budget())?;
        for (field, permitted) in self.fields.iter().zip(&self.values) {
            let value = wire::text_at(&message, &field.tags)?;
            if !value.is_empty() && value != permitted {
                let text = "a later message of the stream names another resource than the first";
                return Err(Refusal::malformed("rpc_other_resource", text));
            }
        }
        Ok(Some(frame))
    }

    fn abort(&mut self, refusal: Refusal) -> BodyError {
        let text = refusal.text.clone().into_owned();
        self.body = Body::Empty;
        self.buffer = Buffer::new(self.buffer.budget().clone());
        self.violation.report(refusal);
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
                Err(refusal) => return Poll::Ready(Some(Err(this.abort(refusal)))),
            }
            let polled = match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(polled) => polled,
            };
            match polled {
                Some(Ok(frame)) => {
                    if let Err(refusal) = this.buffer.push(&frame.into_data().unwrap_or_default()) {
                        return Poll::Ready(Some(Err(this.abort(refusal))));
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if this.buffer.bytes().is_empty() => return Poll::Ready(None),
                None => {
                    let refusal = Refusal::malformed("rpc_malformed", "the stream ends within a message");
                    return Poll::Ready(Some(Err(this.abort(refusal))));
                }
            }
        }
    }
}
