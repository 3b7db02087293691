//! The Vertex SDK as published uses the gate with nothing but an OIDC token.

use serde_json::json;

use crate::support::{Harness, peers::vertex_sdk};

#[tokio::test]
async fn endpoint_predict_works_unchanged_for_who_may_infer_and_for_nobody_else() {
    let gate = Harness::new().await.start().await;
    let (address, ca) = (format!("https://localhost:{}", gate.address().port()), gate.directory.join("ca.pem"));
    let instances = json!([{"input": [1.0, 2.0, 3.0, 4.0], "horizon": 2}]).to_string();
    let ask = async |token: String| {
        vertex_sdk("predict.py", &ca, &[&address, &token, "p", "us-central1", "1", &instances]).await
    };

    let answer = ask(gate.token("infer")).await;
    assert_eq!(answer["predictions"][0]["mean"], json!([4.0, 4.0]), "{answer}");
    assert_eq!(answer["model_version"], "3", "{answer}");
    let seen = gate.google.vertex().pop().expect("Vertex saw nothing");
    assert!(seen.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", seen.headers);

    let answer = ask(gate.token("ingest")).await;
    assert_eq!(answer["refused"], "PermissionDenied", "{answer}");
    assert_eq!(gate.google.vertex().len(), 1, "Vertex saw a refused request");
    let refused = gate.audit().into_iter().find(|line| line["decision"] == "deny" && line["event"] == "request");
    assert_eq!(refused.expect("no record of the refusal")["action"], "PredictionService.Predict");
}
