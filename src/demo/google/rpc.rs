//! gRPC for the Vertex AI emulator: the calls that `Endpoint.predict` of Google's SDKs makes. The emulator's REST methods
//! answer them.
//!
//! Promises: unary calls with one uncompressed message. Errors have the status code that REST spells as a word. An unknown
//! method is UNIMPLEMENTED.

use std::{convert::Infallible, future::ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use prost::Message;
use prost_types::Value;
use serde_json::{Value as Json, json};

use super::{
    rest,
    state::Shared,
    value::{from_json, to_json},
};
use crate::{
    demo::server::ReceivedRequest,
    http::{Body, FRAME_PREFIX, frame_prefix},
};

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// The number of each status word of REST (google/rpc/code.proto).
const CODES: [(&str, u16); 6] = [
    ("INVALID_ARGUMENT", 3),
    ("NOT_FOUND", 5),
    ("PERMISSION_DENIED", 7),
    ("UNIMPLEMENTED", 12),
    ("INTERNAL", 13),
    ("UNAUTHENTICATED", 16),
];

/// Whether this is a gRPC call of Vertex AI.
pub(super) fn is_call(call: &ReceivedRequest) -> bool {
    call.path.starts_with("/google.cloud.aiplatform.") && call.header("content-type").starts_with("application/grpc")
}

/// Answers `/google.cloud.aiplatform.v1*.{service}/{method}`.
pub(super) async fn answer(google: &Shared, call: &ReceivedRequest) -> Response<Body> {
    let method = call.path.rsplit('.').next().unwrap_or_default();
    let Some(message) = unframed(&call.body) else {
        return failed("INVALID_ARGUMENT", "the message is incomplete or compressed");
    };
    let translated = match method {
        "PredictionService/Predict" => PredictRequest::decode(message).map(|request| {
            let instances: Json = request.instances.iter().map(to_json).collect();
            (Method::POST, format!("/v1/{}:predict", request.endpoint), json!({ "instances": instances }).to_string())
        }),
        "EndpointService/GetEndpoint" => {
            Endpoint::decode(message).map(|request| (Method::GET, format!("/v1/{}", request.name), String::new()))
        }
        _ => return failed("UNIMPLEMENTED", "the emulator does not know this method"),
    };
    let Ok((verb, path, body)) = translated else { return failed("INVALID_ARGUMENT", "the message is malformed") };
    let rest_request = ReceivedRequest { method: verb, path, headers: call.headers.clone(), body: body.into() };
    let answer = rest::handle(google, &rest_request).await;
    let json: Json = match answer.body() {
        Body::Full(bytes) => serde_json::from_slice(bytes).unwrap_or_default(),
        _ => Json::Null,
    };
    if answer.status() != StatusCode::OK {
        let text = |name| json.pointer(name).and_then(Json::as_str).unwrap_or_default();
        return failed(text("/error/status"), text("/error/message"));
    }
    match method {
        "PredictionService/Predict" => whole(&PredictResponse::of(&json)),
        _ => whole(&Endpoint { name: text(&json, "name"), display_name: text(&json, "displayName") }),
    }
}

/// The message of a unary call. `None` if it is compressed or incomplete.
fn unframed(body: &[u8]) -> Option<&[u8]> {
    let (prefix, message) = body.split_first_chunk()?;
    (frame_prefix(*prefix) == (0, message.len())).then_some(message)
}

fn whole(message: &impl Message) -> Response<Body> {
    let message = message.encode_to_vec();
    let mut framed = BytesMut::with_capacity(FRAME_PREFIX + message.len());
    framed.put_u8(0);
    framed.put_u32(message.len().try_into().unwrap_or(u32::MAX));
    framed.put_slice(&message);
    let trailers = HeaderMap::from_iter([(STATUS, HeaderValue::from(0_u16))]);
    let body = Full::new(Bytes::from(framed)).with_trailers(ready(Some(Ok::<_, Infallible>(trailers))));
    respond(Body::Boxed(Box::pin(body.map_err(|never| match never {}))))
}

fn failed(word: &str, message: &str) -> Response<Body> {
    let code = CODES.iter().find(|(known, _)| *known == word).map_or(2, |(_, code)| *code);
    let mut response = respond(Body::Empty);
    response.headers_mut().insert(STATUS, code.into());
    // these texts are ASCII: the emulator's own words, and parts of a URL in backticks
    let message = HeaderValue::from_str(message).unwrap_or_else(|_| HeaderValue::from_static(""));
    response.headers_mut().insert(MESSAGE, message);
    response
}

fn respond(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

fn text(json: &Json, name: &str) -> String {
    json.get(name).and_then(Json::as_str).unwrap_or_default().to_owned()
}

// The fields that the emulator reads and writes, with their tags in google/cloud/aiplatform/v1/*.proto.

#[derive(Clone, PartialEq, Message)]
struct PredictRequest {
    #[prost(string, tag = "1")]
    endpoint: String,
    #[prost(message, repeated, tag = "2")]
    instances: Vec<Value>,
}

#[derive(Clone, PartialEq, Message)]
struct PredictResponse {
    #[prost(message, repeated, tag = "1")]
    predictions: Vec<Value>,
    #[prost(string, tag = "2")]
    deployed_model_id: String,
    #[prost(string, tag = "3")]
    model: String,
    #[prost(string, tag = "4")]
    model_display_name: String,
    #[prost(string, tag = "5")]
    model_version_id: String,
}

impl PredictResponse {
    /// From the REST response.
    fn of(json: &Json) -> Self {
        let predictions = json.get("predictions").and_then(Json::as_array);
        Self {
            predictions: predictions.map(|all| all.iter().map(from_json).collect()).unwrap_or_default(),
            deployed_model_id: text(json, "deployedModelId"),
            model: text(json, "model"),
            model_display_name: text(json, "modelDisplayName"),
            model_version_id: text(json, "modelVersionId"),
        }
    }
}

/// An endpoint, and the request for one: the name is the first field of both.
#[derive(Clone, PartialEq, Message)]
struct Endpoint {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    display_name: String,
}
