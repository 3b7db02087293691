//! Closes a streaming response when the credential that authorized it expires or is revoked.
//!
//! Promises: a stream ends when its principal's proof expires or is revoked, when its connection's client certificate
//! becomes invalid, and when a grant that it was permitted with ends. A gRPC stream ends with a status that has the reason;
//! every other stream is reset, so that a client cannot mistake it for complete.

use std::{
    future::{Future, pending, poll_fn},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;
use tokio_util::sync::CancellationToken;

use super::{grpc_status::trailers, request_body::StreamViolation};
use crate::{
    clock::Timestamp,
    gate::grants::Active,
    http::{BodyError, BoxFuture},
    peer::Peer,
    principal::Principal,
    refusal::Refusal,
};

/// The proof, certificate and grants that a stream depends on. While the principal is referenced, `identity` keeps
/// validating a remotely validated token.
pub(super) struct StreamLifetime {
    /// `None` if the route's streams outlive the proof.
    proof: Option<(Arc<Principal>, CancellationToken)>,
    /// The grants that the request was permitted with.
    grants: Box<[Arc<Active>]>,
    /// `None` if the caller's later messages are not checked.
    violation: Option<Arc<StreamViolation>>,
}

/// A future that completes when the stream must end.
pub(super) struct StreamEnd {
    over: BoxFuture<'static, Refusal>,
    grpc: bool,
}

impl StreamLifetime {
    /// `proof` is `None` if the stream outlives it; `violation` is `None` if no message can end the stream. Returns `None`
    /// if the stream depends on nothing.
    pub(super) fn new(
        proof: Option<(&Arc<Principal>, &Peer)>,
        grants: &[Arc<Active>],
        violation: Option<Arc<StreamViolation>>,
    ) -> Option<Self> {
        let proof = proof.map(|(principal, peer)| (principal.clone(), peer.invalidated.clone()));
        let ends = proof.is_some() || !grants.is_empty() || violation.is_some();
        ends.then(|| Self { proof, grants: grants.into(), violation })
    }

    pub(super) fn into_end(self, grpc: bool, now: Timestamp) -> StreamEnd {
        let Self { proof, grants, violation } = self;
        let violated = async move {
            match violation {
                Some(violation) => violation.wait().await,
                None => pending().await,
            }
        };
        let over = async move {
            tokio::select! {
                biased;
                why = wait_for_proof_end(proof, now) => why,
                why = wait_for_grant_end(&grants, now) => why,
                why = violated => why,
            }
        };
        StreamEnd { over: Box::pin(over), grpc }
    }
}

/// Waits until the proof or the client certificate becomes invalid.
async fn wait_for_proof_end(proof: Option<(Arc<Principal>, CancellationToken)>, now: Timestamp) -> Refusal {
    let Some((principal, invalidated)) = proof else { return pending().await };
    let reason = tokio::select! {
        biased;
        () = principal.ended.cancelled() => "proof_withdrawn",
        () = invalidated.cancelled() => "certificate_invalidated",
        () = tokio::time::sleep(time_left(principal.until, now)) => "proof_expired",
    };
    let text = "your token, session or client certificate has expired or was revoked; reconnect with a new one";
    Refusal::new(StatusCode::UNAUTHORIZED, reason, text)
}

/// Waits until the first grant ends.
async fn wait_for_grant_end(grants: &[Arc<Active>], now: Timestamp) -> Refusal {
    let Some(until) = grants.iter().map(|grant| grant.until).min() else { return pending().await };
    let mut ended: Vec<_> = grants.iter().map(|grant| Box::pin(grant.ended.cancelled())).collect();
    let any = poll_fn(|cx| {
        let ready = ended.iter_mut().any(|ended| ended.as_mut().poll(cx).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    });
    tokio::select! {
        () = any => {}
        () = tokio::time::sleep(time_left(until, now)) => {}
    }
    Refusal::new(StatusCode::FORBIDDEN, "grant_ended", "the grant that permitted this stream has ended")
}

/// The time from `now` to `until`, at least zero.
fn time_left(until: Timestamp, now: Timestamp) -> Duration {
    until.duration_since(now).try_into().unwrap_or_default()
}

impl StreamEnd {
    /// Ready once the stream must end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        self.over.as_mut().poll(cx)
    }

    /// The last frame: trailers with a status for gRPC, an error that resets every other stream.
    pub(super) fn last_frame(&self, why: &Refusal) -> Result<Frame<Bytes>, BodyError> {
        if self.grpc { Ok(Frame::trailers(trailers(why))) } else { Err(why.text.clone().into_owned().into()) }
    }
}
