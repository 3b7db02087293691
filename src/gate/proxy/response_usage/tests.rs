//! Model, version and tokens in every form of a response, in chunks of any size.

use http::{HeaderMap, HeaderValue, header::CONTENT_TYPE};
use prost::encoding::{WireType, encode_key, encode_varint};

use super::{ResponseUsage, model_info::MAX_VALUE};
use crate::gate::{audit::Record, routes::Payload};

fn check(action: &str, kind: &'static str, answer: &[u8], expected: (Option<&str>, Option<&str>)) {
    for size in [1, 2, 3, 7, answer.len().max(1)] {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let mut response_usage = ResponseUsage::for_response(action, Payload::Typed, &headers);
        answer.chunks(size).for_each(|piece| response_usage.read(piece));
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        let now = crate::clock::now();
        let started = crate::clock::monotonic();
        let mut record = Record::open(now, started, peer, http::Method::POST, "/");
        response_usage.record(&mut record);
        let found = (record.model.as_deref(), record.model_version.as_deref());
        assert_eq!(found, expected, "{} in pieces of {size}", String::from_utf8_lossy(answer));
    }
}

fn check_tokens(action: &str, kind: &'static str, answer: &[u8], expected: Option<u64>) {
    for size in [1, 2, 3, 7, answer.len().max(1)] {
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let mut response_usage = ResponseUsage::for_response(action, Payload::Typed, &headers);
        answer.chunks(size).for_each(|piece| response_usage.read(piece));
        let found = match &response_usage {
            ResponseUsage::Json(members) => members.info.tokens,
            ResponseUsage::Events(events) => events.members.info.tokens,
            ResponseUsage::Grpc(fields) => fields.info.tokens,
            ResponseUsage::None => None,
        };
        assert_eq!(found, expected, "{} in pieces of {size}", String::from_utf8_lossy(answer));
    }
}

#[test]
fn tokens_are_what_google_counted_in_the_end() {
    let generate = "PredictionService.GenerateContent";
    let json = "application/json";
    let events = "text/event-stream";
    for (answer, expected) in [
        (r#"{"usageMetadata":{"promptTokenCount":7,"totalTokenCount":12}}"#, Some(12)),
        (r#"{"usageMetadata" : { "totalTokenCount" : 12 , "x" : 3 }, "modelVersion":"g"}"#, Some(12)),
        (r#"{"usageMetadata":{"a":[{"totalTokenCount":9}],"totalTokenCount":12,"b":{"totalTokenCount":9}}}"#, Some(12)),
        (r#"{"candidates":[{"usageMetadata":{"totalTokenCount":9}}]}"#, None),
        (r#"{"candidates":["\"usageMetadata\":{\"totalTokenCount\":9}"]}"#, None),
        (r#"{"usageMetadata":[{"totalTokenCount":9}]}"#, None),
        (r#"{"usageMetadata":{"totalTokenCount":"9"}}"#, None),
        (r#"{"usageMetadata":{"totalTokenCount":-9}}"#, None),
        (r#"{"usageMetadata":{"totalTokenCount":1.5}}"#, None),
        (r#"{"usageMetadata":{"totalTokenCount":99999999999999999999999}}"#, None),
        (r#"{"usageMetadata":{"x":"totalTokenCount","y":9}}"#, None),
        (
            r#"[{"usageMetadata":{"totalTokenCount":5}},{"text":"x"},{"usageMetadata":{"totalTokenCount":12}}]"#,
            Some(12),
        ),
    ] {
        check_tokens(generate, json, answer.as_bytes(), expected);
    }
    let stream = "data: {\"usageMetadata\":{\"totalTokenCount\":5}}\r\n\r\ndata: {\"usageMetadata\": {\"totalTokenCount\": 12}}\n\n";
    check_tokens(generate, events, stream.as_bytes(), Some(12));
    let usage = |total: u64| {
        let mut usage = message(&[(6, b"\x08\x01\x10\x05")]);
        for (tag, value) in [(1, 300), (3, total), (5, 1)] {
            encode_key(tag, WireType::Varint, &mut usage);
            encode_varint(value, &mut usage);
        }
        usage
    };
    let frames = [5, 1200].map(|total| framed(0, &message(&[(2, b"x"), (4, &usage(total)), (11, b"g")]))).concat();
    check_tokens("PredictionService.StreamGenerateContent", "application/grpc", &frames, Some(1200));
    let inside = framed(0, &message(&[(2, &message(&[(4, &usage(9))]))]));
    check_tokens("PredictionService.StreamGenerateContent", "application/grpc", &inside, None);
}

fn check_json(answer: &str, expected: (Option<&str>, Option<&str>)) {
    check("PredictionService.Predict", "application/json; charset=UTF-8", answer.as_bytes(), expected);
}

#[test]
fn only_the_outermost_members_of_json_are_believed() {
    check_json(r#"{"predictions":[1],"model":"m","modelVersionId":"3"}"#, (Some("m"), Some("3")));
    check_json(r#"{ "modelVersionId" : "3" , "predictions" : [ { "modelVersionId" : "9" } ] }"#, (None, Some("3")));
    check_json(r#"{"predictions":[{"model":"x","modelVersionId":"9"}]}"#, (None, None));
    check_json(r#"{"predictions":["\"modelVersionId\":\"9\"","modelVersionId","9"]}"#, (None, None));
    check_json(r#"{"predictions":"\\\",\"modelVersionId\":\"9\"","deployedModelId":"77"}"#, (Some("77"), None));
    check_json(r#"{"a":"modelVersionId","b":"9"}"#, (None, None));
    check_json(r#"{"modelVersionId":["9"],"model":{"model":"x"}}"#, (None, None));
    check_json(r#"{"modelVersionId":9,"x":"y"}"#, (None, None));
    check_json(r#"{"model":"mod\u00e9l\"","deployedModelId":"77"}"#, (Some("modél\""), None));
    check_json(r#"["model","x"]"#, (None, None));
    check_json(r#"[["model","x"]]"#, (None, None));
    check_json(
        r#"[{"modelVersion":"a"},{"candidates":[{"modelVersion":"x"}]},{"modelVersion":"b"}]"#,
        (None, Some("b")),
    );
    check_json(&format!(r#"{{"model":"{}","modelVersionId":"3"}}"#, "m".repeat(MAX_VALUE + 1)), (None, Some("3")));
    check_json("", (None, None));
    check_json("}}}{\"model\":\"m\"}", (Some("m"), None));
}

#[test]
fn each_event_is_an_answer() {
    let check = |text: &str, version| {
        check("PredictionService.StreamGenerateContent", "text/event-stream", text.as_bytes(), (None, version));
    };
    check("data: {\"modelVersion\":\"a\"}\r\n\r\ndata: {\"candidates\":[]}\r\n\r\n", Some("a"));
    check("data: {\"candidates\":[{\"modelVersion\":\"x\"}]}\n\n", None);
    check("event: {\"modelVersion\":\"x\"}\n\nid:1\ndata:{\"modelVersion\":\"b\"}\n\n", Some("b"));
    // a broken event does not spoil the next
    check("data: {\"a\":[\n\ndata: {\"modelVersion\":\"b\"}\n\n", Some("b"));
    check("data: {\"text\":\"data: {\\\"modelVersion\\\":\\\"x\\\"}\"}\n\n", None);
}

fn message(fields: &[(u32, &[u8])]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (tag, payload) in fields {
        encode_key(*tag, WireType::LengthDelimited, &mut bytes);
        encode_varint(payload.len() as u64, &mut bytes);
        bytes.extend_from_slice(payload);
    }
    bytes
}

fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[flag][..], &length, message].concat()
}

#[test]
fn only_the_outermost_fields_of_messages_are_believed() {
    let check = |method: &str, frames: &[u8], expected| {
        check(&format!("PredictionService.{method}"), "application/grpc+proto", frames, expected);
    };
    let inner = message(&[(3, b"x"), (5, b"9"), (11, b"9")]);
    let predicted = message(&[(1, &inner), (2, b"77"), (3, b"m"), (4, b"name"), (5, b"3"), (6, &inner)]);
    check("Predict", &framed(0, &predicted), (Some("m"), Some("3")));
    check("Explain", &framed(0, &message(&[(1, &inner), (2, b"77"), (3, &inner)])), (Some("77"), None));
    check("DirectPredict", &framed(0, &message(&[(2, b"x"), (3, b"x"), (5, b"9")])), (None, None));
    let mut numbers = Vec::new();
    for (key, value) in [(9 << 3, &[0x80, 0x80, 1][..]), (10 << 3 | 1, &[0x5a; 8]), (12 << 3 | 5, &[0x5a; 4])] {
        encode_varint(key, &mut numbers);
        numbers.extend_from_slice(value);
    }
    let said = [numbers, message(&[(11, b"v")])].concat();
    let frames = [framed(0, &message(&[(2, &inner)])), framed(0, &said), framed(0, &[])].concat();
    check("StreamGenerateContent", &frames, (None, Some("v")));
    // a message that is compressed, or broken, is passed over, and the next is read
    let frames = [framed(1, &message(&[(11, b"x")])), framed(0, &[0x5a, 0xff, 1]), framed(0, &said)].concat();
    check("GenerateContent", &frames, (None, Some("v")));
}

#[test]
fn a_model_servers_own_words_are_not_googles() {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    assert!(matches!(
        ResponseUsage::for_response("PredictionService.RawPredict", Payload::Opaque, &headers),
        ResponseUsage::None
    ));
}
