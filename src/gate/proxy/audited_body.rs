//! The response body that closes the audit record when its last byte has left or the client has disconnected.
//!
//! Promises: each request leaves one record. The body owns the record from the start of the request, so that a client that
//! disconnects before the response leaves one too.

use std::{
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{
    Method, Response,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use http_body::{Body as _, Frame, SizeHint};

use super::{
    answer::Answer, gate::Gate, grpc_status::grpc_status, guardrails::FilterError, headers::strip_response_headers,
    metrics::Metrics, response_usage::ResponseUsage, stream_end::StreamEnd,
};
use crate::{
    clock::Timestamp,
    gate::{
        audit::{Log, Record},
        limits::Reservation,
    },
    http::{Body, BodyError},
};

/// The estimate if a response reports no token count: about four characters of text (Google's documentation).
const BYTES_PER_TOKEN: u64 = 4;

/// The response to HEAD: no content, but the length of the content that GET would return (RFC 9110 section 9.3.2). hyper
/// does this for HTTP/1.1 only; an HTTP/2 client treats content after HEAD as a connection error.
fn without_content(response: Response<Body>) -> Response<Body> {
    let (mut head, body) = response.into_parts();
    if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
        head.headers.entry(CONTENT_LENGTH).or_insert(length.into());
    }
    Response::from_parts(head, Body::Empty)
}

/// A response body with the record that it closes. Until the response exists, the body is empty.
pub(crate) struct AuditedBody {
    pub(super) record: Box<Record>,
    /// What the request reserved of its limits. Empty after the record is closed.
    pub(super) reservation: Reservation,
    body: Body,
    bytes_out: u64,
    response_usage: ResponseUsage,
    closed: bool,
    end: Option<StreamEnd>,
    audit: Arc<Log>,
    metrics: Arc<Metrics>,
}

impl AuditedBody {
    /// Takes the record when the request starts. If the client disconnects, hyper drops the request's future and this with it.
    pub(super) fn open(record: Record, gate: &Gate) -> Self {
        let audit = gate.audit.clone();
        let metrics = gate.metrics.clone();
        let record = Box::new(record);
        let reservation = Reservation::default();
        Self {
            record,
            reservation,
            body: Body::Empty,
            bytes_out: 0,
            response_usage: ResponseUsage::None,
            closed: false,
            end: None,
            audit,
            metrics,
        }
    }

    /// Moves the answer's body into this one.
    pub(super) fn into_response(mut self, answer: Answer, now: Timestamp) -> Response<Self> {
        let Answer { response, response_usage, lifetime, .. } = answer;
        self.record.status = Some(response.status());
        self.response_usage = response_usage;
        let grpc = response.headers().get(CONTENT_TYPE).is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"));
        self.record.grpc_status = grpc_status(response.headers());
        self.end = lifetime.map(|lifetime| lifetime.into_end(grpc, now));
        if self.record.method == Method::HEAD { without_content(response) } else { response }.map(|body| {
            self.body = body;
            self
        })
    }

    fn close(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.response_usage.record(&mut self.record);
        self.settle();
        self.audit.close(&self.record, self.bytes_out);
        self.metrics.request(&self.record, self.bytes_out);
    }
}

impl AuditedBody {
    /// Settles the reservation of a refused request: its request bytes count, and no tokens do.
    pub(super) fn settle_refused(&mut self) {
        std::mem::take(&mut self.reservation).charge_request_bytes(self.request_bytes());
    }

    /// Charges bytes and tokens, which are known only now, and releases the slot of the concurrency limit.
    fn settle(&mut self) {
        let reservation = std::mem::take(&mut self.reservation);
        reservation.charge_request_bytes(self.request_bytes());
        // a response that was cut off, or that has a format of the model's own, reports no tokens but has used some
        let not_reported = matches!(self.response_usage, ResponseUsage::None) || self.record.reason.is_some();
        // a request that the upstream refused has used no tokens
        let accepted = self.record.status.is_none_or(|status| status.is_success());
        let request_bytes = if accepted { self.request_bytes() } else { 0 };
        let estimate = not_reported.then_some(self.bytes_out.saturating_add(request_bytes) / BYTES_PER_TOKEN);
        reservation.charge_tokens(self.record.tokens.or(estimate).unwrap_or_default());
    }

    /// Bytes of the request's body that were read.
    fn request_bytes(&self) -> u64 {
        self.record.bytes_in.as_ref().map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

impl http_body::Body for AuditedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = &mut *self;
        if let Some(end) = this.end.as_mut()
            && let Poll::Ready(why) = end.poll(cx)
        {
            let last = end.last_frame(&why);
            this.record.reason = Some(why.reason);
            this.record.grpc_status = last.as_ref().ok().and_then(Frame::trailers_ref).and_then(grpc_status);
            // dropping the body closes the upstream's stream
            this.body = Body::Empty;
            this.end = None;
            this.close();
            return Poll::Ready(Some(last));
        }
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.bytes_out += data.len() as u64;
                    self.reservation.charge_response_bytes(data.len() as u64);
                    self.response_usage.read(data);
                } else if let Some(trailers) = frame.trailers_mut() {
                    strip_response_headers(trailers);
                    self.record.grpc_status = grpc_status(trailers);
                }
            }
            Poll::Ready(Some(Err(error))) => {
                self.record.reason = Some(if error.is::<FilterError>() { "guardrail" } else { "upstream_broke_off" });
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

impl Drop for AuditedBody {
    /// hyper does not poll a body of known length to its end, and a client may disconnect.
    fn drop(&mut self) {
        let incomplete = self.record.status.is_none() || !self.body.is_end_stream();
        if incomplete && self.record.reason.is_none() {
            self.record.reason = Some("client_gone");
        }
        self.close();
    }
}
