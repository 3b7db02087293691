//! `google.protobuf.Value`, in which gRPC carries JSON: instances and predictions.

use prost_types::{ListValue, Struct, Value, value::Kind};
use serde_json::{Map, Value as Json, json};

/// Whole numbers beyond this are not exact in a double.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// JSON as protobuf has it.
#[must_use]
pub fn from_json(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(value) => Kind::NumberValue(value.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(values) => Kind::ListValue(ListValue { values: values.iter().map(from_json).collect() }),
        Json::Object(fields) => {
            let fields = fields.iter().map(|(name, value)| (name.clone(), from_json(value)));
            Kind::StructValue(Struct { fields: fields.collect() })
        }
    };
    Value { kind: Some(kind) }
}

/// The JSON in it.
#[must_use]
pub fn to_json(value: &Value) -> Json {
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Json::Null,
        // protobuf has no integers here, and the model server needs some
        #[allow(clippy::cast_possible_truncation, reason = "it is whole and within what a double holds exactly")]
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < EXACT => json!(*value as i64),
        Some(Kind::NumberValue(value)) => json!(value),
        Some(Kind::StringValue(text)) => json!(text),
        Some(Kind::BoolValue(value)) => json!(value),
        Some(Kind::ListValue(list)) => list.values.iter().map(to_json).collect(),
        Some(Kind::StructValue(fields)) => {
            let fields = fields.fields.iter().map(|(name, value)| (name.clone(), to_json(value)));
            fields.collect::<Map<_, _>>().into()
        }
    }
}
