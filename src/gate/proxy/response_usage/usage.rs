//! Chooses the reader of a response body by its headers, and writes what it found into the audit record.

use http::{HeaderMap, header::CONTENT_ENCODING};

use super::{grpc::GrpcReader, json::JsonReader, sse::EventReader};
use crate::{
    gate::{
        audit::{Record, cut},
        routes::Payload,
    },
    http::{content_type, media_type},
};

/// The reader of a response body.
#[derive(Debug, Default)]
pub(in crate::gate::proxy) enum ResponseUsage {
    /// Reads nothing.
    #[default]
    None,
    /// A JSON object, or an array of them as `streamGenerateContent` sends it.
    Json(JsonReader),
    /// Server-sent events, each with a JSON object.
    Events(EventReader),
    /// gRPC messages.
    Grpc(GrpcReader),
}

impl ResponseUsage {
    /// The reader for a response to this action, chosen by the response's headers.
    pub(in crate::gate::proxy) fn for_response(action: &str, payload: Payload, headers: &HeaderMap) -> Self {
        let media = media_type(content_type(headers));
        let essence = media.map(|media| format!("{}/{}", media.ty, media.subty).to_ascii_lowercase());
        match essence.as_deref().unwrap_or_default() {
            _ if payload == Payload::Opaque || headers.contains_key(CONTENT_ENCODING) => Self::None,
            "application/json" => Self::Json(JsonReader::default()),
            "text/event-stream" => Self::Events(EventReader::default()),
            "application/grpc" => GrpcReader::of(action).map_or(Self::None, Self::Grpc),
            _ => Self::None,
        }
    }

    /// Reads the next bytes of the body.
    pub(in crate::gate::proxy) fn read(&mut self, data: &[u8]) {
        match self {
            Self::None => {}
            Self::Json(members) => members.read(data),
            Self::Events(events) => events.read(data),
            Self::Grpc(fields) => fields.read(data),
        }
    }

    /// Writes model, model version and tokens into the audit record.
    pub(in crate::gate::proxy) fn record(&self, record: &mut Record) {
        let info = match self {
            Self::None => return,
            Self::Json(members) => &members.info,
            Self::Events(events) => &events.members.info,
            Self::Grpc(fields) => &fields.info,
        };
        if let Some(model) = info.model.as_ref().or(info.deployed_model.as_ref()) {
            record.model = Some(cut(model));
        }
        record.tokens = info.tokens;
        if let Some(version) = &info.version {
            record.model_version = Some(cut(version));
        }
    }
}
