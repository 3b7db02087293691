//! Refusals: each has its status, reason and audit record, and nothing of the request reaches the upstream.

use http::Method;
use serde_json::Value;

use crate::support::{
    Answer, Gate, Harness,
    call::Call,
    google::Google,
    issuer::Key,
    wire::{remote_write, snappy_bomb},
};

const PREDICT: &str = "/v1/projects/p/locations/us-central1/endpoints/1:predict";
const PROTECTED_PATH: &str = "/exporters/app/metrics";

/// Headers that an answer made by the gate itself may have.
const OWN_HEADERS: &[&str] = &[
    "allow",
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "dpop-nonce",
    "ratelimit",
    "ratelimit-policy",
    "retry-after",
    "www-authenticate",
    "x-content-type-options",
    "x-request-id",
];

/// How many requests and connections each upstream has seen.
pub(crate) fn seen(gate: &Gate) -> (usize, usize, usize) {
    (gate.app.requests(), gate.app.connections(), vertex_requests(&gate.google))
}

fn vertex_requests(google: &Google) -> usize {
    google.vertex().len()
}

/// Sends `call` and holds the gate to a whole refusal; gives its record.
pub(crate) async fn refused(gate: &Gate, call: Call, status: u16, reason: &str) -> (Answer, Value) {
    let before = seen(gate);
    let answer = call.send().await;
    let record = is_refusal(gate, &answer, status, reason).await;
    assert_eq!(seen(gate), before, "an upstream saw a refused request");
    (answer, record)
}

/// Checks the answer and the audit record of a refusal; gives the record.
pub(crate) async fn is_refusal(gate: &Gate, answer: &Answer, status: u16, reason: &str) -> Value {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{answer:?}");
    let strange: Vec<_> = answer.headers.keys().filter(|name| !OWN_HEADERS.contains(&name.as_str())).collect();
    assert!(strange.is_empty(), "headers that no refusal has: {strange:?}");
    let problem = answer.json();
    assert_eq!(problem["reason"], reason, "{problem}");
    // Google's client libraries have it in their own member, and would mistake this one
    let of_vertex = problem.get("error").map(|error| &error["code"]);
    assert_eq!(of_vertex.unwrap_or(&problem["status"]), status, "{problem}");
    assert_eq!(problem.get("status").is_some(), of_vertex.is_none(), "{problem}");
    assert_eq!(problem["request_id"], answer.id(), "{problem}");
    for text in ["type", "title", "detail"] {
        assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "no `{text}`: {problem}");
    }
    if status == 401 {
        assert!(answer.header("www-authenticate").starts_with("Bearer"), "{answer:?}");
    }
    // RFC 9110 section 15.5.6
    assert_eq!(answer.headers.contains_key("allow"), status == 405, "{answer:?}");
    if status == 503 {
        assert!(answer.header("retry-after").parse::<u32>().is_ok(), "{answer:?}");
    }
    let record = gate.record(&answer.id()).await;
    assert_eq!(record["reason"], reason, "{record}");
    assert_eq!(record["status"], status, "{record}");
    // a service of the gate may still refuse what policy let through to it; the decision is policy's
    // a limit is the gate's own decision, and so is a policy that forbids
    let permitted = |policies: &Vec<Value>| !policies.is_empty() && reason != "forbidden" && record["limit"].is_null();
    let permitted = record["policies"].as_array().is_some_and(permitted);
    // what a guardrail finds in a request denies it, though its policies permit
    let held_back = record["decision"] == "deny" && record["obligations"].is_array();
    let let_through = permitted && !held_back;
    assert_eq!(record["decision"], if let_through { "allow" } else { "deny" }, "{record}");
    assert!(let_through || !gate.permitted(&answer.id()), "a refused request has a permit: {record}");
    record
}

#[tokio::test]
async fn head_is_refused_without_content() {
    let gate = Harness::new().await.start().await;
    for alpn in [&b"http/1.1"[..], b"h2"] {
        let door = gate.door(0, alpn);
        let http2 = alpn == b"h2";
        let target = if http2 {
            format!("https://localhost:{}{PROTECTED_PATH}", gate.address().port())
        } else {
            PROTECTED_PATH.into()
        };
        let call = Call::new(door, Method::HEAD, &target);
        let answer = if http2 { call.http2() } else { call }.send().await;
        assert_eq!(answer.status, 401, "{answer:?}");
        assert!(answer.body.is_empty(), "{answer:?}");
        let would_be: usize = answer.header("content-length").parse().expect("no length");
        assert!(would_be > 0, "{answer:?}");
        assert_eq!(gate.record(&answer.id()).await["reason"], "no_token");
    }
}

#[tokio::test]
async fn a_request_without_a_token_gets_a_challenge() {
    let gate = Harness::new().await.start().await;
    let (answer, record) = refused(&gate, gate.get(PROTECTED_PATH), 401, "no_token").await;
    // RFC 6750 section 3.1: without authentication information there is no error code
    assert!(!answer.header("www-authenticate").contains("error="), "{answer:?}");
    assert_eq!(record["principal"], Value::Null, "{record}");
    assert_eq!((&record["method"], &record["path"]), (&"GET".into(), &PROTECTED_PATH.into()));
}

/// Every token that proves nothing, and the reason it is refused with.
#[tokio::test]
async fn an_invalid_token_is_refused() {
    let gate = Harness::new().await.start().await;
    let good = || gate.token_builder("scrape");
    let now = wicketgate::internals::clock::now().as_second();
    let stranger = Key::rsa("stranger");
    let impostor = Key::rsa("rsa");
    let secret = gate.issuer.key("rsa").public_pem();
    let cases = [
        ("token_malformed", "not-a-token".to_owned()),
        ("token_issuer", good().claim("iss", "https://elsewhere.example").mint()),
        ("token_issuer", good().claim("iss", Value::Null).mint()),
        ("token_audience", good().claim("aud", "somebody-else").mint()),
        ("token_audience", good().claim("aud", Value::Null).mint()),
        ("token_expired", good().claim("exp", now - 61).mint()),
        ("token_claims", good().claim("exp", Value::Null).mint()),
        ("token_not_yet_valid", good().claim("nbf", now + 120).mint()),
        ("token_algorithm", good().mint_unsigned()),
        ("token_algorithm", good().mint_hs256(secret.as_bytes())),
        ("token_unknown_key", good().signed_by(&stranger, "RS256").mint()),
        ("token_signature", good().signed_by(&impostor, "RS256").mint()),
    ];
    for (reason, token) in cases {
        let (answer, record) = refused(&gate, gate.get(PROTECTED_PATH).bearer(&token), 401, reason).await;
        assert!(answer.header("www-authenticate").contains("error=\"invalid_token\""), "{reason}: {answer:?}");
        assert_eq!(record["principal"], Value::Null, "{reason}: an unproven name is in the record: {record}");
        assert!(!record.to_string().contains(&token), "{reason}: the record holds the token");
    }
}

#[tokio::test]
async fn an_ingest_role_cannot_infer() {
    let gate = Harness::new().await.start().await;
    let call = gate.post(PREDICT).bearer(&gate.token("ingest")).body(r#"{"instances":[{"input":[1,2]}]}"#);
    let (_, record) = refused(&gate, call, 403, "not_permitted").await;
    assert_eq!(record["principal"], "corp:tester");
    assert_eq!(record["roles"], serde_json::json!(["ingest"]));
    assert_eq!(record["action"], "PredictionService.Predict");
}

#[tokio::test]
async fn an_infer_role_cannot_ingest() {
    let gate = Harness::new().await.keeping("kept_*").start().await;
    let body = remote_write(&[("__name__", "kept_total")], &[(1, 1.0)]);
    let call = gate.write(&gate.token("infer"), body);
    let (_, record) = refused(&gate, call, 403, "not_permitted").await;
    assert_eq!(record["roles"], serde_json::json!(["infer"]));
    assert_eq!(gate.metric("wicketgate_ingest_samples_accepted_total").await, 0.0);
}

#[tokio::test]
async fn an_unknown_vertex_method_is_refused() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("administer");
    for (method, target) in [
        (Method::POST, "/v1/projects/p/locations/us-central1/endpoints/1:conjure"),
        (Method::GET, "/v1/projects/p/locations/us-central1/endpoints/1:predict"),
        (Method::POST, "/v1/projects/p/locations/us-central1/wonders/1:predict"),
        (Method::POST, "/v1alpha1/projects/p/locations/us-central1/endpoints/1:predict"),
    ] {
        refused(&gate, gate.call(method, target).bearer(&token), 404, "unknown_method").await;
    }
}

#[tokio::test]
async fn a_location_that_is_not_configured_is_refused() {
    let gate = Harness::new().await.start().await;
    let target = "/v1/projects/p/locations/evil.example%23/endpoints/1:predict";
    let infer = gate.token("infer");
    refused(&gate, gate.post(target).bearer(&infer), 404, "unknown_location").await;
    let target = "/v1/projects/p/locations/europe-west4/endpoints/1:predict";
    refused(&gate, gate.post(target).bearer(&infer), 404, "unknown_location").await;
}

#[tokio::test]
async fn an_unknown_exporter_is_refused() {
    let gate = Harness::new().await.start().await;
    let call = gate.get("/exporters/nobody/metrics").bearer(&gate.token("scrape"));
    refused(&gate, call, 404, "unknown_exporter").await;
}

#[tokio::test]
async fn an_ambiguous_target_is_refused() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    for target in [
        "/exporters/app%2Fmetrics",
        "/exporters/app/%2e%2e/metrics",
        "/exporters/app/../locked/metrics",
        "/exporters/app//metrics",
        "/exporters/app/metrics;a=b",
        "/exporters/app/%5cmetrics",
        "/exporters/app/met%00rics",
        "/exporters/app/x%3ametrics",
    ] {
        let before = seen(&gate);
        let answer = gate.get(target).bearer(&token).send().await;
        assert_eq!(answer.status, 400, "{target}: {answer:?}");
        let record = gate.record(&answer.id()).await;
        assert_eq!(record["decision"], "deny", "{target}: {record}");
        assert_eq!(answer.json()["reason"], "path_not_canonical", "{target}: {answer:?}");
        assert_eq!(record["reason"], "path_not_canonical", "{target}: {record}");
        assert_eq!(seen(&gate), before, "{target}: an upstream saw it");
    }
}

#[tokio::test]
async fn a_body_that_is_not_snappy_is_refused_for_good() {
    let gate = Harness::new().await.keeping("kept_*").start().await;
    let ingest = gate.token("ingest");
    refused(&gate, gate.write(&ingest, b"\x05not snappy at all".to_vec()), 400, "broken_snappy").await;
    assert_eq!(gate.metric("wicketgate_ingest_samples_accepted_total").await, 0.0);
}

#[tokio::test]
async fn a_claimed_size_of_four_gib_is_refused_before_allocation() {
    let gate = Harness::new().await.keeping("kept_*").start().await;
    let ingest = gate.token("ingest");
    refused(&gate, gate.write(&ingest, snappy_bomb()), 413, "decoded_too_large").await;
    // it still works: nothing was allocated for the claim
    let good = gate.write(&ingest, remote_write(&[("__name__", "kept_total")], &[(1, 1.0)])).send().await;
    assert_eq!(good.status, 204, "{good:?}");
}

#[tokio::test]
async fn an_oversized_request_head_is_refused() {
    let gate = Harness::new().await.start().await;
    let before = seen(&gate);
    let token = gate.token("scrape");
    let padding = "x".repeat(1 << 20);
    let head = format!(
        "GET {PROTECTED_PATH} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         x-padding: {padding}\r\n\r\n"
    );
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    assert_eq!(answer.status, 431, "{answer:?}");
    assert_eq!(seen(&gate), before, "an upstream saw it");
    let written =
        || async { gate.audit().into_iter().find(|line| line["event"] == "request" && line["status"] == 431) };
    let record = crate::support::eventually("the audit record of the oversized head", written).await;
    assert_eq!(record["decision"], "deny", "{record}");
}

#[tokio::test]
async fn separated_roles_in_one_token_are_refused() {
    let gate = Harness::new().await.keeping("kept_*").start().await;
    let both = gate.issuer.token("both", &["ingest", "infer"]).mint();
    let (_, record) = refused(&gate, gate.post(PREDICT).bearer(&both), 403, "separation_of_duty").await;
    let told = record["detail"].as_str().unwrap_or_default();
    assert!(told.contains("ingest") && told.contains("infer"), "the record does not name both: {record}");
    let body = remote_write(&[("__name__", "kept_total")], &[(1, 1.0)]);
    refused(&gate, gate.write(&both, body), 403, "separation_of_duty").await;
}

#[tokio::test]
async fn a_token_within_the_leeway_is_accepted() {
    let gate = Harness::new().await.start().await;
    let now = wicketgate::internals::clock::now().as_second();
    // Go's oauth2 renews 10 s before the end; a clock that differs more than that must not lose data
    let late = gate.token_builder("scrape").claim("exp", now - 30).mint();
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&late).send().await.status, 200);
    let early = gate.token_builder("scrape").claim("nbf", now + 30).mint();
    assert_eq!(gate.get(PROTECTED_PATH).bearer(&early).send().await.status, 200);
}

#[tokio::test]
async fn two_credentials_on_one_request_are_refused() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    refused(&gate, gate.get(PROTECTED_PATH).bearer(&token).bearer(&token), 400, "two_identities").await;
    let basic = gate.get(PROTECTED_PATH).header("authorization", "Basic dTpw");
    refused(&gate, basic, 401, "unsupported_scheme").await;
}

#[tokio::test]
async fn a_token_in_the_query_is_refused_and_not_logged() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("scrape");
    let call = gate.get(&format!("{PROTECTED_PATH}?access_token={token}"));
    let (_, record) = refused(&gate, call, 400, "query_refused").await;
    assert!(!record.to_string().contains(&token), "the record holds the token: {record}");
    assert!(!gate.program.lines().join("\n").contains(&token), "the log holds the token");
}

#[tokio::test]
async fn the_gate_is_no_forward_proxy() {
    let gate = Harness::new().await.start().await;
    let upstream = gate.app.address;
    let before = seen(&gate);
    let head = format!("CONNECT {upstream} HTTP/1.1\r\nhost: {upstream}\r\nconnection: close\r\n\r\n");
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    is_refusal(&gate, &answer, 400, "method_refused").await;
    let head = format!("GET http://{upstream}/metrics HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    is_refusal(&gate, &answer, 400, "two_hosts").await;
    assert_eq!(seen(&gate), before, "the upstream saw it");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let harness = Harness::new().await;
    let gate = harness
        .keeping("")
        .section("ingest", "[ingest]\nmax_body = 1024\n[[ingest.keep]]\nmetric = \"kept_*\"")
        .start()
        .await;
    refused(&gate, gate.write(&gate.token("ingest"), vec![0; 1025]), 413, "body_too_large").await;
}

#[tokio::test]
async fn another_content_type_than_remote_write_is_refused() {
    let gate = Harness::new().await.keeping("kept_*").start().await;
    let ingest = gate.token("ingest");
    let body = || remote_write(&[("__name__", "kept_total")], &[(1, 1.0)]);
    let other = |name: &'static str, value: &'static str| {
        gate.post("/api/v1/write").bearer(&ingest).header(name, value).body(body())
    };
    refused(&gate, other("content-type", "application/json"), 415, "unsupported_media_type").await;
    refused(&gate, other("content-encoding", "gzip"), 415, "unsupported_encoding").await;
    let (answer, _) = refused(&gate, gate.get("/api/v1/write").bearer(&ingest), 405, "method_not_allowed").await;
    assert_eq!(answer.header("allow"), "POST", "{answer:?}");
}
