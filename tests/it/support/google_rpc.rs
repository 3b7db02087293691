//! Vertex over gRPC for the suite: predictions in all their forms, and `OK` for every other method.
//!
//! Requests are remembered with their first message, before the response begins.

use std::sync::Mutex;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, request::Parts};
use http_body::Frame;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use prost_types::Value;
use serde_json::Value as Json;
use tokio::sync::mpsc;
use wicketgate::internals::{from_json, to_json};

use super::{
    google::{GENERATED, predictions},
    grpc::{FrameBody, frame, next_message},
    upstream::Seen,
};

/// Answers one call; its messages travel both ways as they come.
pub(crate) async fn serve(head: Parts, body: Incoming, seen: &Mutex<Vec<Seen>>) -> Response<FrameBody> {
    let mut messages = Messages { body, arrived: BytesMut::new() };
    let first = messages.next().await.unwrap_or_default();
    let target = head.uri.path().to_owned();
    let method = target.rsplit('/').next().unwrap_or_default().to_owned();
    let request = Seen { method: head.method, target, headers: head.headers, body: first.clone() };
    seen.lock().unwrap().push(request);
    let (tell, mut told) = FrameBody::new();
    told.teller.spawn(async move {
        // a caller that has gone needs no answer
        let _ = answer(&method, first, messages, &tell).await;
    });
    Response::builder().header("content-type", "application/grpc").body(told).unwrap()
}

/// The messages of a request as they come.
struct Messages {
    body: Incoming,
    arrived: BytesMut,
}

impl Messages {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(message) = next_message(&mut self.arrived) {
                return Some(message);
            }
            let data = self.body.frame().await?.ok()?.into_data().ok()?;
            self.arrived.extend_from_slice(&data);
        }
    }
}

type Sent = Result<(), mpsc::error::SendError<Frame<Bytes>>>;

async fn answer(method: &str, first: Bytes, mut messages: Messages, tell: &mpsc::Sender<Frame<Bytes>>) -> Sent {
    let say = async |message: Vec<u8>| tell.send(Frame::data(frame(&message))).await;
    match method {
        "Predict" => say(predict(&first)).await?,
        "GenerateContent" => say(generated(&GENERATED.concat())).await?,
        "StreamGenerateContent" => {
            for text in GENERATED {
                say(generated(text)).await?;
            }
        }
        "RawPredict" => say(Raw::decode(&*first).unwrap_or_default().http_body).await?,
        "StreamRawPredict" => {
            let body = Raw::decode(&*first).unwrap_or_default().http_body;
            say(body.clone()).await?;
            say(body).await?;
        }
        "ServerStreamingPredict" => {
            for _ in 0..3 {
                say(outputs(&first)).await?;
            }
        }
        "StreamingPredict" | "StreamDirectPredict" => {
            let mut next = Some(first);
            while let Some(message) = next {
                say(outputs(&message)).await?;
                next = messages.next().await;
            }
        }
        // the resource has the name in the request
        get if get.starts_with("Get") => {
            say(Named { name: Named::decode(&*first).unwrap_or_default().name }.encode_to_vec()).await?
        }
        _ => say(Vec::new()).await?,
    }
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    tell.send(Frame::trailers(trailers)).await
}

/// TimesFM's answer, as REST gives it.
fn predict(request: &[u8]) -> Vec<u8> {
    let request = PredictRequest::decode(request).unwrap_or_default();
    let instances: Vec<Json> = request.instances.iter().map(to_json).collect();
    let answer = PredictResponse {
        predictions: predictions(&instances).iter().map(from_json).collect(),
        deployed_model_id: "77".into(),
        model: "projects/p/locations/l/models/m".into(),
        model_display_name: "m".into(),
        model_version_id: "3".into(),
    };
    answer.encode_to_vec()
}

fn generated(text: &str) -> Vec<u8> {
    let content = Content { role: "model".into(), parts: vec![Part { text: text.into() }] };
    let answer =
        Generated { candidates: vec![Candidate { content: Some(content) }], model_version: "gemini-2-001".into() };
    answer.encode_to_vec()
}

/// Every tensor back as it came.
fn outputs(request: &[u8]) -> Vec<u8> {
    let inputs = Inputs::decode(request).unwrap_or_default().inputs;
    Outputs { outputs: inputs }.encode_to_vec()
}

// The fields that are looked at, with their tags in google/cloud/aiplatform/v1/*.proto.

#[derive(Clone, PartialEq, Message)]
struct PredictRequest {
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

#[derive(Clone, PartialEq, Message)]
struct Raw {
    /// A `google.api.HttpBody`, unread.
    #[prost(bytes = "vec", tag = "2")]
    http_body: Vec<u8>,
}

/// `StreamingPredictRequest` and `StreamDirectPredictRequest`; tensors unread.
#[derive(Clone, PartialEq, Message)]
struct Inputs {
    #[prost(bytes = "vec", repeated, tag = "2")]
    inputs: Vec<Vec<u8>>,
}

/// `StreamingPredictResponse` and `StreamDirectPredictResponse`.
#[derive(Clone, PartialEq, Message)]
struct Outputs {
    #[prost(bytes = "vec", repeated, tag = "1")]
    outputs: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
}

#[derive(Clone, PartialEq, Message)]
struct Generated {
    #[prost(message, repeated, tag = "2")]
    candidates: Vec<Candidate>,
    #[prost(string, tag = "11")]
    model_version: String,
}

#[derive(Clone, PartialEq, Message)]
struct Candidate {
    #[prost(message, optional, tag = "2")]
    content: Option<Content>,
}

#[derive(Clone, PartialEq, Message)]
struct Content {
    #[prost(string, tag = "1")]
    role: String,
    #[prost(message, repeated, tag = "2")]
    parts: Vec<Part>,
}

#[derive(Clone, PartialEq, Message)]
struct Part {
    #[prost(string, tag = "1")]
    text: String,
}
