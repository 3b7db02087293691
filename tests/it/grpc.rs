//! gRPC through the gate: authorized by the message, refused with gRPC statuses, streamed both ways.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use http::StatusCode;

use crate::support::{
    Gate, Harness,
    scripted_upstream::{Line, ScriptedUpstream, frame, framed, message},
};

const ENDPOINT: &str = "projects/p/locations/us-central1/endpoints/1";
const OTHER: &str = "projects/p/locations/us-central1/endpoints/2";
const SERVICE: &str = "/google.cloud.aiplatform.v1.PredictionService";

async fn start(policies: &str) -> (ScriptedUpstream, Gate) {
    let talker = ScriptedUpstream::start().await;
    let harness = Harness::new().await.section("vertex", talker.section());
    harness.directory.write("policies/more.cedar", policies);
    (talker, harness.start().await)
}

/// A PredictRequest for this endpoint with two instances.
fn predict(endpoint: &str) -> Vec<u8> {
    message(&[(1, endpoint.as_bytes()), (2, b"\x11\0\0\0\0\0\0\0\0"), (2, b"\x11\0\0\0\0\0\0\0\0")])
}

#[tokio::test]
async fn a_call_reaches_vertex_by_its_message_and_its_trailers_come_back() {
    let (talker, gate) = start("").await;
    let mut line = Line::open(&gate).await;
    let token = gate.token("infer");
    let path = format!("{SERVICE}/Predict");
    let mut open = line.call(
        &path,
        &token,
        &[
            ("x-goog-request-params", "endpoint=projects/victim/locations/us-central1/endpoints/9"),
            ("x-goog-api-key", "stolen"),
            ("x-vertex-ai-endpoint-id", "9"),
            ("x-goog-api-client", "gl-python/3.12 grpc/1.85"),
            ("grpc-timeout", "50S"),
        ],
    );
    let sent = frame(&predict(ENDPOINT));
    open.write(sent.clone()).await;
    open.pen = None;

    let mut forwarded = talker.next_request().await;
    assert_eq!((forwarded.head.version, forwarded.head.uri.path()), (http::Version::HTTP_2, path.as_str()));
    assert!(forwarded.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", forwarded.head);
    let params = "endpoint=projects%2Fp%2Flocations%2Fus-central1%2Fendpoints%2F1";
    assert_eq!(forwarded.header("x-goog-request-params"), params);
    assert_eq!((forwarded.header("te"), forwarded.header("grpc-timeout")), ("trailers", "50S"));
    assert_eq!(forwarded.header("x-goog-api-client"), "gl-python/3.12 grpc/1.85");
    for gone in ["x-goog-api-key", "x-vertex-ai-endpoint-id", "host"] {
        assert_eq!(forwarded.header(gone), "", "{gone} travelled");
    }
    assert!(!format!("{:?}", forwarded.head.headers).contains(&token), "Vertex saw the caller's token");
    assert_eq!(forwarded.body.rest().await.0, sent);
    let (pen, _) = forwarded.answer("application/grpc", &[("x-custom", "head")]);
    let answered = frame(&message(&[(2, b"77"), (3, b"projects/p/locations/l/models/m"), (5, b"3")]));
    pen.write(answered.clone()).await;
    let trailers =
        [("grpc-status", "0"), ("grpc-status-details-bin", "CAA"), ("x-custom", "1"), ("alt-svc", "h3"), ("via", "x")];
    pen.end(&trailers).await;

    let said = open.said().await;
    assert_eq!((said.status, said.code(), &said.data), (StatusCode::OK, 0, &answered), "{said:?}");
    assert_eq!(said.trailers["grpc-status-details-bin"], "CAA");
    assert_eq!(said.trailers["x-custom"], "1");
    assert!(!said.trailers.contains_key("alt-svc"), "{said:?}");
    let record = gate.record(&said.id()).await;
    assert_eq!((&record["action"], &record["resource"]), (&"PredictionService.Predict".into(), &ENDPOINT.into()));
    assert_eq!((&record["bytes_in"], &record["bytes_out"]), (&sent.len().into(), &answered.len().into()), "{record}");
    assert_eq!((&record["grpc_status"], &record["status"]), (&0.into(), &200.into()), "{record}");
    assert_eq!((&record["model"], &record["model_version"]), (&"projects/p/locations/l/models/m".into(), &"3".into()));
    assert_eq!(record.get("reason"), None, "{record}");
    assert!(gate.permitted(&said.id()));
}

#[tokio::test]
async fn policy_decides_on_the_resource_in_the_message_not_in_the_header() {
    let forbid = format!("@id(\"not-two\") forbid (principal, action, resource == Endpoint::\"{OTHER}\");");
    let (talker, gate) = start(&forbid).await;
    let mut line = Line::open(&gate).await;
    let token = gate.token("infer");
    for (path, message) in [
        (format!("{SERVICE}/Predict"), predict(OTHER)),
        ("/google.cloud.aiplatform.v1beta1.PredictionService/Predict".into(), predict(OTHER)),
        (format!("{SERVICE}/RawPredict"), message(&[(1, OTHER.as_bytes())])),
        (format!("{SERVICE}/GenerateContent"), message(&[(5, OTHER.as_bytes())])),
    ] {
        let params = format!("endpoint={ENDPOINT}");
        let said = line.unary(&path, &token, &[("x-goog-request-params", &params)], &frame(&message)).await;
        assert_eq!((said.status, said.code()), (StatusCode::OK, 7), "{path}: {said:?}");
        let record = gate.record(&said.id()).await;
        assert_eq!((&record["resource"], &record["reason"]), (&OTHER.into(), &"forbidden".into()), "{record}");
        assert_eq!((&record["grpc_status"], &record["decision"]), (&7.into(), &"deny".into()), "{record}");
    }
    assert_eq!(talker.count(), 0, "Vertex saw a refused call");
}

/// What a call is refused with: the gRPC status and the record's reason.
async fn refused(gate: &Gate, path: &str, token: &str, more: &[(&str, &str)], frames: &[u8], expected: (u16, &str)) {
    let said = Line::open(gate).await.unary(path, token, more, frames).await;
    let record = gate.record(&said.id()).await;
    let found = (said.code(), record["reason"].as_str().unwrap_or_default());
    assert_eq!(found, expected, "{path} {more:?}: {said:?} {record}");
    assert_eq!((said.status, said.headers["content-type"].to_str().unwrap()), (StatusCode::OK, "application/grpc"));
    assert!(said.data.is_empty() && said.headers.contains_key("grpc-message"), "{said:?}");
    assert!(!gate.permitted(&said.id()), "{record}");
}

#[tokio::test]
async fn every_refusal_is_a_status_that_grpc_clients_know() {
    let (talker, gate) = start("").await;
    let token = gate.token("infer");
    let path = format!("{SERVICE}/Predict");
    let path = path.as_str();
    let token = token.as_str();
    let good = frame(&predict(ENDPOINT));
    refused(&gate, path, "", &[], &good, (16, "no_token")).await;
    refused(&gate, path, &gate.token("ingest"), &[], &good, (7, "not_permitted")).await;
    refused(&gate, &format!("{SERVICE}/Predikt"), token, &[], &good, (12, "unknown_method")).await;
    refused(&gate, "/google.iam.v1.Nothing/Predict", token, &[], &good, (12, "unknown_method")).await;
    refused(&gate, "/grpc.reflection.v1.ServerReflection/X", token, &[], &good, (12, "unknown_route")).await;
    let elsewhere = frame(&predict("projects/p/locations/mars/endpoints/1"));
    refused(&gate, path, token, &[], &elsewhere, (5, "unknown_location")).await;
    refused(&gate, path, token, &[("grpc-encoding", "snappy")], &good, (12, "rpc_encoding")).await;
    refused(&gate, path, token, &[("grpc-encoding", "gzip")], &framed(1, b"no gzip"), (3, "rpc_malformed")).await;
    refused(&gate, path, token, &[], &framed(1, &predict(ENDPOINT)), (3, "rpc_malformed")).await;
    refused(&gate, path, token, &[], &[], (3, "rpc_malformed")).await;
    refused(&gate, path, token, &[], &good[..good.len() - 1], (3, "rpc_malformed")).await;
    refused(&gate, path, token, &[], &[&good[..], &good[..]].concat(), (3, "rpc_malformed")).await;
    refused(&gate, path, token, &[], &frame(b"\xff\xff\xff"), (3, "rpc_malformed")).await;
    refused(&gate, path, token, &[], &[0, 0, 0xa0, 0, 1], (8, "body_too_large")).await;
    refused(&gate, path, token, &[("grpc-timeout", "soon")], &good, (3, "rpc_timeout")).await;
    assert_eq!(talker.count(), 0, "Vertex saw a refused call");
}

#[tokio::test]
async fn an_ambiguous_resource_in_a_message_is_refused() {
    let (talker, gate) = start("").await;
    let token = gate.token("infer");
    let path = format!("{SERVICE}/Predict");
    for endpoint in [
        "",
        "endpoints/1",
        "projects/p/locations/us-central1/endpoints/1/",
        "projects/p/locations/us-central1//endpoints/1",
        "projects/p/locations/us-central1/endpoints/../endpoints/2",
        "projects/p/locations/us-central1/endpoints/1%2f2",
        "projects/p/locations/us-central1/endpoints/1?x=y",
        "projects/p/locations/us-central1/endpoints/1:explain",
        "projects/p/locations/us-central1/endpoints/1\n",
        "projects/p/locations/us-central1/endpoints/openapi",
        "projects/p/locations/us-central1/datasets/1",
        "//aiplatform.googleapis.com/projects/p/locations/us-central1/endpoints/1",
    ] {
        let sent = frame(&message(&[(1, endpoint.as_bytes())]));
        refused(&gate, &path, &token, &[], &sent, (3, "rpc_resource")).await;
    }
    for bad in [
        message(&[(1, ENDPOINT.as_bytes()), (1, OTHER.as_bytes())]),
        message(&[(1, OTHER.as_bytes()), (1, b"")]),
        message(&[(1, b"projects/p/locations/us-central1/endpoints/\xff")]),
        [message(&[(1, ENDPOINT.as_bytes())]), vec![0x08, 1]].concat(),
    ] {
        refused(&gate, &path, &token, &[], &frame(&bad), (3, "rpc_resource")).await;
    }
    assert_eq!(talker.count(), 0, "Vertex saw a refused call");
}

#[tokio::test]
async fn what_is_not_grpc_over_http2_is_no_call() {
    let (talker, gate) = start("").await;
    let token = gate.token("infer");
    let path = format!("{SERVICE}/Predict");
    let body = frame(&predict(ENDPOINT));
    let call = gate.post(&path).bearer(&token).header("content-type", "application/grpc").body(body.clone());
    let answer = call.send().await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (505, &"rpc_needs_http2".into()));
    for kind in ["application/json", "application/grpc-web", "application/grpc+json"] {
        let mut line = Line::open(&gate).await;
        let mut open = line.post(&path, &token, &[("content-type", kind)]);
        open.write(body.clone()).await;
        open.pen = None;
        let said = open.said().await;
        assert_eq!(said.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{kind}: {said:?}");
        assert_eq!(gate.record(&said.id()).await["reason"], "not_grpc", "{kind}");
    }
    let answer = gate.get(&path).bearer(&token).send().await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
    assert_eq!(talker.count(), 0, "Vertex saw a refused call");
}

#[tokio::test]
async fn a_compressed_message_is_read_and_forwarded_as_it_came() {
    let (talker, gate) = start("").await;
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(&predict(ENDPOINT)).unwrap();
    let sent = framed(1, &encoder.finish().unwrap());
    let mut line = Line::open(&gate).await;
    let path = format!("{SERVICE}/Predict");
    let token = gate.token("infer");
    let mut open = line.call(&path, &token, &[("grpc-encoding", "gzip")]);
    open.write(sent.clone()).await;
    open.pen = None;
    let mut forwarded = talker.next_request().await;
    assert_eq!(forwarded.header("grpc-encoding"), "gzip");
    assert_eq!(forwarded.body.rest().await.0, sent);
    let (pen, _) = forwarded.answer("application/grpc", &[]);
    pen.end(&[("grpc-status", "0")]).await;
    assert_eq!(open.said().await.code(), 0);

    // a reader that continues after the first gzip member would merge the rest into the message
    let member = |endpoint| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&predict(endpoint)).unwrap();
        encoder.finish().unwrap()
    };
    let two = framed(1, &[member(ENDPOINT), member("projects/p/locations/us-central1/endpoints/9")].concat());
    refused(&gate, &path, &token, &[("grpc-encoding", "gzip")], &two, (3, "rpc_malformed")).await;

    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&message(&[(1, ENDPOINT.as_bytes()), (2, &vec![0; 11 << 20])])).unwrap();
    let bomb = framed(1, &encoder.finish().unwrap());
    refused(&gate, &path, &token, &[("grpc-encoding", "gzip")], &bomb, (8, "body_too_large")).await;
}

#[tokio::test]
async fn a_stream_goes_both_ways_message_by_message() {
    let (talker, gate) = start("").await;
    let mut line = Line::open(&gate).await;
    let token = gate.token("infer");
    let mut open = line.call(&format!("{SERVICE}/StreamDirectPredict"), &token, &[]);
    let first = frame(&message(&[(1, ENDPOINT.as_bytes())]));
    open.write(first[..3].to_vec()).await;
    open.write(first[3..].to_vec()).await;
    let mut forwarded = talker.next_request().await;
    assert_eq!(forwarded.header("x-goog-request-params").split_once('=').unwrap().0, "endpoint");
    assert_eq!(forwarded.body.next().await.unwrap(), first);
    let (pen, mut heard) = forwarded.answer("application/grpc", &[]);
    pen.write(frame(b"one")).await;
    let (head, mut said) = open.head().await;
    assert_eq!(said.next().await.unwrap(), frame(b"one"));
    // only now does the client say more, with and without the endpoint's name
    for more in [frame(&message(&[(2, b"")])), frame(&message(&[(1, ENDPOINT.as_bytes())]))] {
        open.write(more.clone()).await;
        assert_eq!(heard.next().await.unwrap(), more);
        pen.write(frame(b"more")).await;
        assert_eq!(said.next().await.unwrap(), frame(b"more"));
    }
    open.pen = None;
    assert_eq!(heard.rest().await, (Vec::new(), Some(http::HeaderMap::new())));
    pen.end(&[("grpc-status", "0")]).await;
    assert_eq!(said.next().await.unwrap_err().unwrap()["grpc-status"], "0");
    let record = gate.record(head.headers()["x-request-id"].to_str().unwrap()).await;
    assert_eq!(record["action"], "PredictionService.StreamDirectPredict", "{record}");
}

#[tokio::test]
async fn later_messages_of_a_stream_cannot_name_another_endpoint() {
    let (talker, gate) = start("").await;
    let token = gate.token("infer");
    for (bad, reason) in [
        (frame(&message(&[(1, OTHER.as_bytes())])), "rpc_other_resource"),
        (frame(b"\xff\xff"), "rpc_malformed"),
        (vec![0, 0, 0xa0, 0, 1], "body_too_large"),
    ] {
        let mut line = Line::open(&gate).await;
        let mut open = line.call(&format!("{SERVICE}/StreamDirectPredict"), &token, &[]);
        open.write(frame(&message(&[(1, ENDPOINT.as_bytes())]))).await;
        let mut forwarded = talker.next_request().await;
        forwarded.body.next().await.unwrap();
        let (pen, mut heard) = forwarded.answer("application/grpc", &[]);
        pen.write(frame(b"one")).await;
        let (head, mut said) = open.head().await;
        said.next().await.unwrap();
        open.write(bad).await;
        let trailers = said.next().await.unwrap_err().expect("the stream breaks off without a status");
        let code = if reason == "body_too_large" { "8" } else { "3" };
        assert_eq!(trailers["grpc-status"], code, "{reason}");
        assert_eq!(heard.next().await, Err(None), "{reason}: the upstream saw the message, or a good end");
        let record = gate.record(head.headers()["x-request-id"].to_str().unwrap()).await;
        assert_eq!(record["reason"], reason, "{record}");
    }
}

#[tokio::test]
async fn responses_stream_as_they_arrive() {
    let (talker, gate) = start("").await;
    let token = gate.token("infer");
    let mut line = Line::open(&gate).await;
    // gRPC, server streaming
    let mut open = line.call(&format!("{SERVICE}/ServerStreamingPredict"), &token, &[]);
    open.write(frame(&message(&[(1, ENDPOINT.as_bytes())]))).await;
    open.pen = None;
    let (pen, _) = talker.next_request().await.answer("application/grpc", &[]);
    let (_, mut said) = open.head().await;
    for text in [&b"one"[..], b"two"] {
        pen.write(frame(text)).await;
        assert_eq!(said.next().await.unwrap(), frame(text));
    }
    pen.end(&[("grpc-status", "0")]).await;
    assert!(said.next().await.unwrap_err().is_some());
    // REST: a JSON array and server-sent events
    let model = "/v1/projects/p/locations/us-central1/publishers/google/models/gemini";
    for (path, media, chunks) in [
        (format!("{model}:streamGenerateContent"), "application/json", ["[{\"a\":1}", ",{\"a\":2}]"]),
        (
            format!("{model}:streamGenerateContent?alt=sse"),
            "text/event-stream",
            ["data: {}\r\n\r\n", "data: {}\r\n\r\n"],
        ),
        (format!("/v1/{ENDPOINT}:serverStreamingPredict"), "application/json", ["[{}", ",{}]"]),
    ] {
        let mut open = line.post(&path, &token, &[("content-type", "application/json")]);
        open.write("{}").await;
        open.pen = None;
        let (pen, _) = talker.next_request().await.answer(media, &[]);
        let (head, mut said) = open.head().await;
        assert_eq!(head.headers()["content-type"], media);
        for chunk in chunks {
            pen.write(chunk).await;
            assert_eq!(said.next().await.unwrap(), chunk, "{path}");
        }
    }
}

#[tokio::test]
async fn grpc_timeout_bounds_a_call() {
    let (talker, gate) = start("").await;
    let mut line = Line::open(&gate).await;
    let path = format!("{SERVICE}/Predict");
    let mut open = line.call(&path, &gate.token("infer"), &[("grpc-timeout", "200m")]);
    open.write(frame(&predict(ENDPOINT))).await;
    open.pen = None;
    // Vertex gets the request and does not answer
    let _forwarded = talker.next_request().await;
    let said = open.said().await;
    assert_eq!((said.code(), &gate.record(&said.id()).await["reason"]), (4, &"upstream_timeout".into()), "{said:?}");
}

#[tokio::test]
async fn an_upstream_with_tls_is_spoken_to_in_http2() {
    let harness = Harness::new().await;
    let talker = ScriptedUpstream::start_tls(harness.directory.path()).await;
    let port = talker.address.port();
    let section =
        format!("[vertex]\nlocations = [\"us-central1\"]\nurl = \"https://localhost:{port}\"\nca = \"ca.pem\"");
    let gate = harness.section("vertex", section).start().await;
    let mut line = Line::open(&gate).await;
    let mut open = line.call(&format!("{SERVICE}/Predict"), &gate.token("infer"), &[]);
    open.write(frame(&predict(ENDPOINT))).await;
    open.pen = None;
    let forwarded = talker.next_request().await;
    assert_eq!(forwarded.head.version, http::Version::HTTP_2);
    let (pen, _) = forwarded.answer("application/grpc", &[]);
    pen.end(&[("grpc-status", "0")]).await;
    assert_eq!(open.said().await.code(), 0);
}

#[tokio::test]
async fn an_upstream_that_is_away_is_unavailable() {
    let (talker, gate) = start("").await;
    drop(talker);
    let mut line = Line::open(&gate).await;
    let said = line.unary(&format!("{SERVICE}/Predict"), &gate.token("infer"), &[], &frame(&predict(ENDPOINT))).await;
    assert_eq!(
        (said.code(), &gate.record(&said.id()).await["reason"]),
        (14, &"upstream_unreachable".into()),
        "{said:?}"
    );
}

/// A role, a gRPC method and a message for it, and the REST call that is the same.
struct Same(&'static str, String, Vec<u8>, &'static str, String);

fn same() -> Vec<Same> {
    let location = "projects/p/locations/us-central1";
    let dataset = format!("{location}/datasets/1");
    let operation = format!("{dataset}/operations/2");
    let of = |name: &str| message(&[(1, name.as_bytes())]);
    let [vertex, operations, iam, locations] = [
        "google.cloud.aiplatform.v1",
        "google.longrunning.Operations",
        "google.iam.v1.IAMPolicy",
        "google.cloud.location.Locations",
    ];
    let same = |role, service: &str, method, message, verb, path| {
        Same(role, format!("/{service}{method}"), message, verb, path)
    };
    vec![
        same("infer", vertex, ".PredictionService/Predict", predict(ENDPOINT), "POST", format!("{ENDPOINT}:predict")),
        same("ingest", vertex, ".DatasetService/CreateDataset", of(location), "POST", format!("{location}/datasets")),
        same(
            "ingest",
            vertex,
            ".DatasetService/UpdateDataset",
            message(&[(1, &of(&dataset))]),
            "PATCH",
            dataset.clone(),
        ),
        same("ingest", operations, "/GetOperation", of(&operation), "GET", operation.clone()),
        same("ingest", operations, "/ListOperations", of(&dataset), "GET", format!("{dataset}/operations")),
        same("ingest", operations, "/CancelOperation", of(&operation), "POST", format!("{operation}:cancel")),
        same("administer", iam, "/SetIamPolicy", of(ENDPOINT), "POST", format!("{ENDPOINT}:setIamPolicy")),
        same("observe", locations, "/GetLocation", of(location), "GET", location.to_owned()),
    ]
}

#[tokio::test]
async fn rest_and_grpc_are_the_same_action_on_the_same_resource() {
    let (talker, gate) = start("").await;
    for Same(role, rpc, message, verb, path) in same() {
        let token = gate.token(role);
        let mut line = Line::open(&gate).await;
        let mut open = line.call(&rpc, &token, &[]);
        open.write(frame(&message)).await;
        open.pen = None;
        let answered = async {
            let (pen, _) = talker.next_request().await.answer("application/grpc", &[]);
            pen.end(&[("grpc-status", "0")]).await;
        };
        let (said, ()) = tokio::join!(open.said(), answered);
        assert_eq!(said.code(), 0, "{rpc}");
        let call = gate.call(verb.parse().unwrap(), &format!("/v1/{path}")).bearer(&token);
        let call = if verb == "GET" { call } else { call.body("{}") };
        let answered = async {
            let (pen, _) = talker.next_request().await.answer("application/json", &[]);
            pen.write("{}").await;
        };
        let (answer, ()) = tokio::join!(call.send(), answered);
        let one = gate.record(&said.id()).await;
        let two = gate.record(&answer.id()).await;
        for field in ["action", "resource", "policies", "credential"] {
            assert_eq!(one[field], two[field], "{rpc} and {verb} {path}: {field}");
        }
    }
}
