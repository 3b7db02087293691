//! What ends an open stream: it goes on for no longer than what let its caller in.
//!
//! Promises: a stream ends when its principal's proof expires or is withdrawn, when its connection's certificate lapses,
//! and when a grant that it stands on ends; a gRPC caller is told why, and nobody takes what was broken off for whole.

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

/// What an open stream stands on. Holding the principal tells `identity` that somebody stands on it, so that an issuer
/// which has to be asked is asked again.
pub(super) struct StreamLifetime {
    /// Where the route ends its streams.
    proof: Option<(Arc<Principal>, CancellationToken)>,
    /// Those that it was permitted with.
    grants: Box<[Arc<Active>]>,
    /// Where the caller's later messages are looked at.
    violation: Option<Arc<StreamViolation>>,
}

/// Waits for the end of it.
pub(super) struct StreamEnd {
    over: BoxFuture<'static, Refusal>,
    grpc: bool,
}

impl StreamLifetime {
    /// `proof` where the stream shall end with it; `violation` where its caller may end it itself. Nothing where there is
    /// nothing to end with.
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

/// Waits for the end of what let the caller in.
async fn wait_for_proof_end(proof: Option<(Arc<Principal>, CancellationToken)>, now: Timestamp) -> Refusal {
    let Some((principal, invalidated)) = proof else { return pending().await };
    let reason = tokio::select! {
        biased;
        () = principal.ended.cancelled() => "proof_withdrawn",
        () = invalidated.cancelled() => "certificate_invalidated",
        () = tokio::time::sleep(time_left(principal.until, now)) => "proof_expired",
    };
    let text = "the proof of who you are has ended; come back with a new one";
    Refusal::new(StatusCode::UNAUTHORIZED, reason, text)
}

/// Waits for the first of them to end.
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
    Refusal::new(StatusCode::FORBIDDEN, "grant_ended", "the grant that let you in has ended")
}

/// From `now` to `until`.
fn time_left(until: Timestamp, now: Timestamp) -> Duration {
    until.duration_since(now).try_into().unwrap_or_default()
}

impl StreamEnd {
    /// Ready once the stream must end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        self.over.as_mut().poll(cx)
    }

    /// A gRPC stream ends with a status; every other is broken off.
    pub(super) fn last_frame(&self, why: &Refusal) -> Result<Frame<Bytes>, BodyError> {
        if self.grpc { Ok(Frame::trailers(trailers(why))) } else { Err(why.text.clone().into_owned().into()) }
    }
}
