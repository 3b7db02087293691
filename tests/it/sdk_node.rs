//! Google's published Vertex client for Node with an OIDC token and no Google credential, over gRPC and REST.

use serde_json::{Value, json};

use crate::support::{
    Gate, Harness,
    sdk::{records, vertex_node},
};

const ENDPOINT: &str = "projects/p/locations/us-central1/endpoints/1";
/// What the client's users look at in its error: over gRPC the number of PERMISSION_DENIED; over REST the HTTP status,
/// with the whole body as the message. (Its reader of Google's errors is never reached: gaxios throws before.)
const REFUSED: [(&str, u64); 3] = [("grpc", 7), ("stream", 7), ("rest", 403)];

async fn ask(gate: &Gate, way: &str, role: &str) -> Value {
    let port = gate.address().port().to_string();
    let ca = gate.directory.join("ca.pem");
    let instances = json!([{"input": [1, 2, 3, 4], "horizon": 2}]).to_string();
    vertex_node("predict.mjs", &ca, &[way, &port, &gate.token(role), ENDPOINT, &instances]).await
}

async fn check(way: &str, action: &str, expected: Value) {
    let gate = Harness::new().await.start().await;
    let answer = ask(&gate, way, "infer").await;
    assert_eq!(answer, expected, "{way}");
    let seen = gate.google.vertex().pop().expect("Vertex saw nothing");
    assert!(seen.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", seen.headers);

    let answer = ask(&gate, way, "ingest").await;
    let code = REFUSED.iter().find(|(of, _)| *of == way).unwrap().1;
    assert_eq!(answer["refused"], code, "{way}: {answer}");
    assert!(answer["message"].as_str().unwrap().contains("PERMISSION_DENIED"), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("ingest"), "the caller is not told why: {answer}");
    assert_eq!(gate.google.vertex().len(), 1, "Vertex saw a refused request");
    assert_eq!(records(&gate, "deny", 1).await[0]["action"], action);
}

#[tokio::test]
async fn predict_works_unchanged_over_grpc_for_an_infer_role_only() {
    let expected = json!({"predictions": 1, "model_version": "3"});
    check("grpc", "PredictionService.Predict", expected).await;
}

#[tokio::test]
async fn predict_works_unchanged_over_rest_for_an_infer_role_only() {
    let expected = json!({"predictions": 1, "model_version": "3"});
    check("rest", "PredictionService.Predict", expected).await;
}

#[tokio::test]
async fn a_stream_of_responses_arrives_whole() {
    let expected = json!({"pieces": 3});
    check("stream", "PredictionService.ServerStreamingPredict", expected).await;
}
