//! The published google-genai client with an OIDC token and no Google credential; it speaks v1beta1 and streams.

use serde_json::{Value, json};

use crate::support::{
    Gate, Harness,
    google::GENERATED,
    sdk::{genai, records},
};

const MODEL: &str = "projects/p/locations/us-central1/publishers/google/models/gemini-2";

async fn ask(gate: &Gate, way: &str, role: &str) -> Value {
    let address = format!("https://localhost:{}", gate.address().port());
    let ca = gate.directory.join("ca.pem");
    genai("generate.py", &ca, &[way, &address, &gate.token(role), "p", "us-central1"]).await
}

async fn check(way: &str, action: &str, expected: Value) {
    let gate = Harness::new().await.start().await;
    let answer = ask(&gate, way, "infer").await;
    assert_eq!(answer, expected, "{way}");
    let seen = gate.google.vertex().pop().expect("Vertex saw nothing");
    assert!(seen.target.starts_with(&format!("/v1beta1/{MODEL}:")), "{}", seen.target);
    assert!(seen.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", seen.headers);

    for role in ["ingest", "train"] {
        let answer = ask(&gate, way, role).await;
        let told = (&answer["refused"], &answer["code"], &answer["status"]);
        assert_eq!(told, (&json!("ClientError"), &json!(403), &json!("PERMISSION_DENIED")), "{role}: {answer}");
        assert!(answer["message"].as_str().unwrap().contains(role), "the caller is not told why: {answer}");
    }
    assert_eq!(gate.google.vertex().len(), 1, "Vertex saw a refused request");
    let refused = records(&gate, "deny", 2).await;
    assert!(refused.iter().all(|line| line["action"] == action && line["resource"] == MODEL), "{refused:?}");
}

#[tokio::test]
async fn generate_content_works_unchanged_for_an_infer_role_only() {
    let expected = json!({"pieces": [GENERATED.concat()], "model_version": "gemini-2-001"});
    check("once", "PredictionService.GenerateContent", expected).await;
}

#[tokio::test]
async fn generated_content_streams() {
    let expected = json!({"pieces": GENERATED, "model_version": "gemini-2-001"});
    check("stream", "PredictionService.StreamGenerateContent", expected.clone()).await;
    check("async", "PredictionService.StreamGenerateContent", expected).await;
}

#[tokio::test]
async fn tokens_are_counted_for_an_infer_role() {
    check("tokens", "LlmUtilityService.CountTokens", json!({"tokens": 7})).await;
}
