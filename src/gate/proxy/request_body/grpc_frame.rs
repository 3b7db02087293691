//! gRPC framing: length-prefixed messages and their compression.

use std::{io::Read, sync::Arc};

use bytes::Bytes;
use flate2::bufread::GzDecoder;
use http::{HeaderMap, StatusCode};

use super::buffer::{Buffer, CallerBudget, MAX_BODY};
use crate::{http::FRAME_PREFIX, refusal::Refusal};

/// The length of the frame at the start of `bytes`, with its prefix. `None` if the prefix is not complete yet.
///
/// # Errors
/// 413 if the message is larger than [`MAX_BODY`].
pub(super) fn frame_length(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let Some(prefix) = bytes.first_chunk::<FRAME_PREFIX>() else { return Ok(None) };
    let (_, length) = crate::http::frame_prefix(*prefix);
    if length > MAX_BODY { Err(too_large()) } else { Ok(Some(FRAME_PREFIX + length)) }
}

/// Compression of the messages whose flag is set (`grpc-encoding`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcEncoding {
    Identity,
    Gzip,
}

impl GrpcEncoding {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let mut encodings = headers.get_all("grpc-encoding").iter().map(|value| value.as_bytes());
        match (encodings.next(), encodings.next()) {
            (None | Some(b"identity"), None) => Ok(Self::Identity),
            (Some(b"gzip"), None) => Ok(Self::Gzip),
            _ => {
                let text = "`grpc-encoding` must be `identity` or `gzip`: the gate reads the messages";
                Err(Refusal::new(StatusCode::NOT_IMPLEMENTED, "rpc_encoding", text))
            }
        }
    }

    /// The message in a whole frame, decompressed into the caller's budget.
    pub(super) fn message(self, frame: &Bytes, budget: &Arc<CallerBudget>) -> Result<Bytes, Refusal> {
        let payload = frame.slice(FRAME_PREFIX.min(frame.len())..);
        match (frame.first(), self) {
            (Some(0), _) => Ok(payload),
            (Some(1), Self::Gzip) => gunzip(&payload, budget),
            _ => Err(Refusal::malformed(
                "rpc_malformed",
                "a message is compressed, but `grpc-encoding` does not say how",
            )),
        }
    }
}

fn gunzip(payload: &[u8], budget: &Arc<CallerBudget>) -> Result<Bytes, Refusal> {
    let mut plain = Buffer::new(budget.clone());
    let mut decoder = GzDecoder::new(payload);
    let mut chunk = vec![0; 16 << 10];
    loop {
        let read = decoder
            .read(&mut chunk)
            .map_err(|_| Refusal::malformed("rpc_malformed", "a compressed message is not valid gzip"))?;
        if read == 0 {
            // RFC 1952 section 2.2: another member may follow, and readers differ in whether they read it
            let trailing = !decoder.get_ref().is_empty();
            return if trailing { Err(trailing_bytes()) } else { Ok(plain.into_bytes()) };
        }
        if plain.bytes().len() + read > MAX_BODY {
            return Err(too_large());
        }
        plain.push(chunk.get(..read).unwrap_or_default())?;
    }
}

fn too_large() -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the message is larger than 10 MiB")
}

fn trailing_bytes() -> Refusal {
    Refusal::malformed("rpc_malformed", "bytes follow a compressed message inside its frame")
}
