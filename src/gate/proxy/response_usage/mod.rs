//! Which model info and how many tokens it counted, read off an answer as it passes.
//!
//! Promises: only what Google itself says is believed: members of the answer's outermost object and fields of its
//! outermost message, never what a model wrote inside, and nothing of bodies that are a model server's own. Nothing is
//! held back, and next to nothing is kept.

mod grpc;
mod json;
#[cfg(test)]
mod tests;

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use self::{
    grpc::Fields,
    json::{Events, JsonReader},
};
use crate::gate::{
    audit::{Record, cut},
    routes::Payload,
};

/// Longest name that is kept, in bytes.
const LIMIT: usize = 1024;

/// What of an answer's body is read for the record.
#[derive(Debug, Default)]
pub(super) enum ResponseUsage {
    /// Nothing.
    #[default]
    None,
    /// A JSON object, or an array of them as `streamGenerateContent` sends it.
    Json(JsonReader),
    /// Server-sent events, each with a JSON object.
    Events(Events),
    /// gRPC messages.
    Grpc(Fields),
}

/// Who info.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelInfo {
    model: Option<String>,
    deployed_model: Option<String>,
    version: Option<String>,
    tokens: Option<u64>,
}

/// Where an answer says who info: PredictResponse has `model`, `model_version_id` and `deployed_model_id`,
/// ExplainResponse the last of these, GenerateContentResponse `model_version`, and in `usage_metadata` the tokens of question
/// and answer together; of a stream the last one counts all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UsageField {
    Model,
    DeployedModel,
    Version,
    Usage,
}

impl ResponseUsage {
    /// The response_usage of an answer to a call of this action, by its head.
    pub(super) fn for_response(action: &str, payload: Payload, answer: &HeaderMap) -> Self {
        let kind = answer.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        match kind.split([';', '+']).next().unwrap_or_default().trim() {
            _ if payload == Payload::Opaque || answer.contains_key(CONTENT_ENCODING) => Self::None,
            "application/json" => Self::Json(JsonReader::default()),
            "text/event-stream" => Self::Events(Events::default()),
            "application/grpc" => Fields::of(action).map_or(Self::None, Self::Grpc),
            _ => Self::None,
        }
    }

    /// Looks at the next bytes.
    pub(super) fn read(&mut self, data: &[u8]) {
        match self {
            Self::None => {}
            Self::Json(members) => members.read(data),
            Self::Events(events) => events.read(data),
            Self::Grpc(fields) => fields.read(data),
        }
    }

    /// Writes down who info, and the tokens.
    pub(super) fn record(&self, record: &mut Record) {
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

impl ModelInfo {
    fn keep(&mut self, said: UsageField, text: String) {
        let slot = match said {
            UsageField::Model => &mut self.model,
            UsageField::DeployedModel => &mut self.deployed_model,
            UsageField::Version => &mut self.version,
            // an object, not a text
            UsageField::Usage => return,
        };
        *slot = Some(text).filter(|text| !text.is_empty());
    }
}
