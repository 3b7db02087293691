//! What ends an open stream: it goes on for no longer than what let its caller in.
//!
//! Promises: a stream ends when its principal's proof expires or is withdrawn, and when its connection's certificate
//! lapses; a gRPC caller is told why, and nobody takes what was broken off for whole.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Timestamp,
    http::{BodyError, BoxFuture},
    peer::Peer,
    principal::Principal,
};

/// What an open stream stands on. Holding the principal tells `identity` that somebody stands on it, so that an issuer
/// which has to be asked is asked again.
pub(super) struct Bound {
    principal: Arc<Principal>,
    lapsed: CancellationToken,
}

/// Waits for the end of it.
pub(super) struct End {
    over: BoxFuture<'static, &'static str>,
    grpc: bool,
}

impl Bound {
    pub(super) fn new(principal: Arc<Principal>, peer: &Peer) -> Self {
        Self { principal, lapsed: peer.lapsed.clone() }
    }

    pub(super) fn end(self, grpc: bool, now: Timestamp) -> End {
        let Self { principal, lapsed } = self;
        let left = principal.until.duration_since(now).try_into().unwrap_or_default();
        let over = async move {
            tokio::select! {
                biased;
                () = principal.ended.cancelled() => "proof_withdrawn",
                () = lapsed.cancelled() => "certificate_lapsed",
                () = tokio::time::sleep(left) => "proof_expired",
            }
        };
        End { over: Box::pin(over), grpc }
    }
}

impl End {
    /// Ready with the record's reason once the stream must end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<&'static str> {
        self.over.as_mut().poll(cx)
    }

    /// A gRPC stream ends with a status (`UNAUTHENTICATED`, 16); every other is broken off.
    pub(super) fn last_frame(&self) -> Result<Frame<Bytes>, BodyError> {
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
