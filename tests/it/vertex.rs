//! Vertex methods: each class has a service account of its own, and a method outside the table is refused.

use http::Method;

use crate::support::{Harness, upstream};

const ENDPOINT: &str = "projects/p/locations/us-central1/endpoints/1";
const BODY: &str = r#"{"instances":[{"input":[1,2,3],"horizon":2}]}"#;

#[tokio::test]
async fn a_prediction_reaches_vertex_with_the_gates_credential_and_comes_back_untouched() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("infer");
    let target = format!("/v1/{ENDPOINT}:predict?%24alt=json%3Benum-encoding%3Dint");
    let answer = gate
        .post(&target)
        .bearer(&token)
        .header("content-type", "application/json")
        .header("x-goog-api-client", "gl-python/3.11 rest/2.32")
        .header("x-goog-request-params", &format!("endpoint={ENDPOINT}"))
        .body(BODY)
        .send()
        .await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["predictions"][0]["mean"], serde_json::json!([3, 3]));

    let seen = gate.google.vertex().pop().expect("Vertex saw nothing");
    assert_eq!((&seen.method, seen.target.as_str()), (&Method::POST, target.as_str()));
    assert_eq!(&seen.body[..], BODY.as_bytes());
    assert!(seen.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", seen.headers);
    assert_eq!(seen.header("x-goog-api-client"), "gl-python/3.11 rest/2.32");
    assert!(!format!("{:?}", seen.headers).contains(&token), "Vertex saw the caller's token");

    let record = gate.record(&answer.id()).await;
    assert_eq!(record["action"], "PredictionService.Predict", "{record}");
    assert_eq!(record["resource"], ENDPOINT, "{record}");
    assert_eq!(record["bytes_in"], BODY.len(), "{record}");
    assert_eq!(record["bytes_out"], answer.body.len(), "{record}");
    assert_eq!((&record["model_version"], &record["credential_generation"]), (&"3".into(), &1.into()), "{record}");
    assert!(record["credential"].as_str().is_some_and(|name| name.contains("infer")), "{record}");
    assert!(!record.to_string().contains("google-token-of"), "the record holds the credential: {record}");
}

#[tokio::test]
async fn each_class_of_method_has_a_service_account_of_its_own() {
    let gate = Harness::new().await.start().await;
    let location = "projects/p/locations/us-central1";
    for (role, method, target) in [
        ("infer", Method::POST, format!("/v1/{ENDPOINT}:rawPredict")),
        ("infer", Method::POST, format!("/v1beta1/{location}/publishers/google/models/gemini-2:generateContent")),
        ("ingest", Method::POST, format!("/v1/{location}/datasets")),
        ("train", Method::POST, format!("/v1/{location}/customJobs")),
        ("observe", Method::GET, format!("/v1/{location}/endpoints")),
        ("administer", Method::POST, format!("/v1/{location}/endpoints/1:setIamPolicy")),
    ] {
        let answer = gate.call(method, &target).bearer(&gate.token(role)).body("{}").send().await;
        assert_eq!(answer.status, 200, "{role} {target}: {answer:?}");
        let seen = gate.google.vertex().pop().expect("Vertex saw nothing");
        assert_eq!(seen.target, target);
        let expected = format!("Bearer google-token-of-{role}@");
        assert!(seen.header("authorization").starts_with(&expected), "{role} {target}: {:?}", seen.headers);
    }
}

#[tokio::test]
async fn no_role_reaches_another_roles_methods() {
    let gate = Harness::new().await.start().await;
    let location = "projects/p/locations/us-central1";
    let methods = [
        ("infer", Method::POST, format!("/v1/{ENDPOINT}:predict")),
        ("ingest", Method::POST, format!("/v1/{location}/datasets")),
        ("train", Method::POST, format!("/v1/{location}/customJobs")),
        ("observe", Method::GET, format!("/v1/{location}/endpoints")),
        ("administer", Method::POST, format!("/v1/{ENDPOINT}:setIamPolicy")),
    ];
    for role in ["scrape", "ingest", "infer", "train", "observe", "administer"] {
        for (class, method, target) in methods.iter().filter(|(class, ..)| *class != role) {
            let answer = gate.call(method.clone(), target).bearer(&gate.token(role)).body("{}").send().await;
            assert_eq!(answer.status, 403, "{role} did {class}: {answer:?}");
        }
    }
    assert!(gate.google.vertex().is_empty(), "Vertex saw a refused request");
}

#[tokio::test]
async fn operations_belong_to_the_class_of_their_resource() {
    let gate = Harness::new().await.start().await;
    let location = "projects/p/locations/us-central1";
    let data = "datasets/1";
    let job = "customJobs/1";
    let endpoint = "endpoints/1";
    for (role, method, path, custom, account) in [
        ("ingest", Method::GET, data, "", Some("ingest")),
        ("ingest", Method::POST, data, ":wait", Some("ingest")),
        ("ingest", Method::POST, data, ":cancel", Some("ingest")),
        ("ingest", Method::DELETE, data, "", None),
        ("ingest", Method::GET, job, "", None),
        ("ingest", Method::GET, endpoint, "", None),
        ("infer", Method::GET, data, "", None),
        ("train", Method::GET, job, "", Some("train")),
        ("train", Method::GET, data, "", None),
        ("observe", Method::GET, data, "", None),
        ("observe", Method::GET, job, "", None),
        ("observe", Method::GET, endpoint, "", None),
        ("observe", Method::POST, job, ":cancel", None),
        ("administer", Method::GET, endpoint, "", Some("administer")),
        ("administer", Method::DELETE, data, "", Some("administer")),
        ("administer", Method::GET, data, "", None),
    ] {
        let target = format!("/v1/{location}/{path}/operations/7{custom}");
        let seen = gate.google.vertex().len();
        let answer = gate.call(method.clone(), &target).bearer(&gate.token(role)).send().await;
        let case = format!("{role} {method} {target}: {answer:?}");
        assert_eq!(answer.status, if account.is_some() { 200 } else { 403 }, "{case}");
        let forwarded = gate.google.vertex().split_off(seen);
        assert_eq!(forwarded.len(), usize::from(account.is_some()), "{case}");
        if let (Some(account), Some(seen)) = (account, forwarded.first()) {
            let shown = format!("Bearer google-token-of-{account}@");
            assert!(seen.header("authorization").starts_with(&shown), "{case} {:?}", seen.headers);
        }
    }
}

#[tokio::test]
async fn the_model_version_comes_from_google_not_from_the_model() {
    let harness = Harness::new().await;
    harness.google.server.intercept(|seen| {
        let lie = r#"{"model":"lie","modelVersionId":"9","modelVersion":"9"}"#;
        let padding = " ".repeat(9000);
        let text = if seen.target.contains(":predict") {
            format!(r#"{{"modelVersionId":"3","model":"m","predictions":[{lie},"\"modelVersionId\":\"9\""]{padding}}}"#)
        } else if seen.target.contains("alt=sse") {
            format!("data: {{\"modelVersion\":\"g-1\",\"candidates\":[{lie}]}}\r\n\r\n")
        } else if seen.target.contains(":streamGenerateContent") {
            format!(r#"[{{"modelVersion":"g-2","candidates":[{lie}]}},{{"candidates":[{lie}]}}]"#)
        } else if seen.target.contains(":rawPredict") {
            lie.to_owned()
        } else {
            return None;
        };
        let kind = if seen.target.contains("alt=sse") { "text/event-stream" } else { "application/json" };
        Some(upstream::reply(http::StatusCode::OK, kind, text))
    });
    let gate = harness.start().await;
    let model = "projects/p/locations/us-central1/publishers/google/models/gemini";
    for (target, named, version) in [
        (format!("{ENDPOINT}:predict"), Some("m"), Some("3")),
        (format!("{model}:streamGenerateContent?alt=sse"), None, Some("g-1")),
        (format!("{model}:streamGenerateContent"), None, Some("g-2")),
        (format!("{ENDPOINT}:rawPredict"), None, None),
    ] {
        let answer = gate.post(&format!("/v1/{target}")).bearer(&gate.token("infer")).body("{}").send().await;
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        let record = gate.record(&answer.id()).await;
        assert_eq!(
            (record["model"].as_str(), record["model_version"].as_str()),
            (named, version),
            "{target}: {record}"
        );
    }
}

#[tokio::test]
async fn fields_that_google_reads_as_credential_or_method_are_refused() {
    let gate = Harness::new().await.start().await;
    let token = gate.token("infer");
    for query in ["access_token=stolen", "oauth_token=stolen", "key=stolen", "%61ccess_token=stolen"] {
        let target = format!("/v1/{ENDPOINT}:predict?{query}");
        let answer = gate.post(&target).bearer(&token).body(BODY).send().await;
        let forwarded = gate.google.vertex().iter().any(|seen| seen.target.contains("stolen"));
        assert!(!forwarded, "`{query}` travelled: {answer:?}");
    }
    let call = gate.post(&format!("/v1/{ENDPOINT}:predict")).bearer(&token).header("x-http-method-override", "DELETE");
    call.header("x-goog-user-project", "victim").body(BODY).send().await;
    let told = gate.google.vertex().iter().any(|seen| seen.headers.contains_key("x-http-method-override"));
    assert!(!told, "the method override travelled");
    for target in
        ["/batch", "/resumable/upload/v1/x", "/upload/v1/projects/p/locations/us-central1/endpoints/1:predict"]
    {
        assert_eq!(gate.post(target).bearer(&token).body(BODY).send().await.status, 404, "{target}");
    }
}
