//! REST request bodies: JSON is scanned for the names in it, and its instances are counted.

use bytes::Bytes;
use http::{
    HeaderMap, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};
use http_body::Body as _;

use super::{
    body::{Message, RequestBody, RequestHead},
    buffer::{MAX_BODY, read_whole},
    grpc, json,
    references::NameFinder,
};
use crate::{
    gate::{
        policy::BodyNames,
        routes::{Group, Payload, Route, RouteMatch},
    },
    http::{Body, is_media_type},
    refusal::Refusal,
};

impl<'r> RequestBody<'r> {
    /// Reads as much of the body as authorization of this route needs. The caller is authenticated by now.
    pub(in crate::gate::proxy) async fn read(
        route: RouteMatch<'r>,
        head: RequestHead<'_>,
        body: Body,
    ) -> Result<Self, Refusal> {
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
        let scanned = scan(payload, head, &bytes)?;
        let (named, instances) = scanned.map_or((None, None), |(named, instances)| (Some(named), instances));
        let message = (named.is_some() && !bytes.is_empty()).then(|| Message::Json(bytes.clone()));
        let size = Some(bytes.len() as u64);
        Ok(Self { found, body: bytes.into(), size, named, instances, message, violation: None })
    }
}

/// Refuses query parameters that would remove the tokens or the model version from a response, or give it a form that the
/// gate does not read: such a response would be charged to no limit, and the audit log could not name the model.
fn check_response_parameters(query: &str) -> Result<(), Refusal> {
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        // Google: `alt=json;enum-encoding=int`
        let format = value.split_once(';').map_or(&*value, |(format, _)| format);
        let readable = match name.to_ascii_lowercase().trim_start_matches('$') {
            "fields" => false,
            "alt" => matches!(format, "json" | "sse"),
            _ => true,
        };
        if !readable {
            let text = format!(
                "the query parameter `{name}` is refused: the gate reads tokens and model version from the whole response, \
                 as JSON or with `alt=sse`"
            );
            return Err(Refusal::malformed("query_refused", text));
        }
    }
    Ok(())
}

/// The names in a REST body and its query, and the number of instances. `None` if the body is not JSON and the method
/// sends it to a model's own server.
fn scan(payload: Payload, head: RequestHead<'_>, bytes: &Bytes) -> Result<Option<(BodyNames, Option<u64>)>, Refusal> {
    let mut names = NameFinder::default();
    for (_, value) in url::form_urlencoded::parse(head.query.as_bytes()) {
        names.text(&value);
    }
    if bytes.is_empty() {
        return Ok(Some((names.found()?, None)));
    }
    let scanned = match check_json_type(head.headers) {
        Ok(()) => json::scan(bytes, &mut names),
        Err(refusal) if payload != Payload::Opaque => return Err(refusal),
        Err(_) => return Ok(None),
    };
    match (scanned, payload) {
        (Ok(instances), _) => Ok(Some((names.found()?, instances))),
        (Err(_), Payload::Opaque) => Ok(None),
        (Err(error), _) => {
            let text = "the body is not JSON, or is nested too deeply; this method accepts only JSON";
            Err(Refusal::malformed("body_not_json", text).with_detail(error))
        }
    }
}

/// Refuses a body that the head does not declare as uncompressed JSON. Google's front ends also read protobuf, forms and
/// compressed bodies, so they could read such a body as something else than the gate did.
fn check_json_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let types = headers.get_all(CONTENT_TYPE);
    let is_json = types.iter().all(|value| value.to_str().is_ok_and(|value| is_media_type(value, "application/json")));
    if !is_json || headers.contains_key(CONTENT_ENCODING) {
        let text = "send `content-type: application/json` and no `content-encoding`; this method accepts only JSON";
        return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "body_not_json", text));
    }
    Ok(())
}
