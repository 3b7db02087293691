//! The Vertex SDK as published uses the gate with nothing but an OIDC token.

use serde_json::{Value, json};

use crate::support::{Gate, Harness, peers::vertex_sdk};

/// What the SDK raises for 403 over REST. (Over gRPC it is the subclass `PermissionDenied`.)
const REFUSED: &str = "Forbidden";

async fn ask(gate: &Gate, way: &str, role: &str) -> Value {
    let (address, ca) = (format!("https://localhost:{}", gate.address().port()), gate.directory.join("ca.pem"));
    let instances = json!([{"input": [1.0, 2.0, 3.0, 4.0], "horizon": 2}]).to_string();
    vertex_sdk("predict.py", &ca, &[way, &address, &gate.token(role), "p", "us-central1", "1", &instances]).await
}

#[tokio::test]
async fn endpoint_predict_works_unchanged_for_who_may_infer_and_for_nobody_else() {
    let gate = Harness::new().await.start().await;
    let answer = ask(&gate, "endpoint", "infer").await;
    assert_eq!(answer["predictions"][0]["mean"], json!([4.0, 4.0]), "{answer}");
    assert_eq!(answer["model_version"], "3", "{answer}");
    let asked = gate.google.vertex();
    let predicted = asked.last().expect("Vertex saw nothing");
    assert!(predicted.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", predicted.headers);

    let answer = ask(&gate, "endpoint", "ingest").await;
    assert_eq!(answer["refused"], REFUSED, "{answer}");
    assert_eq!(gate.google.vertex().len(), asked.len(), "Vertex saw a refused request");
}

#[tokio::test]
async fn the_services_client_is_refused_prediction_with_an_ingestion_token() {
    let gate = Harness::new().await.start().await;
    let answer = ask(&gate, "client", "infer").await;
    assert_eq!(answer["model_version"], "3", "{answer}");

    let answer = ask(&gate, "client", "ingest").await;
    assert_eq!(answer["refused"], REFUSED, "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("ingest"), "the caller is not told why: {answer}");
    assert_eq!(gate.google.vertex().len(), 1, "Vertex saw a refused request");
    let refused = gate.audit().into_iter().find(|line| line["decision"] == "deny" && line["event"] == "request");
    assert_eq!(refused.expect("no record of the refusal")["action"], "PredictionService.Predict");
}
