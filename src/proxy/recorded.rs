//! What closes a request's record: the response's body, when its last byte has left or the client has gone. It holds
//! the record from the beginning, so that a client that leaves before its answer leaves a record too.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use http_body::{Body as _, Frame, SizeHint};
use tokio::time::Sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::{Gate, Metrics};
use crate::{
    audit::{Log, Record, cut},
    clock::Timestamp,
    http::{Body, BodyError},
    peer::Peer,
    principal::Principal,
    routes::Terms,
};

/// The end of a model's answer, in which it names itself.
const TRAIL_BYTES: usize = 4096;

/// What a request is answered with, before its record takes hold of it.
pub(super) struct Answer {
    pub(super) response: Response<Body>,
    pub(super) trail: Trail,
    pub(super) bound: Option<Bound>,
}

/// What an open stream stands on: it ends with its principal's proof, and with its connection's certificate. Holding
/// the principal tells `identity` that somebody stands on it, so that an issuer which has to be asked is asked again.
pub(super) struct Bound {
    principal: Arc<Principal>,
    lapsed: CancellationToken,
}

impl From<Response<Body>> for Answer {
    fn from(response: Response<Body>) -> Self {
        Self { response, trail: Trail::None, bound: None }
    }
}

impl Answer {
    /// Ends the answer with the principal's proof and the peer's certificate, where it is a stream and its route wants
    /// that. An answer whose length is known is finite: it may come to its end.
    pub(super) fn bounded(mut self, terms: Terms, principal: &Arc<Principal>, peer: &Peer) -> Self {
        if terms.end_streams && self.response.body().size_hint().exact().is_none() {
            self.bound = Some(Bound { principal: principal.clone(), lapsed: peer.lapsed.clone() });
        }
        self
    }
}

/// What of the body is kept for the record.
pub(super) enum Trail {
    /// Nothing.
    None,
    /// The last bytes of an answer that names its model.
    Model(Vec<u8>),
}

impl Trail {
    pub(super) fn model() -> Self {
        Self::Model(Vec::new())
    }

    fn keep(&mut self, data: &[u8]) {
        let Self::Model(kept) = self else { return };
        let last = data.get(data.len().saturating_sub(TRAIL_BYTES)..).unwrap_or_default();
        let excess = (kept.len() + last.len()).saturating_sub(TRAIL_BYTES);
        kept.drain(..excess.min(kept.len()));
        kept.extend_from_slice(last);
    }
}

/// A body and the record that it closes; before there is an answer, the record alone.
pub struct Recorded {
    pub(super) record: Box<Record>,
    body: Body,
    bytes_out: u64,
    trail: Trail,
    closed: bool,
    end: Option<Box<End>>,
    audit: Arc<Log>,
    metrics: Arc<Metrics>,
}

impl Recorded {
    /// Holds the record of a request whose story begins. hyper drops the story where it stands when the client leaves.
    pub(super) fn open(record: Record, gate: &Gate) -> Self {
        let (audit, metrics) = (gate.audit.clone(), gate.metrics.clone());
        let record = Box::new(record);
        Self { record, body: Body::Empty, bytes_out: 0, trail: Trail::None, closed: false, end: None, audit, metrics }
    }

    /// Takes the answer's body along.
    pub(super) fn answer(mut self, answer: Answer, now: Timestamp) -> Response<Self> {
        let Answer { response, trail, bound } = answer;
        self.record.status = Some(response.status());
        self.trail = trail;
        let grpc = response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        self.end = bound.map(|bound| Box::new(End::new(bound, grpc, now)));
        response.map(|body| {
            self.body = body;
            self
        })
    }

    fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        if let Trail::Model(end) = &self.trail {
            name_model(&mut self.record, end);
        }
        self.audit.close(&self.record, self.bytes_out);
        self.metrics.request(&self.record, self.bytes_out);
    }
}

impl http_body::Body for Recorded {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(end) = this.end.as_mut()
            && let Poll::Ready(reason) = end.poll(cx)
        {
            let last = end.last_frame();
            this.record.reason = Some(reason);
            // dropping it closes the upstream's side
            this.body = Body::Empty;
            this.end = None;
            this.close();
            return Poll::Ready(Some(last));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes_out += data.len() as u64;
                    self.trail.keep(data);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                self.record.reason = Some("upstream_broke_off");
                self.record.keep_detail(&error.to_string());
                self.close();
            }
            Poll::Ready(None) => self.close(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Recorded {
    /// hyper does not ask for the end of a body whose length it knows, and a client may walk away.
    fn drop(&mut self) {
        let unanswered = self.record.status.is_none() || !self.body.is_end_stream();
        if unanswered && self.record.reason.is_none() {
            self.record.reason = Some("client_gone");
        }
        self.close();
    }
}

/// Waits for the end of what an open stream stands on.
struct End {
    until: Pin<Box<Sleep>>,
    ended: Pin<Box<WaitForCancellationFutureOwned>>,
    lapsed: Pin<Box<WaitForCancellationFutureOwned>>,
    grpc: bool,
    _principal: Arc<Principal>,
}

impl End {
    fn new(Bound { principal, lapsed }: Bound, grpc: bool, now: Timestamp) -> Self {
        let left = principal.until.duration_since(now).try_into().unwrap_or_default();
        let until = Box::pin(tokio::time::sleep(left));
        let (ended, lapsed) = (principal.ended.clone().cancelled_owned(), lapsed.cancelled_owned());
        Self { until, ended: Box::pin(ended), lapsed: Box::pin(lapsed), grpc, _principal: principal }
    }

    /// Ready with the record's reason once the stream must end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        if self.ended.as_mut().poll(cx).is_ready() {
            return Poll::Ready("proof_withdrawn");
        }
        if self.lapsed.as_mut().poll(cx).is_ready() {
            return Poll::Ready("certificate_lapsed");
        }
        self.until.as_mut().poll(cx).map(|()| "proof_expired")
    }

    /// A gRPC stream ends with a status (`UNAUTHENTICATED`, 16); every other is broken off, so that nobody takes it for
    /// whole.
    fn last_frame(&self) -> Result<Frame<Bytes>, BodyError> {
        if !self.grpc {
            return Err("the proof that this stream stood on has ended".into());
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("16"));
        trailers.insert(
            "grpc-message",
            HeaderValue::from_static("the proof of who you are has ended; come back with a new one"),
        );
        Ok(Frame::trailers(trailers))
    }
}

/// Reads model and version off the end of an answer: PredictResponse of Vertex AI v1 has `model` and `modelVersionId`,
/// GenerateContentResponse has `modelVersion`.
fn name_model(record: &mut Record, end: &[u8]) {
    let end = String::from_utf8_lossy(end);
    let member = |name: &str| {
        let at = end.rfind(&format!("\"{name}\""))?;
        let value = end.get(at + name.len() + 2..)?.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
        value.split_once('"').map(|(value, _)| cut(value))
    };
    if let Some(model) = member("model").or_else(|| member("deployedModelId")) {
        record.model = Some(model);
    }
    if let Some(version) = member("modelVersionId").or_else(|| member("modelVersion")) {
        record.model_version = Some(version);
    }
}
