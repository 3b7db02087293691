//! Vertex behind the gate: each class of method with a service account of its own, and nothing the table does not know.

use http::Method;

use crate::support::Harness;

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
async fn what_google_would_take_for_a_credential_or_another_method_does_not_travel() {
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
    for target in ["/batch", "/upload/v1/projects/p/locations/us-central1/endpoints/1:predict"] {
        assert_eq!(gate.post(target).bearer(&token).body(BODY).send().await.status, 404, "{target}");
    }
}
