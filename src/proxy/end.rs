//! What ends an open stream: it goes on for no longer than what let its caller in.
//!
//! Promises: a stream ends when its principal's proof expires or is withdrawn, and when its connection's certificate
//! lapses; a gRPC caller is told why, and nobody takes what was broken off for whole.

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::StatusCode;
use http_body::Frame;
use tokio_util::sync::CancellationToken;

use super::{content::Foul, refuse::trailers};
use crate::{
    clock::Timestamp,
    http::{BodyError, BoxFuture},
    peer::Peer,
    principal::Principal,
    refusal::Refusal,
};

/// What an open stream stands on. Holding the principal tells `identity` that somebody stands on it, so that an issuer
/// which has to be asked is asked again.
pub(super) struct Bound {
    /// Where the route ends its streams.
    proof: Option<(Arc<Principal>, CancellationToken)>,
    /// Where the caller's later messages are looked at.
    foul: Option<Arc<Foul>>,
}

/// Waits for the end of it.
pub(super) struct End {
    over: BoxFuture<'static, Refusal>,
    grpc: bool,
}

impl Bound {
    /// `proof` where the stream shall end with it; `foul` where its caller may end it itself.
    pub(super) fn new(proof: Option<(&Arc<Principal>, &Peer)>, foul: Option<Arc<Foul>>) -> Option<Self> {
        let proof = proof.map(|(principal, peer)| (principal.clone(), peer.lapsed.clone()));
        (proof.is_some() || foul.is_some()).then_some(Self { proof, foul })
    }

    pub(super) fn end(self, grpc: bool, now: Timestamp) -> End {
        let Self { proof, foul } = self;
        let proof_ends = async move {
            match proof {
                Some((principal, lapsed)) => no_longer(&principal, &lapsed, now).await,
                None => std::future::pending().await,
            }
        };
        let fouled = async move {
            match foul {
                Some(foul) => foul.heard().await,
                None => std::future::pending().await,
            }
        };
        let over = async move {
            tokio::select! {
                biased;
                why = proof_ends => why,
                why = fouled => why,
            }
        };
        End { over: Box::pin(over), grpc }
    }
}

/// Waits for the end of what let the caller in.
async fn no_longer(principal: &Principal, lapsed: &CancellationToken, now: Timestamp) -> Refusal {
    let left = principal.until.duration_since(now).try_into().unwrap_or_default();
    let reason = tokio::select! {
        biased;
        () = principal.ended.cancelled() => "proof_withdrawn",
        () = lapsed.cancelled() => "certificate_lapsed",
        () = tokio::time::sleep(left) => "proof_expired",
    };
    let text = "the proof of who you are has ended; come back with a new one";
    Refusal::new(StatusCode::UNAUTHORIZED, reason, text)
}

impl End {
    /// Ready once the stream must end.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Refusal> {
        self.over.as_mut().poll(cx)
    }

    /// A gRPC stream ends with a status; every other is broken off.
    pub(super) fn last_frame(&self, why: &Refusal) -> Result<Frame<Bytes>, BodyError> {
        if self.grpc { Ok(Frame::trailers(trailers(why))) } else { Err(why.text.clone().into_owned().into()) }
    }
}
