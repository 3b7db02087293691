//! What is read of a request's body before the decision. Never more than the decision needs, and never without a bound.
//!
//! Promises: the caller is known before a byte is read; a body of Vertex's is buffer whole, within 10 MiB, 30 s and a
//! budget that all requests budget and no caller uses up, and looked at for what else it names; a gRPC call's resource comes from its message,
//! and no later message of the same call has another. What cannot be looked at is refused, except the bodies that are
//! for a model's own server.

mod buffer;
mod grpc;
mod json;
mod references;
#[cfg(test)]
mod tests;
mod wire;

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, StatusCode, Version,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use http_body::Body as _;

pub(super) use self::grpc::{StreamViolation, grpc_timeout, is_grpc};
use self::{buffer::read_whole, references::NameFinder};
use crate::{
    gate::{
        policy::Named,
        routes::{Group, Matched, Payload, Route, RouteMatch},
    },
    http::Body,
    refusal::Refusal,
};

/// Largest body, and largest gRPC message, in bytes: what Google's dedicated endpoints take.
const MAX_BODY: usize = 10 << 20;

/// A request's body, as far as it was read, and what is known of it.
pub(super) struct RequestBody<'r> {
    /// Where the request goes: known now, whatever had to be read for it.
    pub(super) found: Matched<'r>,
    /// What is forwarded: all of the body, what was read of it included.
    pub(super) body: Body,
    /// Its length in bytes, where that is known before it is forwarded.
    pub(super) size: Option<u64>,
    /// What it names; `None` where it was not looked at.
    pub(super) named: Option<Named>,
    /// How many instances a model is asked about, where the method is of that kind.
    pub(super) instances: Option<u64>,
    /// What was read, for whoever looks further.
    pub(super) message: Option<Message>,
    /// What ends a gRPC call whose later messages are not what its first one was permitted for.
    pub(super) violation: Option<Arc<StreamViolation>>,
}

/// A body, or the first message of one, as it was read.
#[derive(Clone, Debug)]
pub(super) enum Message {
    /// JSON text.
    Json(Bytes),
    /// A protobuf message, decompressed, without its frame.
    Grpc(Bytes),
}

/// What of a request's head says how to read its body.
#[derive(Clone, Copy)]
pub(super) struct RequestHead<'a> {
    pub(super) version: Version,
    pub(super) headers: &'a HeaderMap,
    /// Google binds what the body leaves out to the query, so that counts as body here.
    pub(super) query: &'a str,
    /// Whose request it is: each has a budget of the permits for bodies.
    pub(super) caller: &'a Arc<str>,
}

impl<'r> RequestBody<'r> {
    /// Reads what the decision about this way depends on. The caller is known by now.
    pub(super) async fn read(route: RouteMatch<'r>, head: RequestHead<'_>, body: Body) -> Result<Self, Refusal> {
        let found = match route {
            RouteMatch::Rpc(rpc) => return grpc::read(rpc, head, body).await,
            RouteMatch::Matched(found) => found,
        };
        let Route::Vertex { payload, group, .. } = &found.route else {
            let size = body.size_hint().exact();
            return Ok(Self { found, body, size, named: None, instances: None, message: None, violation: None });
        };
        let payload = *payload;
        if *group == Group::Infer {
            check_response_parameters(head.query)?;
        }
        let bytes = read_whole(body, MAX_BODY, head.caller).await?;
        let looked = inspect(payload, head, &bytes)?;
        let (named, instances) = looked.map_or((None, None), |(named, instances)| (Some(named), instances));
        let message = (named.is_some() && !bytes.is_empty()).then(|| Message::Json(bytes.clone()));
        let size = Some(bytes.len() as u64);
        Ok(Self { found, body: bytes.into(), size, named, instances, message, violation: None })
    }
}

/// Whether a model's answer is asked for whole and in a form that the gate reads: whoever leaves out the tokens and the
/// model's version from it would be charged for nothing, and nobody could say what answered.
fn check_response_parameters(query: &str) -> Result<(), Refusal> {
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        let form = value.split(';').next().unwrap_or_default();
        let whole = match name.to_ascii_lowercase().trim_start_matches('$') {
            "fields" => false,
            "alt" => matches!(form, "json" | "sse"),
            _ => true,
        };
        if !whole {
            let text = format!(
                "the query parameter `{name}` is refused: a model's answer is read whole, as JSON or `alt=sse`"
            );
            return Err(Refusal::malformed("query_refused", text));
        }
    }
    Ok(())
}

/// What a REST body and its query name, and how many instances there are; `None` where a model's own server is to
/// understand it and it is no JSON.
fn inspect(payload: Payload, head: RequestHead<'_>, bytes: &Bytes) -> Result<Option<(Named, Option<u64>)>, Refusal> {
    let mut names = NameFinder::default();
    for (_, value) in url::form_urlencoded::parse(head.query.as_bytes()) {
        names.text(&value);
    }
    if bytes.is_empty() {
        return Ok(Some((names.found()?, None)));
    }
    let read = match check_json_type(head.headers) {
        Ok(()) => json::scan(bytes, &mut names),
        Err(refusal) if payload != Payload::Opaque => return Err(refusal),
        Err(_) => return Ok(None),
    };
    match (read, payload) {
        (Ok(counted), _) => Ok(Some((names.found()?, counted))),
        (Err(_), Payload::Opaque) => Ok(None),
        (Err(error), _) => {
            let text = "the body is no JSON, or nested too deeply, and this method takes nothing else";
            Err(Refusal::malformed("body_not_json", text).with_detail(error))
        }
    }
}

/// Whether the head calls the body JSON that is not compressed. Google's front ends read protobuf, forms and compressed
/// bodies too, so that one that was looked at as JSON could be taken for something else.
fn check_json_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let kinds = headers.get_all(CONTENT_TYPE);
    let is_json = |kind: &str| {
        let kind = kind.split(';').next().unwrap_or_default().trim();
        kind.eq_ignore_ascii_case("application/json")
    };
    let all_json = kinds.iter().all(|kind| kind.to_str().is_ok_and(is_json));
    if !all_json || headers.contains_key(CONTENT_ENCODING) {
        let text = "send `content-type: application/json` and no content-encoding; this method takes nothing else";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "body_not_json", text));
    }
    Ok(())
}
