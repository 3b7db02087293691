//! Names and instances in JSON and protobuf bodies.

use std::{
    fmt::Write as _,
    io::Write as _,
    sync::PoisonError,
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, HeaderName};
use proptest::prelude::*;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::{
    buffer::{BUDGET_TEST_LOCK, CallerBudget},
    grpc_frame, grpc_head, json,
    references::NameFinder,
    wire,
};
use crate::gate::policy::BodyNames;

fn listed(named: &BodyNames) -> String {
    let mut all = String::new();
    for resource in &named.resources {
        write!(all, "{} ", resource.name).unwrap();
    }
    for bucket in &named.buckets {
        write!(all, "gs:{bucket} ").unwrap();
    }
    for account in &named.service_accounts {
        write!(all, "{account} ").unwrap();
    }
    all.trim_end().to_owned()
}

fn check(text: &str, expected: &str) {
    let mut names = NameFinder::default();
    names.text(text);
    assert_eq!(listed(&names.found().unwrap()), expected, "{text}");
}

#[test]
fn every_form_of_a_name_is_found() {
    let endpoint = "projects/p/locations/l/endpoints/1";
    let endpoint_escaped = "projects/p/locations/l/endpoints/%31";
    check(endpoint, endpoint);
    check(&format!("//aiplatform.googleapis.com/{endpoint}"), endpoint);
    check(&format!("https://l-aiplatform.googleapis.com/v1/{endpoint}:predict?alt=json"), endpoint);
    check(&format!(" /{endpoint}/ "), endpoint);
    check(&format!("{endpoint} and projects/q/locations/m"), &format!("{endpoint} projects/q/locations/m"));
    check("projects/p/locations/l/models/m@2", "projects/p/locations/l/models/m@2");
    check("projects/example.com:p/locations/l/models/m", "projects/example.com:p/locations/l/models/m");
    check("projects/p/global/networks/n", "");
    check("endpoints/1", "endpoints/1");
    check("publishers/google/models/gemini", "publishers/google/models/gemini");
    check("my endpoints/1", "");
    check("gs://bucket/a/b", "gs:bucket");
    check("--out=GS://Bucket", "gs:bucket");
    check("gs://a/*,gs://b.c_d-e/x", "gs:a gs:b.c_d-e");
    check("https://storage.googleapis.com/bucket/x", "gs:bucket");
    check("https://storage.googleapis.com/%62ucket/x", "gs:bucket");
    check("https://bucket.storage.googleapis.com", "gs:bucket");
    check("https://a.b.Storage.googleapis.com/object", "gs:a.b gs:object");
    check("https://storage.googleapis.com/storage/v1/b/bucket/o/x", "gs:bucket gs:storage");
    check("https://console.cloud.google.com/storage/browser/bucket/x", "gs:bucket");
    check(
        "https://l-aiplatform.googleapis.com/v1/projects/p/locations/l/endpoints/%31",
        &format!("{endpoint_escaped} {endpoint}"),
    );
    check("/gcs/bucket/model", "gs:bucket");
    check("a@p.iam.GServiceAccount.com", "a@p.iam.gserviceaccount.com");
    check("serviceAccount:A@p.iam.gserviceaccount.com", "a@p.iam.gserviceaccount.com");
    check("é123-compute@developer.gserviceaccount.com", "123-compute@developer.gserviceaccount.com");
    check("nobody.gserviceaccount.com", "");
    check("What is the capital of France?", "");
}

fn check_json(text: &str, expected: Option<(&str, Option<u64>)>) {
    let mut names = NameFinder::default();
    let counted = json::scan(text.as_bytes(), &mut names).ok();
    let found = counted.map(|counted| (listed(&names.found().unwrap()), counted));
    assert_eq!(found.as_ref().map(|(names, counted)| (names.as_str(), *counted)), expected, "{text}");
}

#[test]
fn a_json_body_is_looked_through() {
    check_json(r#"{"instances":[{},{"a":[1,2]},3],"parameters":{"instances":[1]}}"#, Some(("", Some(3))));
    check_json(r#"{"instances":[1],"instances":[1,2]}"#, Some(("", Some(3))));
    check_json(r#"{"instances":7}"#, Some(("", Some(1))));
    check_json(r#"{"contents":[]}"#, Some(("", None)));
    check_json(r#"{"a":{"b":["gs://x/y"]},"a":"gs://z/"}"#, Some(("gs:x gs:z", None)));
    check_json(r#"{"endpoints\/1":0,"m":"mod\u0065ls/2"}"#, Some(("endpoints/1 models/2", None)));
    check_json(r#""endpoints/1""#, Some(("endpoints/1", None)));
    for bad in ["", "{", "{} {}", "{'a':1}", "[1,]", "\u{feff}{}", "\"\\ud800\"", &"[".repeat(200)] {
        check_json(bad, None);
    }
}

#[test]
fn no_body_names_more_than_anything_honest() {
    let many: Vec<String> = (0..=1000).map(|n| format!("gs://bucket-{n}/")).collect();
    for (count, fits) in [(1000, true), (1001, false)] {
        let mut names = NameFinder::default();
        names.text(&many[..count].join(" "));
        assert_eq!(names.found().is_ok(), fits, "{count} names");
    }
}

/// The largest body there may be costs what it is long, not the square of that.
#[test]
#[allow(clippy::disallowed_methods, reason = "what is measured is how long the processor is busy")]
fn no_text_costs_more_than_its_length() {
    for part in [
        "projects/p/locations/l/",
        "a.gserviceaccount.com",
        "a@b.gserviceaccount.com",
        "gs://a",
        "a.storage.googleapis.com/",
        "/gcs/",
        "%41/",
    ] {
        let text = part.repeat((10 << 20) / part.len());
        let start = Instant::now();
        let mut names = NameFinder::default();
        names.text(&text);
        drop(names.found());
        assert!(start.elapsed() < Duration::from_secs(20), "{part}: {:?}", start.elapsed());
    }
}

fn gzipped(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// RFC 1952 section 2.2 lets members follow each other. Readers differ in whether they read on: the gate would permit
/// the first one and an upstream would take all of them together.
#[test]
fn a_compressed_message_is_one_member_and_nothing_behind_it() {
    let _guard = BUDGET_TEST_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let one = field(1, b"endpoint one");
    let other = field(1, b"endpoint two");
    let check = |payload: Vec<u8>, expected: Result<&[u8], &str>| {
        let frame = Bytes::from([&[1, 0, 0, 0, 0][..], &payload].concat());
        let found = grpc_frame::GrpcEncoding::Gzip.message(&frame, &CallerBudget::of(&"a".into()));
        assert_eq!(found.as_deref().map_err(|refusal| refusal.reason), expected);
    };
    check(gzipped(&one), Ok(&one));
    check([gzipped(&one), gzipped(&other)].concat(), Err("rpc_malformed"));
    check([gzipped(&one), vec![0]].concat(), Err("rpc_malformed"));
    let whole = gzipped(&one);
    check(whole[..whole.len() - 1].to_vec(), Err("rpc_malformed"));
}

fn field(tag: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_key(tag, WireType::LengthDelimited, &mut bytes);
    encode_varint(payload.len() as u64, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

fn check_wire(message: &[u8], expected: &str) {
    let mut names = NameFinder::default();
    wire::scan(message, &mut names).unwrap();
    assert_eq!(listed(&names.found().unwrap()), expected, "{message:?}");
}

#[test]
fn a_message_is_looked_through_whatever_it_is() {
    let name = b"projects/p/locations/l/endpoints/1";
    check_wire(&field(7, name), "projects/p/locations/l/endpoints/1");
    check_wire(&field(2, &field(1, &field(9, b"gs://bucket/x"))), "gs:bucket");
    // the tag of what follows is a digit, and stands in no name
    let followed = [field(1, name), field(6, b"x")].concat();
    assert_eq!(followed[2 + name.len()], b'2');
    check_wire(&followed, "projects/p/locations/l/endpoints/1");
    let mut deep = name.to_vec();
    for _ in 0..60 {
        deep = field(1, &deep);
    }
    check_wire(&deep, "projects/p/locations/l/endpoints/1");
    assert_eq!((wire::count(&followed, 1), wire::count(&followed, 2)), (1, 0));
}

#[test]
fn a_message_that_costs_too_much_to_look_at_is_refused() {
    let mut deep = vec![0; 2 << 20];
    for _ in 0..100 {
        deep = field(1, &deep);
    }
    let refusal = wire::scan(&deep, &mut NameFinder::default()).unwrap_err();
    assert_eq!(refusal.reason, "rpc_too_nested");
}

/// Nested so that every message is a text too, which is looked at for names.
#[test]
#[allow(clippy::disallowed_methods, reason = "what is measured is how long the processor is busy")]
fn a_message_that_is_a_text_at_every_depth_costs_no_more() {
    let mut deep = "/gcs/a ".repeat((8 << 20) / 7).into_bytes();
    for _ in 0..60 {
        // lengths that are UTF-8: [E1-EC] [80-BF] [80-BF] [00-7F] in the order of varints
        let length = (0..).map(|more| deep.len() + more).find(|&length| {
            let mut varint = Vec::new();
            encode_varint(length as u64, &mut varint);
            std::str::from_utf8(&varint).is_ok()
        });
        deep.resize(length.unwrap(), b' ');
        deep = field(1, &deep);
        assert!(std::str::from_utf8(&deep).is_ok());
    }
    assert!(deep.len() < 10 << 20, "{}", deep.len());
    let start = Instant::now();
    let looked = wire::scan(&deep, &mut NameFinder::default());
    assert_eq!(looked.unwrap_err().reason, "rpc_too_nested");
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

fn check_text(message: &[u8], tags: &[u32], expected: Result<&str, &str>) {
    assert_eq!(wire::text_at(message, tags).map_err(|refusal| refusal.reason), expected, "{message:?}");
}

#[test]
fn a_resource_field_has_one_value() {
    check_text(&field(1, b"a"), &[1], Ok("a"));
    check_text(&field(2, b"a"), &[1], Ok(""));
    check_text(&[], &[1], Ok(""));
    check_text(&field(1, &field(1, b"a")), &[1, 1], Ok("a"));
    check_text(&[field(1, b"a"), field(1, b"a")].concat(), &[1], Ok("a"));
    check_text(&[field(1, b"a"), field(1, b"b")].concat(), &[1], Err("rpc_resource"));
    check_text(&[field(1, b"a"), field(1, b"")].concat(), &[1], Err("rpc_resource"));
    // messages in one field are merged, so that either could win
    let merged = [field(1, &field(1, b"a")), field(1, &field(1, b"b"))].concat();
    check_text(&merged, &[1, 1], Err("rpc_resource"));
    check_text(&[0x08, 1], &[1], Err("rpc_resource"));
    check_text(&field(1, b"\xff"), &[1], Err("rpc_resource"));
    check_text(&[0x0a, 5, b'a'], &[1], Err("rpc_malformed"));
    check_text(&[0x0f], &[1], Err("rpc_malformed"));
}

proptest! {
    /// Whatever bytes come, nothing panics, and what is no message is refused as a whole.
    #[test]
    fn no_bytes_are_read_twice(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut names = NameFinder::default();
        let scanned = wire::scan(&bytes, &mut names);
        let text = wire::text_at(&bytes, &[1]);
        if scanned.is_err() {
            prop_assert!(text.is_err());
        }
    }

    /// A name is found wherever it stands in a message, and whatever stands around it.
    #[test]
    fn a_name_is_found_at_any_depth(tags in proptest::collection::vec(1..20u32, 1..12), other in "[ -~]{0,20}") {
        let mut message = b"projects/p/locations/l/endpoints/1".to_vec();
        for tag in tags {
            message = [field(tag, &message), field(tag, other.as_bytes())].concat();
        }
        let mut names = NameFinder::default();
        wire::scan(&message, &mut names).unwrap();
        let found = names.found().unwrap();
        prop_assert!(found.resources.iter().any(|name| &*name.name == "projects/p/locations/l/endpoints/1"));
    }
}

#[test]
fn a_callers_patience_is_read_as_grpc_writes_it() {
    let check = |text: &str, expected: Option<Duration>| {
        let headers = HeaderMap::from_iter([(HeaderName::from_static("grpc-timeout"), text.parse().unwrap())]);
        assert_eq!(grpc_head::grpc_timeout(&headers).ok(), expected, "{text}");
    };
    check("1H", Some(Duration::from_secs(3600)));
    check("2M", Some(Duration::from_secs(120)));
    check("50S", Some(Duration::from_secs(50)));
    check("200m", Some(Duration::from_millis(200)));
    check("99999999u", Some(Duration::from_micros(99_999_999)));
    check("0n", Some(Duration::ZERO));
    for bad in ["", "S", "5", "-1S", "+1S", "1.5S", "123456789S", "1h", "1 S", "S1"] {
        check(bad, None);
    }
    assert_eq!(grpc_head::grpc_timeout(&HeaderMap::new()).unwrap(), Duration::MAX);
}
