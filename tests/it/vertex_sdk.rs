//! The published Vertex SDK for Python with an OIDC token and no Google credential, over REST and gRPC.

use http::Method;
use serde_json::{Value, json};

use wicketgate::internals::{Directory, ENDPOINT, Environment, LOCATION, PROJECT, Ports};

use crate::support::{
    Gate, Harness,
    call::{Call, Connector},
    eventually,
    peers::free_address,
    program::{Program, listening, wicketgate},
    sdk::{records, vertex_sdk},
};

/// What the SDK raises for 403 over REST. Over gRPC it is the subclass `PermissionDenied`.
const REFUSED: [(&str, &str); 2] = [("rest", "Forbidden"), ("grpc", "PermissionDenied")];

async fn ask(gate: &Gate, way: &str, transport: &str, role: &str) -> Value {
    let port = gate.address().port();
    let ca = gate.directory.join("ca.pem");
    let scheme = if transport == "rest" { "https://" } else { "" };
    let address = format!("{scheme}localhost:{port}");
    let instances = json!([{"input": [1.0, 2.0, 3.0, 4.0], "horizon": 2}]).to_string();
    let token = gate.token(role);
    vertex_sdk("predict.py", &ca, &[way, transport, &address, &token, "p", "us-central1", "1", &instances]).await
}

/// An answer for who may infer, with the gate's credential; for who may ingest, the SDK's own error, a record, and
/// silence at Google.
async fn check(way: &str, transport: &str, action: &str, expected: Value) {
    let gate = Harness::new().await.start().await;
    let answer = ask(&gate, way, transport, "infer").await;
    assert_eq!(answer, expected, "{way} over {transport}");
    let asked = gate.google.vertex();
    let last = asked.last().expect("Vertex saw nothing");
    assert!(last.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", last.headers);
    let record = records(&gate, "allow", 1).await.remove(0);
    assert_eq!(record["action"], action, "{record}");
    assert_eq!(record["principal"], "corp:tester", "{record}");

    let answer = ask(&gate, way, transport, "ingest").await;
    let class = REFUSED.iter().find(|(of, _)| *of == transport).unwrap().1;
    assert_eq!(answer["refused"], class, "{way} over {transport}: {answer}");
    assert!(answer["message"].as_str().unwrap().contains("ingest"), "the caller is not told why: {answer}");
    if transport == "grpc" {
        assert_eq!(answer["status"], "PERMISSION_DENIED", "{answer}");
    }
    assert_eq!(gate.google.vertex().len(), asked.len(), "Vertex saw a refused request");
    let refused = records(&gate, "deny", 1).await.remove(0);
    assert_eq!(refused["action"], action, "{refused}");
    assert_eq!(refused["roles"], json!(["ingest"]), "{refused}");
}

fn forecast() -> Value {
    json!({"predictions": [[4.0, 4.0]], "model_version": "3"})
}

/// What `Endpoint.predict` gives, cut to what matters.
async fn endpoint(transport: &str) {
    let gate = Harness::new().await.start().await;
    let mut answer = ask(&gate, "endpoint", transport, "infer").await;
    answer["predictions"] = json!([answer["predictions"][0]["mean"]]);
    assert_eq!(answer, forecast(), "{transport}");
    let asked = gate.google.vertex();
    let predicted = asked.last().expect("Vertex saw nothing");
    assert!(predicted.header("authorization").starts_with("Bearer google-token-of-infer@"), "{:?}", predicted.headers);

    let answer = ask(&gate, "endpoint", transport, "ingest").await;
    let class = REFUSED.iter().find(|(of, _)| *of == transport).unwrap().1;
    assert_eq!(answer["refused"], class, "{answer}");
    assert_eq!(gate.google.vertex().len(), asked.len(), "Vertex saw a refused request");
}

#[tokio::test]
async fn endpoint_predict_works_unchanged_for_an_infer_role_only() {
    endpoint("rest").await;
}

#[tokio::test]
async fn endpoint_predict_works_unchanged_over_grpc() {
    endpoint("grpc").await;
}

#[tokio::test]
async fn the_service_client_cannot_predict_with_an_ingest_token() {
    let expected = json!({"predictions": 1, "model_version": "3"});
    check("client", "rest", "PredictionService.Predict", expected.clone()).await;
    check("client", "grpc", "PredictionService.Predict", expected).await;
}

#[tokio::test]
async fn the_beta_client_gets_the_same_decisions() {
    let expected = json!({"predictions": 1, "model_version": "3"});
    check("beta", "rest", "PredictionService.Predict", expected.clone()).await;
    check("beta", "grpc", "PredictionService.Predict", expected).await;
}

#[tokio::test]
async fn raw_predict_streams_over_grpc() {
    let body = json!([{"horizon": 2, "input": [1.0, 2.0, 3.0, 4.0]}]);
    let gate = Harness::new().await.start().await;
    let answer = ask(&gate, "raw", "grpc", "infer").await;
    let pieces: Vec<Value> = answer["pieces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| serde_json::from_str(p.as_str().unwrap()).unwrap())
        .collect();
    assert_eq!(pieces, [body.clone(), body], "{answer}");
    let answer = ask(&gate, "raw", "grpc", "train").await;
    assert_eq!((&answer["refused"], &answer["status"]), (&"PermissionDenied".into(), &"PERMISSION_DENIED".into()));
}

#[tokio::test]
async fn a_stream_of_responses_arrives_whole_over_grpc() {
    check("server", "grpc", "PredictionService.ServerStreamingPredict", json!({"pieces": [[1], [1], [1]]})).await;
}

#[tokio::test]
async fn bidirectional_streams_are_permitted_or_refused_as_one() {
    check("bidi", "grpc", "PredictionService.StreamingPredict", json!({"pieces": [[1], [2]]})).await;
}

#[tokio::test]
async fn generated_content_streams_over_grpc() {
    let expected = json!({"pieces": ["the season ", "goes ", "on"]});
    check("generate", "grpc", "PredictionService.StreamGenerateContent", expected).await;
}

#[tokio::test]
async fn the_demo_model_forecasts_over_grpc() {
    let [at, admin] = [free_address(), free_address()];
    let directory = Directory::temporary().await.unwrap();
    let environment = Environment::start(directory, Ports { gate: at.port(), admin: admin.port() }).await.unwrap();
    let config = environment.directory.join("wicketgate.toml");
    let mut command = wicketgate(&["serve", "--config"]);
    command.arg(&config).current_dir(environment.directory.path());
    let _gate = Program::start("the demo's gate", &mut command, "build it first");
    listening("the demo's gate", admin).await;
    eventually("the demo's gate to be ready", || async {
        let door = Connector { address: admin, tls: None };
        (Call::new(door, Method::GET, "/readyz").send().await.status == 200).then_some(())
    })
    .await;

    let address = format!("localhost:{}", at.port());
    let ca = environment.directory.join("certs/ca.pem");
    let instances = json!([{"input": [4, 4, 4, 4], "horizon": 2}]).to_string();
    for (role, expected) in [("infer", json!([4.0, 4.0])), ("ingest", Value::Null)] {
        let token = environment.token(role).unwrap();
        let asked = ["endpoint", "grpc", &address, &token, PROJECT, LOCATION, ENDPOINT, &instances];
        let answer = vertex_sdk("predict.py", &ca, &asked).await;
        assert_eq!(answer["predictions"][0]["mean"], expected, "{role}: {answer}");
        assert_eq!(answer["refused"] == "PermissionDenied", role == "ingest", "{answer}");
    }
    let path = environment.directory.path().to_owned();
    environment.stop().await;
    std::fs::remove_dir_all(path).unwrap();
}
