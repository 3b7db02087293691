//! Limits: each refusal names the limit and a sufficient wait, is recorded, and reaches no upstream.

use std::time::Duration;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use wicketgate::internals::clock;

use crate::{
    refusals::{is_refusal, refused, seen},
    streams::Stream,
    support::{
        Answer, Gate, Harness,
        call::Call,
        eventually,
        harness::PAGE,
        scripted_upstream::{Line, ScriptedUpstream, frame, message},
        upstream,
        wire::remote_write,
    },
};

const PREDICT: &str = "/v1/projects/p/locations/us-central1/endpoints/1:predict";
const GENERATE: &str = "/v1/projects/p/locations/us-central1/publishers/google/models/gemini-2.5-pro:generateContent";
const PROTECTED_PATH: &str = "/exporters/app/metrics";
/// The problem type of draft-ietf-httpapi-ratelimit-headers-11 section 5.1.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

async fn gate(limit: &str) -> Gate {
    Harness::new().await.section("limit", limit).start().await
}

fn predict(gate: &Gate, token: &str) -> Call {
    gate.post(PREDICT).bearer(token).header("content-type", "application/json").body(r#"{"instances":[{"input":[1]}]}"#)
}

fn scrape(gate: &Gate, token: &str) -> Call {
    gate.get(PROTECTED_PATH).bearer(token)
}

/// A token of another principal.
fn of(gate: &Gate, name: &str, role: &str) -> String {
    gate.issuer.token(name, &[role]).mint()
}

/// Sends `call` and holds the gate to a refusal by this limit: status, problem, header fields, audit record, metric, and
/// that nothing reached an upstream.
async fn limited(gate: &Gate, call: Call, status: u16, limit: &str, quantity: &str) -> Answer {
    let series = format!("wicketgate_limit_refused_total{{limit=\"{limit}\",quantity=\"{quantity}\"}}");
    let before = gate.metric(&series).await;
    let (answer, record) = refused(gate, call, status, &format!("limit_{quantity}")).await;
    assert_eq!((&record["limit"], &record["decision"]), (&limit.into(), &"deny".into()), "{record}");
    assert!(!gate.permitted(&answer.id()), "{record}");
    let policy = if quantity == "requests" { limit.to_owned() } else { format!("{limit}/{quantity}") };
    let problem = answer.json();
    assert_eq!(problem["type"], QUOTA_EXCEEDED, "{problem}");
    assert_eq!(problem["violated-policies"], json!([policy]), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains(&format!("`{limit}`")), "{problem}");
    assert!(answer.header("ratelimit-policy").contains(&format!("\"{policy}\";q=")), "{answer:?}");
    assert!(answer.header("ratelimit").contains(&format!("\"{policy}\";r=")), "{answer:?}");
    // the refusal is counted when its last byte has left
    eventually("the metric", || async { (gate.metric(&series).await == before + 1.0).then_some(()) }).await;
    answer
}

pub(crate) fn retry_after(answer: &Answer) -> u64 {
    answer.header("retry-after").parse().unwrap_or_else(|e| panic!("no Retry-After ({e}): {answer:?}"))
}

async fn passes(call: Call) -> Answer {
    let answer = call.send().await;
    assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
    answer
}

#[tokio::test]
async fn requests_are_counted_for_each_principal() {
    let gate = gate("[[limit]]\nname = \"each\"\nper = \"principal\"\nroutes = [\"vertex\"]\nrequests = \"2/h\"").await;
    let token = gate.token("infer");
    for left in [1, 0] {
        let answer = passes(predict(&gate, &token)).await;
        assert_eq!(answer.header("ratelimit-policy"), "\"each\";q=2;w=3600");
        assert!(answer.header("ratelimit").starts_with(&format!("\"each\";r={left};t=")), "{answer:?}");
    }
    let answer = limited(&gate, predict(&gate, &token), 429, "each", "requests").await;
    let wait = retry_after(&answer);
    assert!((1700..=1800).contains(&wait), "{wait}");
    assert_eq!(answer.header("ratelimit"), format!("\"each\";r=0;t={wait}"));
    // Google's clients are told so in their own words
    assert_eq!(answer.json()["error"]["status"], "RESOURCE_EXHAUSTED");
    // another token of the same principal is the same principal
    let again = gate.token_builder("infer").claim("jti", "another").mint();
    limited(&gate, predict(&gate, &again), 429, "each", "requests").await;
    // others and other routes are not concerned
    passes(predict(&gate, &of(&gate, "other", "infer"))).await;
    let other = passes(scrape(&gate, &gate.token("scrape"))).await;
    assert_eq!(other.header("ratelimit-policy"), "", "{other:?}");
}

#[tokio::test]
async fn a_budget_is_shared_by_a_role_a_route_or_all_callers() {
    for (per, also_there, also_elsewhere) in
        [("principal", false, false), ("role", true, true), ("route", true, false), ("gate", true, true)]
    {
        let gate = gate(&format!("[[limit]]\nname = \"l\"\nper = \"{per}\"\nrequests = \"1/h\"")).await;
        passes(scrape(&gate, &of(&gate, "first", "scrape"))).await;
        let second = of(&gate, "second", "scrape");
        for (target, shared) in [(PROTECTED_PATH, also_there), ("/exporters/locked/metrics", also_elsewhere)] {
            // a budget of its own is used by the first request
            let caller = if per == "principal" { of(&gate, target, "scrape") } else { second.clone() };
            let call = gate.get(target).bearer(&caller);
            if shared {
                limited(&gate, call, 503, "l", "requests").await;
            } else {
                passes(call).await;
            }
        }
        // another role on another route is concerned by none but the gate's
        let predict = predict(&gate, &of(&gate, "third", "infer"));
        match per {
            "gate" => drop(limited(&gate, predict, 429, "l", "requests").await),
            _ => drop(passes(predict).await),
        }
    }
}

#[tokio::test]
async fn a_limit_is_for_the_roles_routes_and_actions_that_it_names() {
    let gate = gate(
        "[[limit]]\nname = \"l\"\nper = \"gate\"\nroles = [\"infer\"]\nroutes = [\"vertex\"]\nactions = [\"infer\"]\n\
         requests = \"1/h\"",
    )
    .await;
    let infer = gate.token("infer");
    let look = |token: &str| gate.get("/v1/projects/p/locations/us-central1/endpoints/1").bearer(token);
    passes(look(&infer)).await;
    passes(predict(&gate, &infer)).await;
    limited(&gate, predict(&gate, &infer), 429, "l", "requests").await;
    passes(look(&infer)).await;
    passes(look(&of(&gate, "other", "observe"))).await;
    passes(scrape(&gate, &gate.token("scrape"))).await;
}

#[tokio::test]
async fn a_denied_request_is_not_charged() {
    let gate = gate("[[limit]]\nname = \"all\"\nper = \"gate\"\nroutes = [\"vertex\"]\nrequests = \"1/h\"").await;
    for _ in 0..3 {
        refused(&gate, predict(&gate, &gate.token("scrape")), 403, "not_permitted").await;
    }
    passes(predict(&gate, &gate.token("infer"))).await;
}

#[tokio::test]
async fn a_request_refused_by_one_limit_is_charged_to_none() {
    let gate = gate(
        "[[limit]]\nname = \"all\"\nper = \"gate\"\nrequests = \"3/h\"\n\
         [[limit]]\nname = \"each\"\nper = \"principal\"\nrequests = \"1/h\"",
    )
    .await;
    let flood = of(&gate, "flood", "infer");
    passes(predict(&gate, &flood)).await;
    for _ in 0..5 {
        limited(&gate, predict(&gate, &flood), 429, "each", "requests").await;
    }
    for other in ["one", "two"] {
        passes(predict(&gate, &of(&gate, other, "infer"))).await;
    }
    limited(&gate, predict(&gate, &of(&gate, "three", "infer")), 429, "all", "requests").await;
}

#[tokio::test]
async fn the_announced_wait_is_sufficient() {
    let limit = "[[limit]]\nname = \"slow\"\nper = \"principal\"\nrequests = { rate = \"20/m\", burst = \"1\" }";
    let gate = gate(limit).await;
    let token = gate.token("infer");
    let before = clock::monotonic();
    let first = passes(predict(&gate, &token)).await;
    let after = clock::monotonic();
    assert_eq!(first.header("ratelimit-policy"), "\"slow\";q=20;w=60;wicketgate-burst=1", "{first:?}");
    eventually("the wait to be over", || async {
        let asked = after.elapsed();
        let answer = predict(&gate, &token).send().await;
        let answered = before.elapsed();
        if answer.status == StatusCode::OK {
            assert!(answered >= Duration::from_secs(3), "it passed too early: {answered:?}");
            return Some(());
        }
        // whole seconds, rounded up: never early, and less than one late
        let until = Duration::from_secs(retry_after(&answer));
        assert!(answered + until >= Duration::from_secs(3), "{answered:?} {until:?}");
        assert!(asked + until < Duration::from_secs(4), "{asked:?} {until:?}");
        None
    })
    .await;
    // a caller that waits for the announced time passes at the first try
    let wait = Duration::from_secs(retry_after(&predict(&gate, &token).send().await));
    let said = clock::monotonic();
    eventually("as long as was said", || async { (said.elapsed() >= wait).then_some(()) }).await;
    passes(predict(&gate, &token)).await;
}

#[tokio::test]
async fn bytes_are_counted_both_ways() {
    let gate =
        gate("[[limit]]\nname = \"volume\"\nper = \"principal\"\nroutes = [\"vertex\"]\nbytes = \"1000/h\"").await;
    let token = gate.token("infer");
    let sending = |bytes: usize| predict(&gate, &token).body(format!("{{\"x\":\"{}\"}}", "a".repeat(bytes - 8)));
    // a request over the burst never passes, so there is no `Retry-After`
    let answer = limited(&gate, sending(1001), 413, "volume", "bytes").await;
    assert_eq!(answer.header("retry-after"), "", "{answer:?}");
    assert!(answer.json()["detail"].as_str().unwrap().contains("never pass"), "{answer:?}");
    let answer = passes(sending(400)).await;
    let policy = "\"volume/bytes\";q=1000;qu=\"content-bytes\";w=3600";
    assert_eq!(answer.header("ratelimit-policy"), policy, "{answer:?}");
    assert!(answer.header("ratelimit").starts_with("\"volume/bytes\";r=600;t="), "{answer:?}");
    let spent = 400 + answer.body.len();
    // what does not fit any more is refused, what does passes
    limited(&gate, sending(1000), 429, "volume", "bytes").await;
    gate.google
        .server
        .intercept(|seen| seen.target.contains(":predict").then(|| upstream::json(&json!("a".repeat(5000)))));
    let answer = passes(sending(100)).await;
    let left = 1000 - spent - 100;
    assert!(answer.header("ratelimit").starts_with(&format!("\"volume/bytes\";r={left};")), "{answer:?}");
    // the answer was larger than what was left: the next request waits for it
    let answer = limited(&gate, sending(10), 429, "volume", "bytes").await;
    let owed = (5002 + spent + 100 - 1000 + 10) as f64;
    let wait = retry_after(&answer) as f64;
    assert!((wait - owed * 3.6).abs() < 60.0, "{wait} for {owed} bytes");
}

#[tokio::test]
async fn a_body_of_unknown_length_is_charged_afterwards() {
    let ingest = "[ingest]\nmax_body = 1024\n[[ingest.keep]]\nmetric = \"kept_*\"";
    let limit = "[[limit]]\nname = \"volume\"\nper = \"principal\"\nroutes = [\"write\"]\nbytes = \"1024/h\"";
    let gate = Harness::new().await.keeping("").section("ingest", ingest).section("limit", limit).start().await;
    let token = gate.token("ingest");
    let head = format!(
        "POST /api/v1/write HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         content-type: application/x-protobuf\r\ncontent-encoding: snappy\r\ntransfer-encoding: chunked\r\n\r\n\
         400\r\n{}\r\n0\r\n\r\n",
        "\u{7f}".repeat(1024)
    );
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{answer:?}");
    assert!(answer.header("ratelimit").starts_with("\"volume/bytes\";r=1023;"), "{answer:?}");
    gate.record(&answer.id()).await;
    let body = remote_write(&[("__name__", "kept_total")], &[(1, 1.0)]);
    limited(&gate, gate.write(&token, body), 503, "volume", "bytes").await;
}

#[tokio::test]
async fn instances_are_counted() {
    let gate = gate("[[limit]]\nname = \"points\"\nper = \"principal\"\ninstances = \"5/h\"").await;
    let token = gate.token("infer");
    let asking = |count: usize| {
        let instances = vec![json!({"input": [1]}); count];
        predict(&gate, &token).body(json!({"instances": instances}).to_string())
    };
    limited(&gate, asking(6), 413, "points", "instances").await;
    let answer = passes(asking(3)).await;
    assert_eq!(answer.header("ratelimit-policy"), "\"points/instances\";q=5;qu=\"instances\";w=3600");
    assert!(answer.header("ratelimit").starts_with("\"points/instances\";r=2;"), "{answer:?}");
    limited(&gate, asking(3), 429, "points", "instances").await;
    passes(asking(2)).await;
    // uncountable instances are charged as one
    let raw = PREDICT.replace(":predict", ":rawPredict");
    let raw = gate.post(&raw).bearer(&token).header("content-type", "text/plain").body("1 2 3");
    limited(&gate, raw, 429, "points", "instances").await;
    // looking at an endpoint asks no model
    let look = gate.get("/v1/projects/p/locations/us-central1/endpoints/1").bearer(&token);
    assert_eq!(passes(look).await.header("ratelimit"), "");
}

#[tokio::test]
async fn a_grpc_caller_gets_a_grpc_status() {
    let talker = ScriptedUpstream::start().await;
    let limit = "[[limit]]\nname = \"points\"\nper = \"principal\"\ninstances = \"3/h\"";
    let gate = Harness::new().await.section("vertex", talker.section()).section("limit", limit).start().await;
    let path = "/google.cloud.aiplatform.v1.PredictionService/Predict";
    let token = gate.token("infer");
    let endpoint = b"projects/p/locations/us-central1/endpoints/1";
    let sent = frame(&message(&[(1, endpoint), (2, b"\x11\0\0\0\0\0\0\0\0"), (2, b"\x11\0\0\0\0\0\0\0\0")]));
    let mut line = Line::open(&gate).await;
    let answering = async {
        let (pen, _) = talker.next_request().await.answer("application/grpc", &[]);
        pen.end(&[("grpc-status", "0")]).await;
    };
    let (said, ()) = tokio::join!(line.unary(path, &token, &[], &sent), answering);
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(said.headers["ratelimit"].to_str().unwrap().starts_with("\"points/instances\";r=1;"), "{said:?}");
    // RESOURCE_EXHAUSTED
    let said = line.unary(path, &token, &[], &sent).await;
    assert_eq!((said.status, said.code()), (StatusCode::OK, 8), "{said:?}");
    assert!(said.headers["grpc-message"].to_str().unwrap().contains("`points`"), "{said:?}");
    assert!(said.headers["retry-after"].to_str().unwrap().parse::<u32>().unwrap() > 1000, "{said:?}");
    let record = gate.record(&said.id()).await;
    assert_eq!((&record["reason"], &record["limit"]), (&"limit_instances".into(), &"points".into()), "{record}");
    assert_eq!((&record["decision"], talker.count()), (&"deny".into(), 1), "{record}");
}

/// Asks a model that goes on for ever, and leaves when it has said more than `enough` words. Its tokens are used up.
async fn broken_off(burst: &str, question: &str, enough: usize) {
    let stream = Stream::start("text/event-stream").await;
    let vertex = format!("[vertex]\nlocations = [\"us-central1\"]\nurl = \"http://{}\"", stream.address);
    let rate = format!("{{ rate = \"60/h\", burst = \"{burst}\" }}");
    let limit = format!("[[limit]]\nname = \"words\"\nper = \"principal\"\ntokens = {rate}");
    let gate = Harness::new().await.section("vertex", vertex).section("limit", limit).start().await;
    let token = gate.token("infer");
    let target = GENERATE.replace(":generateContent", ":streamGenerateContent?alt=sse");
    let head = format!(
        "POST {target} HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{question}",
        question.len()
    );
    let enough = async { eventually("words", || async { (stream.sent() > enough).then_some(()) }).await };
    gate.door(0, b"http/1.1").abandon_when(head.as_bytes(), enough).await;
    stream.ends().await;
    let generate = || gate.post(GENERATE).bearer(&token).header("content-type", "application/json").body("{}");
    limited(&gate, generate(), 429, "words", "tokens").await;
}

#[tokio::test]
async fn an_interrupted_model_response_is_charged_by_estimate() {
    broken_off("10", "{}", 20).await;
    // … the request too: the model has read it even if the client disconnects
    broken_off("1000", &format!("{{\"contents\":\"{}\"}}", "word ".repeat(2000)), 0).await;
}

#[tokio::test]
async fn tokens_are_charged_when_the_model_reports_them() {
    let gate = gate("[[limit]]\nname = \"words\"\nper = \"principal\"\ntokens = \"1000/h\"").await;
    gate.google.server.intercept(|seen| {
        let counted = json!({"usageMetadata": {"promptTokenCount": 100, "totalTokenCount": 1500}, "modelVersion": "g"});
        seen.target.contains(":generateContent").then(|| upstream::json(&counted))
    });
    let token = gate.token("infer");
    let generate = || gate.post(GENERATE).bearer(&token).header("content-type", "application/json").body("{}");
    let answer = passes(generate()).await;
    assert!(answer.header("ratelimit").starts_with("\"words/tokens\";r=999;"), "{answer:?}");
    assert_eq!(gate.record(&answer.id()).await["tokens"], 1500);
    let answer = limited(&gate, generate(), 429, "words", "tokens").await;
    // 501 tokens too many
    assert!((1790..=1804).contains(&retry_after(&answer)), "{answer:?}");
}

/// Begins to read the endless stream, and goes on until `condition` is met.
async fn reading<T>(gate: &Gate, token: &str, condition: impl Future<Output = T>) -> T {
    let head = format!("GET /exporters/stream/events HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {token}\r\n\r\n");
    gate.door(0, b"http/1.1").abandon_when(head.as_bytes(), condition).await
}

#[tokio::test]
async fn requests_in_flight_are_counted_until_they_end() {
    let stream = Stream::start("text/event-stream").await;
    let exporters = format!(
        "[[exporter]]\nname = \"stream\"\nurl = \"http://{}\"\n[[limit]]\nname = \"open\"\nper = \"principal\"\nstreams = 1",
        stream.address
    );
    let gate = Harness::new().await.more("exporter", exporters).start().await;
    let token = gate.token("scrape");
    reading(&gate, &token, async {
        eventually("the stream to be open", || async { (stream.open() == 1).then_some(()) }).await;
        let answer = limited(&gate, scrape(&gate, &token), 503, "open", "streams").await;
        assert_eq!(answer.header("ratelimit-policy"), "\"open/streams\";q=1;qu=\"concurrent-requests\"");
        assert_eq!(answer.header("ratelimit"), "\"open/streams\";r=0");
        // others have places of their own
        passes(scrape(&gate, &of(&gate, "other", "scrape"))).await;
    })
    .await;
    // the client is gone, and so is its request
    eventually("the place to be free", || async {
        (scrape(&gate, &token).send().await.status == StatusCode::OK).then_some(())
    })
    .await;
    for _ in 0..5 {
        passes(scrape(&gate, &token)).await;
    }
}

#[tokio::test]
async fn a_reload_keeps_the_buckets() {
    let limit = |rate: &str| format!("[[limit]]\nname = \"each\"\nper = \"principal\"\nrequests = \"{rate}\"");
    let gate = gate(&limit("1/h")).await;
    let (token, config) =
        (gate.token("infer"), std::fs::read_to_string(gate.directory.join("wicketgate.toml")).unwrap());
    passes(predict(&gate, &token)).await;
    let another = format!("\n[[exporter]]\nname = \"another\"\nurl = \"{}\"\n", gate.app.url());
    gate.directory.write("wicketgate.toml", format!("{config}{another}"));
    eventually("the new configuration", || async {
        let status = gate.get("/exporters/another/metrics").bearer(&of(&gate, "x", "scrape")).send().await.status;
        (status != StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    limited(&gate, predict(&gate, &token), 429, "each", "requests").await;
    // another limit begins anew
    gate.directory.write("wicketgate.toml", config.replace(&limit("1/h"), &limit("2/h")));
    eventually("the changed limit", || async {
        let answer = predict(&gate, &token).send().await;
        (answer.status == StatusCode::OK).then(|| assert!(answer.header("ratelimit-policy").contains("q=2")))
    })
    .await;
}

#[tokio::test]
async fn a_body_is_not_read_if_its_senders_budget_is_spent() {
    let gate = gate("[[limit]]\nname = \"each\"\nper = \"principal\"\nrequests = \"1/h\"").await;
    let token = gate.token("infer");
    passes(predict(&gate, &token)).await;
    let before = seen(&gate);
    // it says that it has a body and never sends it
    let head = format!(
        "POST {PREDICT} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: 1000\r\n\r\n"
    );
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    is_refusal(&gate, &answer, 429, "limit_requests").await;
    assert_eq!(seen(&gate), before, "an upstream saw it");
}

#[tokio::test]
async fn a_person_at_a_limit_reads_a_page() {
    let gate = gate("[[limit]]\nname = \"each\"\nper = \"principal\"\nrequests = \"1/h\"").await;
    let token = gate.token("scrape");
    assert_eq!(passes(scrape(&gate, &token)).await.text(), PAGE);
    let answer = gate
        .call(Method::GET, PROTECTED_PATH)
        .bearer(&token)
        .header("accept", "text/html")
        .header("sec-fetch-mode", "navigate")
        .send()
        .await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    assert!(answer.header("content-type").starts_with("text/html") && answer.text().contains("each"), "{answer:?}");
    assert!(retry_after(&answer) > 1, "{answer:?}");
}

#[tokio::test]
async fn a_record_of_an_allowed_request_names_no_limit() {
    let gate = gate("[[limit]]\nname = \"each\"\nper = \"principal\"\nrequests = \"10/h\"").await;
    let answer = passes(scrape(&gate, &gate.token("scrape"))).await;
    let record = gate.record(&answer.id()).await;
    assert_eq!((&record["limit"], &record["decision"]), (&Value::Null, &"allow".into()), "{record}");
}
