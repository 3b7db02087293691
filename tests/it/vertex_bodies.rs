//! Names in Vertex request bodies: policy decides on them, and an unreadable body is refused.

use serde_json::Value;

use crate::support::{
    Gate, Harness,
    scripted_upstream::{Line, ScriptedUpstream, frame, message},
};

const LOCATION: &str = "projects/p/locations/us-central1";
const FORBIDS: &str = r#"
@id("secret-bucket")
forbid (principal, action, resource) when { context has names && context.names.buckets.contains(Bucket::"secret") };
@id("own-account")
forbid (principal, action, resource) when {
    context has names
        && context.names.service_accounts.contains(ServiceAccount::"boss@p.iam.gserviceaccount.com")
};
@id("model-two")
forbid (principal, action, resource) when {
    context has names
        && context.names.models.contains(Model::"projects/p/locations/us-central1/models/two")
};
@id("raw-unseen")
forbid (principal, action == Action::"PredictionService.RawPredict", resource) unless { context has names };
@id("small")
forbid (principal, action == Action::"PredictionService.Explain", resource) unless {
    context has size && context.size < 20
};
@id("confined")
forbid (principal, action == Action::"PipelineService.CreateTrainingPipeline", resource) unless {
    context has names
        && [ServiceAccount::"train@p.iam.gserviceaccount.com"].containsAll(context.names.service_accounts)
        && [Bucket::"training"].containsAll(context.names.buckets)
};
"#;

async fn start() -> Gate {
    let harness = Harness::new().await;
    harness.directory.write("policies/names.cedar", FORBIDS);
    harness.start().await
}

/// Posts `body` and says which policy decided, or the reason of the refusal.
async fn posted(
    gate: &Gate,
    role: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: impl Into<Vec<u8>>,
) -> (u16, String) {
    let seen = gate.google.vertex().len();
    let mut call = gate.post(target).bearer(&gate.token(role));
    for (name, value) in headers {
        call = call.header(name, value);
    }
    let answer = call.body(body.into()).send().await;
    let record = gate.record(&answer.id()).await;
    let forwarded = gate.google.vertex().len() - seen;
    assert_eq!(forwarded, usize::from(answer.status.is_success()), "{record}");
    let word = if record["reason"] == "forbidden" { &record["policies"][0] } else { &record["reason"] };
    (answer.status.as_u16(), word.as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn policy_sees_the_names_in_a_body() {
    let gate = start().await;
    let jobs = format!("/v1/{LOCATION}/customJobs");
    let job = |text: &str| format!(r#"{{"displayName":"j","jobSpec":{{"workerPoolSpecs":[{text}]}}}}"#);
    let deploy = format!("/v1/{LOCATION}/endpoints/1:deployModel");
    let predict = format!("/v1/{LOCATION}/endpoints/1:predict");
    let pipelines = format!("/v1/{LOCATION}/trainingPipelines");
    for (role, target, body, expected) in [
        ("train", &jobs, job(r#"{"args":["--in=gs://open/a"]}"#), (200, "")),
        ("train", &jobs, job(r#"{"args":["--in=gs://secret/a"]}"#), (403, "secret-bucket")),
        ("train", &jobs, job(r#"{"args":["--in=\u0067s:\/\/secret\/a"]}"#), (403, "secret-bucket")),
        ("train", &jobs, job(r#"{"gs://secret/a":1}"#), (403, "secret-bucket")),
        ("train", &jobs, job(r#"{"a":"gs://secret/a","a":"b"}"#), (403, "secret-bucket")),
        (
            "train",
            &jobs,
            r#"{"jobSpec":{"serviceAccount":"boss@p.iam.gserviceaccount.com"}}"#.into(),
            (403, "own-account"),
        ),
        ("administer", &deploy, format!(r#"{{"deployedModel":{{"model":"{LOCATION}/models/one"}}}}"#), (200, "")),
        (
            "administer",
            &deploy,
            format!(r#"{{"deployedModel":{{"model":"{LOCATION}/models/two"}}}}"#),
            (403, "model-two"),
        ),
        (
            "administer",
            &deploy,
            format!(r#"{{"deployedModel":{{"model":"//aiplatform.googleapis.com/{LOCATION}/models/two"}}}}"#),
            (403, "model-two"),
        ),
        ("train", &pipelines, r#"{"a":"gs://training/x","b":"train@p.iam.gserviceaccount.com"}"#.into(), (200, "")),
        (
            "train",
            &pipelines,
            r#"{"a":"gs://other/x","b":"train@p.iam.gserviceaccount.com"}"#.into(),
            (403, "confined"),
        ),
        ("infer", &predict, r#"{"instances":[{"uri":"gs://secret/a"}]}"#.into(), (403, "secret-bucket")),
        ("infer", &format!("{predict}?x=gs://secret/a"), r#"{"instances":[]}"#.into(), (403, "secret-bucket")),
    ] {
        let found = posted(&gate, role, target, &[], body.clone()).await;
        assert_eq!((found.0, found.1.as_str()), expected, "{target} {body}");
    }
}

#[tokio::test]
async fn policy_sees_the_names_in_a_message() {
    let talker = ScriptedUpstream::start().await;
    let harness = Harness::new().await.section("vertex", talker.section());
    harness.directory.write("policies/names.cedar", FORBIDS);
    let gate = harness.start().await;
    let mut line = Line::open(&gate).await;
    let spec = message(&[(4, b"boss@p.iam.gserviceaccount.com")]);
    let sent = frame(&message(&[(1, LOCATION.as_bytes()), (2, &message(&[(4, &spec)]))]));
    let path = "/google.cloud.aiplatform.v1.JobService/CreateCustomJob";
    let said = line.unary(path, &gate.token("train"), &[], &sent).await;
    let record = gate.record(&said.id()).await;
    assert_eq!((said.code(), &record["policies"][0]), (7, &"own-account".into()), "{record}");
    assert_eq!(talker.count(), 0, "Vertex saw a refused call");
}

#[tokio::test]
async fn an_ambiguous_body_is_refused() {
    let gate = start().await;
    let predict = format!("/v1/{LOCATION}/endpoints/1:predict");
    let json: &[(&str, &str)] = &[("content-type", "application/json; charset=UTF-8")];
    for (headers, body, expected) in [
        (json, &b"{}"[..], (200, "")),
        (&[], b"{}", (200, "")),
        (&[], b"", (200, "")),
        (json, b"{'instances':[]}", (400, "body_not_json")),
        (json, b"{} {}", (400, "body_not_json")),
        (json, b"\x0a\x01a", (400, "body_not_json")),
        (json, &[b'['; 300], (400, "body_not_json")),
        (&[("content-type", "application/x-protobuf")], b"{}", (415, "body_not_json")),
        (&[("content-type", "multipart/mixed; boundary=x")], b"{}", (415, "body_not_json")),
        (&[("content-type", "application/json"), ("content-type", "text/plain")], b"{}", (415, "body_not_json")),
        (&[("content-encoding", "gzip")], b"{}", (415, "body_not_json")),
    ] {
        let found = posted(&gate, "infer", &predict, headers, body).await;
        assert_eq!(
            (found.0, found.1.as_str()),
            expected,
            "{headers:?} {}",
            String::from_utf8_lossy(&body[..body.len().min(40)])
        );
    }
}

#[tokio::test]
async fn an_oversized_body_is_refused_before_forwarding() {
    let gate = start().await;
    let head = format!(
        "POST /v1/{LOCATION}/endpoints/1:predict HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {}\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n",
        gate.token("infer"),
        (10 << 20) + 1
    );
    let answer = gate.door(0, b"http/1.1").raw(head.as_bytes()).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["reason"]), (413, &"body_too_large".into()));
    assert_eq!(gate.record(&answer.id()).await["reason"], "body_too_large");
    assert!(gate.google.vertex().is_empty(), "Vertex saw a refused request");
}

#[tokio::test]
async fn a_raw_predict_body_passes_unread_and_policy_sees_that() {
    let gate = start().await;
    let raw = format!("/v1/{LOCATION}/endpoints/1:rawPredict");
    let bytes = b"\x00\x01 no JSON at all";
    assert_eq!(posted(&gate, "infer", &raw, &[], bytes).await, (403, "raw-unseen".into()));
    assert_eq!(posted(&gate, "infer", &raw, &[], r#"{"a":"gs://open/a"}"#).await, (200, String::new()));
    assert_eq!(posted(&gate, "infer", &raw, &[], r#"{"a":"gs://secret/a"}"#).await, (403, "secret-bucket".into()));
    let packed = [("content-encoding", "gzip"), ("content-type", "application/octet-stream")];
    let invoke = format!("/v1/{LOCATION}/endpoints/1/invoke/any/thing");
    assert_eq!(posted(&gate, "infer", &invoke, &packed, bytes).await, (200, String::new()));
    let seen = gate.google.vertex().pop().unwrap();
    assert_eq!((&seen.body[..], seen.header("content-encoding")), (&bytes[..], "gzip"));
}

#[tokio::test]
async fn policy_sees_the_actual_size_of_a_body() {
    let gate = start().await;
    let explain = format!("/v1/{LOCATION}/endpoints/1:explain");
    assert_eq!(posted(&gate, "infer", &explain, &[], r#"{"instances":[]}"#).await.0, 200);
    assert_eq!(posted(&gate, "infer", &explain, &[], r#"{"instances":[1,2,3]}"#).await, (403, "small".into()));
    let raw = format!(
        "POST {explain} HTTP/1.1\r\nhost: gate\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n15\r\n{{\"instances\":[1,2,3]}}\r\n0\r\n\r\n",
        gate.token("infer")
    );
    let answer = gate.door(0, b"http/1.1").raw(raw.as_bytes()).await;
    assert_eq!(answer.status, 403, "{answer:?}");
}

#[tokio::test]
async fn a_forbid_on_an_endpoint_covers_the_paths_below_it() {
    let harness = Harness::new().await;
    let one = format!("forbid (principal, action, resource == Endpoint::\"{LOCATION}/endpoints/1\");");
    harness.directory.write("policies/one.cedar", one);
    let gate = harness.start().await;
    for tail in
        [":predict", "/invoke/a/b", "/invoke/a:b", "/deployedModels/7/invoke/a", "/chat/completions", ":rawPredict"]
    {
        for (endpoint, status) in [("1", 403), ("2", 200)] {
            let target = format!("/v1/{LOCATION}/endpoints/{endpoint}{tail}");
            let answer = gate.post(&target).bearer(&gate.token("infer")).body("{}").send().await;
            assert_eq!(answer.status.as_u16(), status, "{target}: {answer:?}");
            let name: Value = format!("{LOCATION}/endpoints/{endpoint}").into();
            assert_eq!(gate.record(&answer.id()).await["resource"], name, "{target}");
        }
    }
}

#[tokio::test]
async fn a_model_response_is_requested_whole_and_uncompressed() {
    let gate = start().await;
    let json = [("content-type", "application/json")];
    let generate = format!("/v1/{LOCATION}/publishers/google/models/gemini:generateContent");
    for query in ["alt=json", "alt=sse", "%24alt=json%3Benum-encoding%3Dint", "prettyPrint=false"] {
        assert_eq!(posted(&gate, "infer", &format!("{generate}?{query}"), &json, "{}").await.0, 200, "{query}");
    }
    for query in ["fields=candidates", "%24fields=candidates", "FIELDS=a", "alt=proto", "%24alt=proto", "alt=media"] {
        let refused = posted(&gate, "infer", &format!("{generate}?{query}"), &json, "{}").await;
        assert_eq!(refused, (400, "query_refused".into()), "{query}");
    }
    let masked = [json[0], ("X-Goog-FieldMask", "candidates")];
    assert_eq!(posted(&gate, "infer", &generate, &masked, "{}").await.0, 200);
    let seen = gate.google.vertex();
    assert!(!seen.last().unwrap().headers.contains_key("x-goog-fieldmask"), "{seen:?}");
}
